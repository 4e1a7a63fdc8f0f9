/* Recordings of the boundary made byte by byte, with what no recorder would write. */
#ifndef ST_TESTS_RECORD_BYTES_H
#define ST_TESTS_RECORD_BYTES_H

#include "engine/record.h"
#include "expect.h"

#include <stdio.h>
#include <string.h>

static inline void put32(struct st_buf *b, uint32_t v)
{
    st_buf_add(b, &v, sizeof v);
}

static inline void put64(struct st_buf *b, uint64_t v)
{
    st_buf_add(b, &v, sizeof v);
}

static inline void put_file_head(struct st_buf *b)
{
    st_buf_add_str(b, "STRECORD");
    put32(b, ST_RECORD_VERSION);
    put32(b, 0);
}

/* One exchange of n_row rows that left; f32 values, all zero. */
static inline void put_entry(struct st_buf *b, uint64_t id, int layer, const char *roles, uint32_t n_row, uint32_t n_in)
{
    char name[ST_RECORD_ROLES] = {0};
    size_t at = b->len, len = (size_t)n_row * n_in * 4;
    snprintf(name, sizeof name, "%s", roles);
    put32(b, ST_RECORD_OUT);
    put32(b, ST_EXPOSED_F32);
    put64(b, id);
    put32(b, (uint32_t)layer);
    put32(b, (uint32_t)-1);
    put32(b, n_row);
    put32(b, n_in);
    put32(b, 64);
    put32(b, 0);
    put64(b, len);
    put64(b, at); /* nanoseconds */
    st_buf_add(b, name, sizeof name);
    assert_int_equal(b->len - at, ST_RECORD_HEAD);
    memset(st_buf_room(b, len), 0, len);
}

#endif

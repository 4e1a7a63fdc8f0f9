/* Published test vectors: JSON files of hexadecimal strings, from tests/vectors or from the shared data. */
#ifndef ST_TESTS_VECTORS_H
#define ST_TESTS_VECTORS_H

#include "crypto/digest.h"
#include "expect.h"
#include "text/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The file `name` of the shared data's vectors, NULL (and a line that says so) when it is not here. */
static inline json_t *vectors_shared(const char *name)
{
    char path[512];
    struct st_err e;
    json_t *out = NULL;
    const char *shared = getenv("SOTTO_SHARED");
    snprintf(path, sizeof path, "%s/data/vectors/%s", shared ? shared : "../shared", name);
    FILE *f = fopen(path, "r");
    if (!f) {
        print_message("skipped: %s is not here (SOTTO_SHARED)\n", name);
        return NULL;
    }
    fclose(f);
    assert_ok(st_json_read_file(path, 1 << 20, &out, &e), &e);
    return out;
}

static inline json_t *vectors_own(const char *name)
{
    char path[512];
    struct st_err e;
    json_t *out = NULL;
    snprintf(path, sizeof path, "tests/vectors/%s", name);
    assert_ok(st_json_read_file(path, 1 << 20, &out, &e), &e);
    return out;
}

struct bytes {
    uint8_t p[2048];
    size_t len;
};

static inline struct bytes bytes_hex(const char *hex)
{
    struct bytes b = {.len = strlen(hex) / 2};
    struct st_err e;
    assert_true(b.len <= sizeof b.p);
    assert_ok(st_unhex(hex, strlen(hex), b.p, b.len, "vector", &e), &e);
    return b;
}

static inline struct bytes bytes_field(const json_t *o, const char *key)
{
    const char *hex = json_string_value(json_object_get(o, key));
    if (!hex)
        fail_msg("vector without %s", key);
    return bytes_hex(hex);
}

/* A number, or a string that holds one. */
static inline unsigned vector_number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_integer(v) ? (unsigned)json_integer_value(v) : (unsigned)strtoul(json_string_value(v), NULL, 10);
}

static inline void assert_bytes(const void *p, size_t len, struct bytes want)
{
    assert_int_equal(len, want.len);
    assert_memory_equal(p, want.p, want.len);
}

#endif

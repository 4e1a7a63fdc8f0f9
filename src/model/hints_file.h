/* The format of hints files (hints.h) for its reader and its writer. */
#ifndef ST_MODEL_HINTS_FILE_H
#define ST_MODEL_HINTS_FILE_H

#include "model/plan.h"

#include <stddef.h>
#include <stdint.h>

#define ST_HINTS_MAGIC "STHINTS" /* with its end: 8 bytes */
#define ST_HINTS_VERSION 1
#define ST_HINTS_NAME (ST_PLAN_NAME + 2)
#define ST_HINTS_SIDE_MAX (1u << 24)
/* Bytes of a matrix in the table: a name of one byte, sizes, offset, hash. */
#define ST_HINTS_ENTRY_MIN (4u + 1 + 4 + 4 + 8 + 32)

/* Bytes of one column. */
static inline size_t st_hints_record(uint32_t m)
{
    return 8 + (size_t)m * 4;
}

static inline uint64_t st_hints_align(uint64_t at)
{
    return (at + 63) & ~(uint64_t)63;
}

#endif

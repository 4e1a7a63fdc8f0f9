#include "protect/covariant/out_split.h"
#include "protect/covariant/out_cast.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static size_t n_value(const struct st_cov_split *s)
{
    return (size_t)s->n_head * (s->nope + s->v) * s->rank;
}

int st_cov_split_take(const struct st_cov_out_tensor *t, uint64_t at, const void *p, size_t len, struct st_err *e)
{
    static pthread_mutex_t first = PTHREAD_MUTEX_INITIALIZER;
    struct st_cov_split *s = t->split;
    int rc = 0;
    pthread_mutex_lock(&first);
    if (!s->all)
        rc = st_alloc(&s->all, n_value(s), sizeof *s->all, t->name, e);
    pthread_mutex_unlock(&first);
    if (!rc)
        memcpy((uint8_t *)s->all + at, p, len);
    return rc;
}

/* One head's part, rows [n_row, n_col], cast and written at its place in the part. */
static int put(const struct st_cov_out *o, const struct st_cov_out_tensor *part, const float *rows, size_t n,
               uint32_t head, void *raw, struct st_err *e)
{
    uint64_t len = st_cov_out_bytes(part, n);
    st_cov_out_cast(part, rows, n, raw);
    return st_cov_out_write(o, part, head * len, raw, len, e);
}

static int put_head(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint32_t head, float *turned,
                    void *raw, struct st_err *e)
{
    const struct st_cov_split *s = t->split;
    const float *rows = s->all + (size_t)head * (s->nope + s->v) * s->rank;
    struct st_cov_out_tensor key = s->key, value = s->value;
    key.at = t->at;
    value.at = s->at;
    key.shard = value.shard = t->shard;
    for (uint32_t i = 0; i < s->nope; i++)
        for (uint32_t c = 0; c < s->rank; c++)
            turned[(size_t)c * s->nope + i] = rows[(size_t)i * s->rank + c];
    int rc = put(o, &key, turned, (size_t)s->nope * s->rank, head, raw, e);
    return rc ? rc : put(o, &value, rows + (size_t)s->nope * s->rank, (size_t)s->v * s->rank, head, raw, e);
}

int st_cov_split_flush(const struct st_cov_out *o, const struct st_cov_out_tensor *t, struct st_err *e)
{
    struct st_cov_split *s = t->split;
    size_t n = (size_t)(s->nope > s->v ? s->nope : s->v) * s->rank;
    float *turned = NULL;
    void *raw = NULL;
    int rc = st_alloc(&turned, n, sizeof *turned, t->name, e);
    if (!rc)
        rc = st_alloc(&raw, n, sizeof *turned, t->name, e);
    for (uint32_t head = 0; !rc && head < s->n_head; head++)
        rc = put_head(o, t, head, turned, raw, e);
    free(turned);
    free(raw);
    free(s->all);
    s->all = NULL;
    return rc;
}

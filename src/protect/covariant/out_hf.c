/* Safetensors: the headers, the shards and their index. */
#include "protect/covariant/out.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void shard_name(char *out, size_t cap, int i, int n)
{
    if (n == 1)
        snprintf(out, cap, "model.safetensors");
    else
        snprintf(out, cap, "model-%05d-of-%05d.safetensors", i + 1, n);
}

/* Wide types first: then every tensor of the file is aligned to its own type. */
static int by_width(const void *a, const void *b)
{
    const struct st_cov_out_tensor *x = *(struct st_cov_out_tensor *const *)a,
                                   *y = *(struct st_cov_out_tensor *const *)b;
    size_t wx = st_dtype_size(x->dtype), wy = st_dtype_size(y->dtype);
    return wx != wy ? (wx < wy ? 1 : -1) : x->shard - y->shard;
}

/* Greedy; `at` counts from the first data byte until the header's length is known. Returns the number of shards. */
static int assign(struct st_cov_out_tensor **t, int n, uint64_t shard_bytes)
{
    int shard = 0;
    uint64_t at = 0;
    for (int i = 0; i < n; i++)
        t[i]->shard = i; /* the order given, for the stable sort */
    qsort(t, (size_t)n, sizeof *t, by_width);
    for (int i = 0; i < n; i++) {
        t[i]->bytes = st_cov_out_bytes(t[i], (uint64_t)t[i]->dim[0] * (t[i]->n_dim == 2 ? t[i]->dim[1] : 1));
        if (at && at + t[i]->bytes > shard_bytes) {
            shard++;
            at = 0;
        }
        t[i]->shard = shard;
        t[i]->at = at;
        at += t[i]->bytes;
    }
    return shard + 1;
}

static const char *dtype_word(enum st_dtype t)
{
    return t == ST_DTYPE_F32 ? "F32" : t == ST_DTYPE_F16 ? "F16" : "BF16";
}

/* u64 length, JSON, spaces up to a multiple of 64 so that data starts on a cache line. Adds its length to the tensors'
 * `at`. */
static int shard_header(struct st_cov_out_tensor **t, int n, int shard, struct st_buf *b, uint64_t *total,
                        struct st_err *e)
{
    uint8_t len[8] = {0};
    *total = 0;
    st_buf_add(b, len, sizeof len);
    st_buf_add_str(b, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        if (t[i]->shard != shard)
            continue;
        st_buf_add_str(b, ",");
        st_json_quote(b, t[i]->name, strlen(t[i]->name));
        st_buf_addf(b, ":{\"dtype\":\"%s\",\"shape\":[%u", dtype_word(t[i]->dtype), t[i]->dim[0]);
        if (t[i]->n_dim == 2)
            st_buf_addf(b, ",%u", t[i]->dim[1]);
        st_buf_addf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t[i]->at, t[i]->at + t[i]->bytes);
        *total = t[i]->at + t[i]->bytes;
    }
    st_buf_add_str(b, "}");
    while (!b->failed && b->len % 64)
        st_buf_add_str(b, " ");
    if (b->failed)
        return st_fail(e, ST_MEMORY, "safetensors header: out of memory");
    for (int i = 0; i < 8; i++)
        b->p[i] = (char)((b->len - 8) >> (8 * i));
    for (int i = 0; i < n; i++)
        if (t[i]->shard == shard)
            t[i]->at += b->len;
    *total += b->len;
    return 0;
}

static int write_index(const struct st_cov_out *o, struct st_cov_out_tensor *const *t, int n, struct st_err *e)
{
    struct st_buf b = {0};
    uint64_t total = 0;
    for (int i = 0; i < n; i++)
        total += t[i]->bytes;
    st_buf_addf(&b, "{\"metadata\": {\"total_size\": %" PRIu64 "}, \"weight_map\": {", total);
    for (int i = 0; i < n; i++) {
        char name[64];
        shard_name(name, sizeof name, t[i]->shard, o->n_shard);
        st_buf_add_str(&b, i ? ",\n" : "\n");
        st_json_quote(&b, t[i]->name, strlen(t[i]->name));
        st_buf_addf(&b, ": \"%s\"", name);
    }
    st_buf_add_str(&b, "\n}}\n");
    int rc = b.failed ? st_fail(e, ST_MEMORY, "safetensors index: out of memory")
                      : st_cov_out_file(o, "model.safetensors.index.json", b.p, b.len, e);
    st_buf_free(&b);
    return rc;
}

int st_cov_out_plan(struct st_cov_out *o, struct st_cov_out_tensor **t, int n, uint64_t shard_bytes, struct st_err *e)
{
    int n_shard = assign(t, n, shard_bytes);
    int rc = st_cov_out_make_dir(o, e);
    if (!rc)
        rc = st_alloc(&o->fd, (size_t)n_shard, sizeof *o->fd, "weight files", e);
    for (int s = 0; !rc && s < n_shard; s++) {
        struct st_buf header = {0};
        char name[64];
        uint64_t total;
        shard_name(name, sizeof name, s, n_shard);
        rc = shard_header(t, n, s, &header, &total, e);
        if (!rc)
            rc = st_cov_out_make_file(o, name, &header, total, e);
        st_buf_free(&header);
    }
    if (!rc && n_shard > 1)
        rc = write_index(o, t, n, e);
    return rc;
}

#include "audit/sealed_view.h"
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#define NONCE 12 /* stands before the ciphertext of a segment (docs/sealed.md) */

static int copy_segment(const struct st_container *c, const struct st_container_entry *n, uint32_t k, uint8_t *piece,
                        size_t room, float *out, size_t *n_value, struct st_err *e)
{
    size_t skip = n->place == ST_CONTAINER_INSIDE ? NONCE : 0, size = st_dtype_size(n->tensor.dtype);
    struct st_span s = st_container_segment(c, n, k);
    uint32_t bytes = st_container_segment_bytes(n, k);
    *n_value = bytes / size;
    if (*n_value > room || bytes > n->segment_bytes || s.len < skip + bytes)
        return st_fail(e, ST_INPUT, "%s: segment %u is longer than its tensor", n->tensor.name, k);
    memcpy(piece, s.p + skip, bytes);
    st_convert(n->tensor.dtype, piece, ST_DTYPE_F32, out, *n_value);
    for (size_t i = 0; i < *n_value; i++)
        out[i] = isfinite(out[i]) ? out[i] : 0;
    return 0;
}

int st_sealed_values(const struct st_container *c, const struct st_container_entry *n, size_t count, float *out,
                     struct st_err *e)
{
    uint8_t *piece;
    size_t at = 0, got;
    int rc = 0;
    if (n->is_file || n->tensor.dtype > ST_DTYPE_BF16)
        return st_fail(e, ST_UNSUPPORTED, "%s: %s is no dtype of weights", n->tensor.name, n->tensor.stored);
    if (st_alloc(&piece, n->segment_bytes ? n->segment_bytes : 1, 1, "a sealed segment", e))
        return e->code;
    for (uint32_t k = 0; !rc && k < n->n_segment; k++) {
        rc = copy_segment(c, n, k, piece, count - at, out + at, &got, e);
        at += rc ? 0 : got;
    }
    if (!rc && at != count)
        rc = st_fail(e, ST_INPUT, "%s: %zu values, want %zu", n->tensor.name, at, count);
    free(piece);
    return rc;
}

int st_sealed_entry(const struct st_target *t, const struct st_plan_weight *w, const struct st_container_entry **out,
                    struct st_err *e)
{
    *out = NULL;
    if (w->tied_to >= 0)
        return 0;
    *out = st_container_find(t->container, w->name);
    return *out
               ? 0
               : st_fail(e, ST_INPUT, "%s: %s: missing, but the base has it", st_container_path(t->container), w->name);
}

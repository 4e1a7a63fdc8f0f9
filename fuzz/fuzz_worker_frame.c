/* Any bytes as a frame of the worker protocol, read by the end that receives its type: refused, or what was read lies
 * within the frame and is written back as the same bytes. */
#include "net/worker_frame.h"

#include <stdlib.h>
#include <string.h>

#define M 3 /* coefficients of a hint's column */

static void inside(struct st_span part, struct st_span whole)
{
    if (part.p < whole.p || part.len > whole.len || part.p + part.len != whole.p + whole.len)
        abort();
}

/* A receiver that asks for as many bytes as it needs comes to the same. */
static void in_pieces(struct st_span p, const struct st_worker_multiply *want, int want_rc)
{
    struct st_worker_multiply m;
    struct st_err e;
    size_t have = 0, need = 0;
    int rc = 0;
    do {
        have = need;
        uint8_t *piece = malloc(have ? have : 1);
        if (!piece || have > p.len)
            abort();
        memcpy(piece, p.p, have);
        rc = st_worker_multiply_begin((struct st_span){piece, have}, p.len, &m, &need, &e);
        free(piece);
    } while (!rc && need > have);
    if (rc != want_rc || (!rc && (m.n_row != want->n_row || m.rows.len != want->rows.len)))
        abort();
}

/* Parses and writes again into b; the rows or values of large frames are appended as they are. */
static int both_ways(const struct st_worker_head *h, struct st_span p, struct st_buf *b, struct st_err *e)
{
    uint8_t digest[32];
    struct st_worker_welcome w;
    struct st_worker_multiply m;
    struct st_worker_pair pair;
    struct st_worker_product r;
    struct st_worker_hint hint;
    struct st_worker_failure f;
    struct st_span tail = {0};
    int rc;
    switch (h->type) {
    case ST_WORKER_HELLO:
        if (!(rc = st_worker_hello_parse(p, digest, e)))
            st_worker_hello_add(b, digest);
        return rc;
    case ST_WORKER_WELCOME:
        if (!(rc = st_worker_welcome_parse(p, &w, e))) {
            st_worker_welcome_add(b, &w);
            free(w.weights);
        }
        return rc;
    case ST_WORKER_MULTIPLY:
        if (!(rc = st_worker_multiply_parse(p, &m, e)))
            st_worker_multiply_add(b, h->id, &m, (tail = m.rows).len);
        in_pieces(p, &m, rc);
        break;
    case ST_WORKER_PAIR:
        if (!(rc = st_worker_pair_parse(p, &pair, e))) {
            st_worker_pair_add(b, h->id, &pair);
            tail = pair.rows;
        }
        break;
    case ST_WORKER_PRODUCT:
        if (!(rc = st_worker_product_parse(p, &r, e)))
            st_worker_product_add(b, h->id, &r, (tail = r.values).len);
        break;
    case ST_WORKER_HINT:
        if (!(rc = st_worker_hint_parse(p, &hint, e)))
            st_worker_hint_add(b, h->id, &hint);
        return rc;
    case ST_WORKER_COLUMNS:
        if (!(rc = st_worker_columns_parse(p, M, &hint, &tail, e)))
            st_worker_columns_add(b, h->id, &hint, tail.len);
        break;
    case ST_WORKER_CHALLENGE:
        if (!(rc = st_worker_challenge_parse(p, digest, e)))
            st_worker_challenge_add(b, digest);
        return rc;
    case ST_WORKER_EVIDENCE:
        if (!(rc = st_worker_evidence_parse(p, e)))
            st_worker_evidence_add(b, p);
        return rc;
    case ST_WORKER_ADMITTED:
        if (!(rc = st_worker_admitted_parse(p, e)))
            st_worker_admitted_add(b);
        return rc;
    default:
        if (!(rc = st_worker_failure_parse(p, &f, e)))
            st_worker_failure_add(b, h->id, f.code, f.text);
        return rc;
    }
    if (!rc) {
        inside(tail, p);
        st_buf_add(b, tail.p, tail.len);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_err e = {0};
    struct st_worker_head h;
    struct st_buf b = {0};
    if (size < ST_WORKER_HEAD)
        return 0;
    size_t len = size - ST_WORKER_HEAD;
    uint8_t *payload = malloc(len ? len : 1); /* of its own, so that a read behind it shows */
    if (!payload)
        abort();
    memcpy(payload, data + ST_WORKER_HEAD, len);
    int rc = st_worker_head_parse(data, len, &h, &e);
    if (rc && rc != ST_INPUT && rc != ST_UNSUPPORTED)
        abort();
    if (!rc) {
        struct st_span p = {payload, (size_t)h.len};
        rc = both_ways(&h, p, &b, &e);
        if (rc && rc != ST_INPUT)
            abort();
        bool rewritten = h.type == ST_WORKER_FAILURE; /* control characters */
        if (!rc && (b.len != ST_WORKER_HEAD + p.len || (!rewritten && memcmp(b.p + ST_WORKER_HEAD, p.p, p.len) != 0)))
            abort();
    }
    st_buf_free(&b);
    free(payload);
    return 0;
}

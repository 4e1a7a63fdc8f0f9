#include "net/worker_frame.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are copied as they stand");

static const char magic[8] = {'S', 'T', 'W', 'O', 'R', 'K', 'E', 'R'};

/* What is left of a payload. */
struct reader {
    const uint8_t *p;
    size_t len;
    struct st_err *e;
};

static const uint8_t *take_bytes(struct reader *r, size_t n, const char *field)
{
    const uint8_t *p = r->p;
    if (r->len < n) {
        st_fail(r->e, ST_INPUT, "%s: want %zu more bytes, the frame has %zu", field, n, r->len);
        return NULL;
    }
    r->p += n;
    r->len -= n;
    return p;
}

static int take_u32(struct reader *r, const char *field, uint32_t min, uint32_t max, uint32_t *out)
{
    const uint8_t *p = take_bytes(r, 4, field);
    if (!p)
        return r->e->code;
    memcpy(out, p, 4);
    if (*out < min || *out > max)
        return st_fail(r->e, ST_INPUT, "%s: want %" PRIu32 "..%" PRIu32 ", got %" PRIu32, field, min, max, *out);
    return 0;
}

/* Fewer than cap bytes of printable ASCII, since terminals, logs and JSON show them: an 8-bit control character moves
 * cursors as well as others do. What is not that is refused, or replaced when the text is only to be shown. */
static int take_text(struct reader *r, const char *field, size_t cap, bool shown, char *out)
{
    uint32_t n = 0;
    if (take_u32(r, field, 0, (uint32_t)cap - 1, &n))
        return r->e->code;
    const uint8_t *p = take_bytes(r, n, field);
    if (!p)
        return r->e->code;
    for (uint32_t i = 0; i < n; i++) {
        bool printable = p[i] >= 0x20 && p[i] < 0x7f;
        if (!printable && !shown)
            return st_fail(r->e, ST_INPUT, "%s: has a character that is no printable ASCII", field);
        out[i] = printable ? (char)p[i] : '?';
    }
    out[n] = 0;
    return 0;
}

static int take_end(const struct reader *r, const char *frame)
{
    return r->len ? st_fail(r->e, ST_INPUT, "%s: %zu bytes too many", frame, r->len) : 0;
}

/* The rest of the payload: n_row rows of whole 32-bit values, at least one value each. */
static int take_rows(struct reader *r, const char *field, uint32_t n_row, struct st_span *out)
{
    if (r->len == 0 || r->len % ((uint64_t)n_row * 4))
        return st_fail(r->e, ST_INPUT, "%s: want %" PRIu32 " rows of 32-bit values, got %zu bytes", field, n_row,
                       r->len);
    *out = (struct st_span){r->p, r->len};
    return 0;
}

int st_worker_head_parse(const uint8_t p[ST_WORKER_HEAD], uint64_t max, struct st_worker_head *out, struct st_err *e)
{
    uint32_t version, type;
    if (memcmp(p, magic, sizeof magic) != 0)
        return st_fail(e, ST_INPUT, "not a frame of the worker protocol");
    memcpy(&version, p + 8, 4);
    memcpy(&type, p + 12, 4);
    memcpy(&out->id, p + 16, 8);
    memcpy(&out->len, p + 24, 8);
    if (version != ST_WORKER_VERSION)
        return st_fail(e, ST_UNSUPPORTED, "worker protocol version %" PRIu32 "; this side has %u", version,
                       ST_WORKER_VERSION);
    if (type < ST_WORKER_HELLO || type >= ST_WORKER_TYPES)
        return st_fail(e, ST_INPUT, "frame of unknown type %" PRIu32, type);
    if (out->len > max)
        return st_fail(e, ST_INPUT, "oversized frame: %" PRIu64 " bytes, at most %" PRIu64, out->len, max);
    out->type = (enum st_worker_type)type;
    return 0;
}

void st_worker_head_write(uint8_t p[ST_WORKER_HEAD], const struct st_worker_head *h)
{
    const uint32_t version = ST_WORKER_VERSION, type = h->type;
    memcpy(p, magic, sizeof magic);
    memcpy(p + 8, &version, 4);
    memcpy(p + 12, &type, 4);
    memcpy(p + 16, &h->id, 8);
    memcpy(p + 24, &h->len, 8);
}

int st_worker_hello_parse(struct st_span p, uint8_t digest[32], struct st_err *e)
{
    struct reader r = {p.p, p.len, e};
    const uint8_t *from = take_bytes(&r, 32, "HELLO digest");
    uint32_t reserved;
    if (!from || take_u32(&r, "HELLO reserved", 0, 0, &reserved) || take_end(&r, "HELLO"))
        return e->code;
    memcpy(digest, from, 32);
    return 0;
}

static int take_weight(struct reader *r, struct st_worker_weight *w)
{
    uint32_t expert = 0;
    if (take_text(r, "WELCOME weight name", sizeof w->name, false, w->name))
        return r->e->code;
    if (!w->name[0])
        return st_fail(r->e, ST_INPUT, "WELCOME weight name: is empty");
    if (take_u32(r, "WELCOME n_out", 1, INT32_MAX, &w->n_out) || take_u32(r, "WELCOME n_in", 1, INT32_MAX, &w->n_in) ||
        take_u32(r, "WELCOME is expert", 0, 1, &expert))
        return r->e->code;
    w->expert = expert;
    return 0;
}

int st_worker_welcome_parse(struct st_span p, struct st_worker_welcome *out, struct st_err *e)
{
    struct reader r = {p.p, p.len, e};
    const uint8_t *digest = take_bytes(&r, 32, "WELCOME digest"), *max_payload = NULL;
    *out = (struct st_worker_welcome){0};
    if (!digest || take_u32(&r, "WELCOME max rows", 1, INT32_MAX, &out->max_row) ||
        take_u32(&r, "WELCOME flags", 0, UINT32_MAX, &out->flags) ||
        !(max_payload = take_bytes(&r, 8, "WELCOME max payload")) ||
        take_text(&r, "WELCOME parameter set", sizeof out->params, false, out->params) ||
        take_u32(&r, "WELCOME number of weights", 1, ST_WORKER_MAX_WEIGHTS, &out->n))
        return e->code;
    memcpy(out->digest, digest, 32);
    memcpy(&out->max_payload, max_payload, 8);
    if (out->max_payload > ST_WORKER_MAX_PAYLOAD)
        return st_fail(e, ST_INPUT, "WELCOME max payload: want at most %u, got %" PRIu64, ST_WORKER_MAX_PAYLOAD,
                       out->max_payload);
    /* Memory for as many as the frame can hold: a name of one letter and three numbers each. */
    if (out->n > r.len / 17)
        return st_fail(e, ST_INPUT, "WELCOME number of weights: %" PRIu32 " in %zu bytes", out->n, r.len);
    if (st_alloc(&out->weights, out->n, sizeof *out->weights, "the worker's list of weights", e))
        return e->code;
    int rc = 0;
    for (uint32_t i = 0; i < out->n && !rc; i++)
        rc = take_weight(&r, &out->weights[i]);
    if (!rc)
        rc = take_end(&r, "WELCOME");
    if (rc) {
        free(out->weights);
        out->weights = NULL;
    }
    return rc;
}

static int take_format(struct reader *r, const char *field, enum st_worker_format *out)
{
    uint32_t format = 0;
    if (take_u32(r, field, ST_WORKER_FIELD, ST_WORKER_OUTPUTS, &format))
        return r->e->code;
    *out = (enum st_worker_format)format;
    return 0;
}

int st_worker_multiply_begin(struct st_span p, uint64_t len, struct st_worker_multiply *out, size_t *need,
                             struct st_err *e)
{
    struct reader r = {p.p, p.len, e};
    *out = (struct st_worker_multiply){0};
    *need = 12;
    if (len >= *need && p.len < *need)
        return 0;
    if (take_format(&r, "MULTIPLY format", &out->format) || take_u32(&r, "MULTIPLY rows", 1, INT32_MAX, &out->n_row) ||
        take_u32(&r, "MULTIPLY number of weights", 1, ST_WORKER_MAX_GROUP, &out->n_weight))
        return e->code;
    *need += 4 * (size_t)out->n_weight;
    if (len >= *need && p.len < *need)
        return 0;
    for (uint32_t i = 0; i < out->n_weight; i++)
        if (take_u32(&r, "MULTIPLY weight", 0, ST_WORKER_MAX_WEIGHTS - 1, &out->weights[i]))
            return e->code;
    r.len = (size_t)(len - *need);
    return take_rows(&r, "MULTIPLY rows", out->n_row, &out->rows);
}

int st_worker_multiply_parse(struct st_span p, struct st_worker_multiply *out, struct st_err *e)
{
    size_t need;
    return st_worker_multiply_begin(p, p.len, out, &need, e);
}

int st_worker_pair_begin(struct st_span p, uint64_t len, struct st_worker_pair *out, struct st_err *e)
{
    struct reader r = {p.p, p.len, e};
    *out = (struct st_worker_pair){0};
    if (take_u32(&r, "PAIR rows of the first matrix", 1, ST_WORKER_PAIR_ROWS, &out->n_a) ||
        take_u32(&r, "PAIR rows of the second matrix", 1, ST_WORKER_PAIR_ROWS, &out->n_b) ||
        take_u32(&r, "PAIR values of a row", 1, ST_WORKER_PAIR_INNER, &out->n_inner))
        return e->code;
    uint64_t want = 4 * (uint64_t)(out->n_a + out->n_b) * out->n_inner;
    if (len - 12 != want)
        return st_fail(e, ST_INPUT, "PAIR: want %" PRIu64 " bytes of rows, got %" PRIu64, want, len - 12);
    out->rows = (struct st_span){r.p, (size_t)want};
    return 0;
}

int st_worker_pair_parse(struct st_span p, struct st_worker_pair *out, struct st_err *e)
{
    return st_worker_pair_begin(p, p.len, out, e);
}

int st_worker_product_parse(struct st_span p, struct st_worker_product *out, struct st_err *e)
{
    struct reader r = {p.p, p.len, e};
    *out = (struct st_worker_product){0};
    if (take_format(&r, "PRODUCT format", &out->format) || take_u32(&r, "PRODUCT rows", 1, INT32_MAX, &out->n_row) ||
        take_u32(&r, "PRODUCT number of weights", 1, ST_WORKER_MAX_GROUP, &out->n_weight) ||
        take_u32(&r, "PRODUCT time", 0, UINT32_MAX, &out->work_us))
        return e->code;
    return take_rows(&r, "PRODUCT values", out->n_row, &out->values);
}

static int take_range(struct reader *r, const char *frame, struct st_worker_hint *out)
{
    char field[32];
    snprintf(field, sizeof field, "%s weight", frame);
    if (take_u32(r, field, 0, ST_WORKER_MAX_WEIGHTS - 1, &out->weight))
        return r->e->code;
    snprintf(field, sizeof field, "%s first column", frame);
    if (take_u32(r, field, 0, INT32_MAX, &out->first))
        return r->e->code;
    snprintf(field, sizeof field, "%s columns", frame);
    return take_u32(r, field, 1, INT32_MAX, &out->n);
}

int st_worker_hint_parse(struct st_span p, struct st_worker_hint *out, struct st_err *e)
{
    struct reader r = {p.p, p.len, e};
    return take_range(&r, "HINT", out) ? e->code : take_end(&r, "HINT");
}

int st_worker_columns_parse(struct st_span p, uint32_t m, struct st_worker_hint *out, struct st_span *records,
                            struct st_err *e)
{
    struct reader r = {p.p, p.len, e};
    if (take_range(&r, "COLUMNS", out))
        return e->code;
    uint64_t want = out->n * ST_WORKER_COLUMN(m); /* < 2^31 * 2^35 */
    if (r.len != want)
        return st_fail(e, ST_INPUT, "COLUMNS: want %" PRIu64 " bytes for %" PRIu32 " columns, got %zu", want, out->n,
                       r.len);
    *records = (struct st_span){r.p, r.len};
    return 0;
}

int st_worker_failure_parse(struct st_span p, struct st_worker_failure *out, struct st_err *e)
{
    struct reader r = {p.p, p.len, e};
    uint32_t code = 0;
    if (take_u32(&r, "FAILURE code", ST_INTERNAL, ST_MEMORY, &code) ||
        take_text(&r, "FAILURE text", sizeof out->text, true, out->text) || take_end(&r, "FAILURE"))
        return e->code;
    out->code = (int)code;
    return 0;
}

int st_worker_challenge_parse(struct st_span p, uint8_t nonce[ST_WORKER_NONCE], struct st_err *e)
{
    struct reader r = {p.p, p.len, e};
    const uint8_t *from = take_bytes(&r, ST_WORKER_NONCE, "CHALLENGE nonce");
    if (!from || take_end(&r, "CHALLENGE"))
        return e->code;
    memcpy(nonce, from, ST_WORKER_NONCE);
    return 0;
}

int st_worker_evidence_parse(struct st_span p, struct st_err *e)
{
    if (p.len < 1 || p.len > ST_WORKER_MAX_EVIDENCE)
        return st_fail(e, ST_INPUT, "EVIDENCE: want 1..%u bytes, got %zu", ST_WORKER_MAX_EVIDENCE, p.len);
    return 0;
}

int st_worker_admitted_parse(struct st_span p, struct st_err *e)
{
    return take_end(&(struct reader){p.p, p.len, e}, "ADMITTED");
}

static void add_u32(struct st_buf *b, uint32_t v)
{
    st_buf_add(b, &v, 4);
}

static void add_text(struct st_buf *b, const char *s, size_t max)
{
    size_t n = strnlen(s, max);
    add_u32(b, (uint32_t)n);
    st_buf_add(b, s, n);
}

static void add_head(struct st_buf *b, enum st_worker_type type, uint64_t id, uint64_t len)
{
    uint8_t head[ST_WORKER_HEAD];
    st_worker_head_write(head, &(struct st_worker_head){type, id, len});
    st_buf_add(b, head, sizeof head);
}

void st_worker_hello_add(struct st_buf *b, const uint8_t digest[32])
{
    add_head(b, ST_WORKER_HELLO, 0, 36);
    st_buf_add(b, digest, 32);
    add_u32(b, 0);
}

void st_worker_welcome_add(struct st_buf *b, const struct st_worker_welcome *w)
{
    const size_t name_max = sizeof w->weights->name - 1;
    uint64_t len = 32 + 4 + 4 + 8 + 4 + strlen(w->params) + 4;
    for (uint32_t i = 0; i < w->n; i++)
        len += 16 + strnlen(w->weights[i].name, name_max);
    add_head(b, ST_WORKER_WELCOME, 0, len);
    st_buf_add(b, w->digest, 32);
    add_u32(b, w->max_row);
    add_u32(b, w->flags);
    st_buf_add(b, &w->max_payload, 8);
    add_text(b, w->params, sizeof w->params - 1);
    add_u32(b, w->n);
    for (uint32_t i = 0; i < w->n; i++) {
        const struct st_worker_weight *one = &w->weights[i];
        add_text(b, one->name, name_max);
        add_u32(b, one->n_out);
        add_u32(b, one->n_in);
        add_u32(b, one->expert);
    }
}

void st_worker_multiply_add(struct st_buf *b, uint64_t id, const struct st_worker_multiply *m, size_t rows_len)
{
    add_head(b, ST_WORKER_MULTIPLY, id, 12 + 4 * (uint64_t)m->n_weight + rows_len);
    add_u32(b, m->format);
    add_u32(b, m->n_row);
    add_u32(b, m->n_weight);
    st_buf_add(b, m->weights, 4 * (size_t)m->n_weight);
}

void st_worker_pair_add(struct st_buf *b, uint64_t id, const struct st_worker_pair *m)
{
    add_head(b, ST_WORKER_PAIR, id, 12 + 4 * (uint64_t)(m->n_a + m->n_b) * m->n_inner);
    add_u32(b, m->n_a);
    add_u32(b, m->n_b);
    add_u32(b, m->n_inner);
}

void st_worker_product_add(struct st_buf *b, uint64_t id, const struct st_worker_product *r, size_t values_len)
{
    add_head(b, ST_WORKER_PRODUCT, id, 16 + (uint64_t)values_len);
    add_u32(b, r->format);
    add_u32(b, r->n_row);
    add_u32(b, r->n_weight);
    add_u32(b, r->work_us);
}

static void add_range(struct st_buf *b, const struct st_worker_hint *h)
{
    add_u32(b, h->weight);
    add_u32(b, h->first);
    add_u32(b, h->n);
}

void st_worker_hint_add(struct st_buf *b, uint64_t id, const struct st_worker_hint *h)
{
    add_head(b, ST_WORKER_HINT, id, 12);
    add_range(b, h);
}

void st_worker_columns_add(struct st_buf *b, uint64_t id, const struct st_worker_hint *h, size_t records_len)
{
    add_head(b, ST_WORKER_COLUMNS, id, 12 + (uint64_t)records_len);
    add_range(b, h);
}

void st_worker_failure_add(struct st_buf *b, uint64_t id, int code, const char *text)
{
    const size_t max = sizeof((struct st_worker_failure *)0)->text - 1;
    add_head(b, ST_WORKER_FAILURE, id, 8 + (uint64_t)strnlen(text, max));
    add_u32(b, code >= ST_INTERNAL && code <= ST_MEMORY ? (uint32_t)code : ST_INTERNAL);
    add_text(b, text, max);
}

void st_worker_challenge_add(struct st_buf *b, const uint8_t nonce[ST_WORKER_NONCE])
{
    add_head(b, ST_WORKER_CHALLENGE, 0, ST_WORKER_NONCE);
    st_buf_add(b, nonce, ST_WORKER_NONCE);
}

void st_worker_evidence_add(struct st_buf *b, struct st_span bundle)
{
    add_head(b, ST_WORKER_EVIDENCE, 0, bundle.len);
    st_buf_add(b, bundle.p, bundle.len);
}

void st_worker_admitted_add(struct st_buf *b)
{
    add_head(b, ST_WORKER_ADMITTED, 0, 0);
}

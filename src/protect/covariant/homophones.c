#include "protect/covariant/homophones.h"
#include "crypto/digest.h"
#include "model/chat.h"
#include "protect/covariant/calibrate.h"

#include <math.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BELOW 30.0   /* logits below the best, where the row is fitted */
#define SPARE 2.0    /* times what that needs */
#define CHECKED 15.0 /* logits below the best, elsewhere */
#define TURNS 1000
#define TAG 32

/* ---- which tokens ---- */

struct counted {
    uint32_t id, n;
};

static int by_count(const void *a, const void *b)
{
    const struct counted *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void count(struct counted *c, uint32_t n_vocab, int64_t id, uint32_t weight)
{
    if (id >= 0 && id < n_vocab)
        c[id].n += weight;
}

/* Ids that stand in every prompt come before all others. */
static int count_fixed(const struct st_model *m, const char *src, struct counted *c, struct st_err *e)
{
    static const struct st_chat_msg hello = {ST_CHAT_USER, "a", 1};
    const uint32_t n = m->config.n_vocab, always = 1u << 30;
    const struct st_chat_template *chat;
    struct st_tokenizer *t = NULL;
    struct st_ids ids = {0};
    struct st_err none;
    count(c, n, m->config.bos, always);
    for (int i = 0; i < m->config.n_eos; i++)
        count(c, n, m->config.eos[i], always);
    /* A source need have neither tokenizer nor template. */
    if (st_tokenizer_open(src, &t, &none) == 0 && st_chat_detect(src, t, &chat, &none) == 0 &&
        st_chat_encode(chat, t, &hello, 1, &ids, &none) == 0)
        for (size_t i = 0; i < ids.len; i++)
            if (ids.p[i] < n && c[ids.p[i]].n < always)
                count(c, n, ids.p[i], always);
    bool failed = ids.failed;
    st_ids_free(&ids);
    st_tokenizer_free(t);
    return failed ? st_fail(e, ST_MEMORY, "homophones: out of memory") : 0;
}

int st_cov_frequent_choose(const struct st_model *m, const char *src, const struct st_cov_opts *o,
                           struct st_cov_frequent *out, struct st_err *e)
{
    const uint32_t n = m->config.n_vocab;
    struct counted *c = NULL;
    struct st_ids ids = {0};
    *out = (struct st_cov_frequent){0};
    int rc = st_cov_calibrate_ids(m, src, o, 0, &ids, e);
    if (!rc)
        rc = st_alloc(&c, n, sizeof *c, "counts", e);
    for (uint32_t i = 0; !rc && i < n; i++)
        c[i].id = i;
    for (size_t i = 0; !rc && i < ids.len; i++)
        count(c, n, ids.p[i], 1);
    if (!rc)
        rc = count_fixed(m, src, c, e);
    if (!rc)
        rc = st_alloc(&out->ids, ST_COV_FREQUENT_MAX, sizeof *out->ids, "frequent tokens", e);
    if (!rc) {
        qsort(c, n, sizeof *c, by_count);
        while (out->n < ST_COV_FREQUENT_MAX && out->n < n && c[out->n].n) {
            out->ids[out->n] = c[out->n].id;
            out->n++;
        }
        qsort(out->ids, out->n, sizeof *out->ids, by_id);
    }
    free(c);
    st_ids_free(&ids);
    return rc;
}

void st_cov_frequent_wipe(struct st_cov_frequent *f)
{
    if (f->ids)
        OPENSSL_cleanse(f->ids, f->n * sizeof *f->ids);
    free(f->ids);
    *f = (struct st_cov_frequent){0};
}

/* ---- the list in the manifest ---- */

/* n bytes of the key's stream "KIND.HEX of in". */
static int derive(const struct st_cov_key *key, const uint8_t digest[32], const char *kind, const uint8_t in[32],
                  uint8_t *out, size_t n, struct st_err *e)
{
    char hex[65], label[96];
    struct st_stream *s;
    st_hex(in, 32, hex);
    snprintf(label, sizeof label, "%s.%s", kind, hex);
    int rc = st_cov_key_stream(key, digest, label, &s, e);
    if (rc)
        return rc;
    st_stream_bytes(s, out, n);
    st_stream_free(s);
    return 0;
}

static int make_tag(const struct st_cov_key *key, const uint8_t digest[32], const uint8_t *bytes, size_t n,
                    uint8_t tag[TAG], struct st_err *e)
{
    uint8_t sum[32];
    st_sha256(bytes, n, sum);
    return derive(key, digest, "frequent tag", sum, tag, TAG, e);
}

int st_cov_frequent_seal(const struct st_cov_frequent *f, const uint8_t model_digest[32], const struct st_cov_key *key,
                         char out[ST_COV_FREQUENT_TEXT], struct st_err *e)
{
    uint8_t b[TAG + 4 * ST_COV_FREQUENT_MAX], pad[4 * ST_COV_FREQUENT_MAX];
    size_t n = 4 * (size_t)f->n;
    for (uint32_t i = 0; i < f->n; i++)
        for (int k = 0; k < 4; k++)
            b[TAG + 4 * i + (uint32_t)k] = (uint8_t)(f->ids[i] >> 8 * k);
    int rc = make_tag(key, model_digest, b + TAG, n, b, e);
    if (!rc)
        rc = derive(key, model_digest, "frequent", b, pad, n, e);
    for (size_t i = 0; !rc && i < n; i++)
        b[TAG + i] ^= pad[i];
    if (!rc)
        st_hex(b, TAG + n, out);
    OPENSSL_cleanse(pad, sizeof pad);
    OPENSSL_cleanse(b, sizeof b);
    return rc;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes of the text, or -1. */
static int from_hex(const char *text, uint8_t *out, size_t max)
{
    size_t n = strlen(text);
    if (n % 2 || n / 2 > max)
        return -1;
    for (size_t i = 0; i < n / 2; i++) {
        int hi = hex_value(text[2 * i]), lo = hex_value(text[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return -1;
        out[i] = (uint8_t)(hi << 4 | lo);
    }
    return (int)(n / 2);
}

int st_cov_frequent_open(const char *text, uint32_t n_vocab, const uint8_t model_digest[32],
                         const struct st_cov_key *key, struct st_cov_frequent *out, struct st_err *e)
{
    uint8_t b[TAG + 4 * ST_COV_FREQUENT_MAX], pad[4 * ST_COV_FREQUENT_MAX], tag[TAG];
    int len = from_hex(text, b, sizeof b);
    *out = (struct st_cov_frequent){0};
    if (len < TAG || len % 4)
        return st_fail(e, ST_INPUT, "manifest: frequent: want hex digits of a sealed list");
    size_t n = (size_t)len - TAG;
    int rc = derive(key, model_digest, "frequent", b, pad, n, e);
    for (size_t i = 0; !rc && i < n; i++)
        b[TAG + i] ^= pad[i];
    if (!rc)
        rc = make_tag(key, model_digest, b + TAG, n, tag, e);
    if (!rc && CRYPTO_memcmp(tag, b, TAG) != 0)
        rc = st_fail(e, ST_VERIFY, "manifest: frequent: was not made from this source with this key");
    if (!rc)
        rc = st_alloc(&out->ids, n / 4, sizeof *out->ids, "frequent tokens", e);
    for (size_t i = 0; !rc && i < n / 4; i++) {
        const uint8_t *p = b + TAG + 4 * i;
        out->ids[i] = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        out->n++;
        if (out->ids[i] >= n_vocab || (i && out->ids[i] <= out->ids[i - 1]))
            rc = st_fail(e, ST_VERIFY, "manifest: frequent: no list of ids");
    }
    if (rc)
        st_cov_frequent_wipe(out);
    OPENSSL_cleanse(pad, sizeof pad);
    OPENSSL_cleanse(b, sizeof b);
    return rc;
}

/* ---- the head row that never wins ---- */

/* Final states of a run, normalised as the head gets them. */
struct states {
    uint32_t d, n_vocab;
    size_t n;           /* positions */
    float *x;           /* [n, d] */
    float *best;        /* [n] largest logit */
    size_t n_x, n_best; /* filled */
};

static void on_op(void *ctx, const struct st_plan_op *op, const float *in, const float *out, uint32_t n_row)
{
    struct states *s = ctx;
    (void)in;
    if (op->role != ST_ROLE_FINAL_NORM)
        return;
    for (uint32_t i = 0; i < n_row && s->n_x < s->n; i++, s->n_x++)
        memcpy(s->x + s->n_x * s->d, out + (size_t)i * s->d, s->d * sizeof *s->x);
}

static void on_logits(void *arg, size_t pos, const float *row)
{
    struct states *s = arg;
    if (pos >= s->n)
        return;
    s->best[pos] = row[0];
    for (uint32_t i = 1; i < s->n_vocab; i++)
        s->best[pos] = fmaxf(s->best[pos], row[i]);
    s->n_best++;
}

static void states_free(struct states *s)
{
    free(s->x);
    free(s->best);
}

static int states_of(const struct st_model *m, const struct st_cov_opts *o, struct st_ids *ids, struct states *s,
                     struct st_err *e)
{
    const struct st_tap tap = {on_op, s};
    *s = (struct states){.d = m->config.d_model, .n_vocab = m->config.n_vocab, .n = ids->len};
    int rc = st_alloc(&s->x, s->n * s->d, sizeof *s->x, "final states", e);
    if (!rc)
        rc = st_alloc(&s->best, s->n, sizeof *s->best, "final states", e);
    if (!rc)
        rc = st_cov_calibrate_run(m, o, ids, (uint32_t)s->n, &tap, on_logits, s, e);
    if (!rc && (s->n_x != s->n || s->n_best != s->n))
        rc = st_fail(e, ST_INTERNAL, "homophones: %zu final states and %zu logits of %zu", s->n_x, s->n_best, s->n);
    return rc;
}

/* <x, w> of state p. */
static double along(const struct states *s, size_t p, const double *w)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->d; i++)
        sum += (double)s->x[p * s->d + i] * w[i];
    return sum;
}

/* w [d]: the unit vector whose least cosine with the states first .. end - 1 is the largest. It is that of the point of
 * their hull (all brought to length 1) that is nearest to the origin; Gilbert's algorithm walks there. */
static int common_direction(const struct states *s, size_t first, size_t end, double *w, struct st_err *e)
{
    double *unit, length = 0;
    int rc = st_alloc(&unit, s->n, sizeof *unit, "final states", e);
    for (size_t p = first; !rc && p < end; p++) {
        double xx = 0;
        for (uint32_t i = 0; i < s->d; i++)
            xx += (double)s->x[p * s->d + i] * (double)s->x[p * s->d + i];
        unit[p] = xx > 0 ? 1 / sqrt(xx) : 0;
    }
    for (int turn = 0; !rc && turn < TURNS; turn++) {
        size_t far = first;
        double least = INFINITY, wd = 0, dd = 0;
        for (size_t p = first; turn && p < end; p++) {
            double a = along(s, p, w) * unit[p];
            if (a < least) {
                least = a;
                far = p;
            }
        }
        const float *x = s->x + far * s->d;
        for (uint32_t i = 0; i < s->d; i++) {
            double d = (double)x[i] * unit[far] - w[i];
            wd += w[i] * d;
            dd += d * d;
        }
        double part = !turn ? 1 : dd > 0 ? fmin(fmax(-wd / dd, 0), 1) : 0;
        if (part < 1e-7)
            break;
        for (uint32_t i = 0; i < s->d; i++)
            w[i] += part * ((double)x[i] * unit[far] - w[i]);
    }
    free(unit);
    for (uint32_t i = 0; !rc && i < s->d; i++)
        length += w[i] * w[i];
    for (uint32_t i = 0; !rc && length > 0 && i < s->d; i++)
        w[i] /= sqrt(length);
    return rc;
}

/* How far -t w stays below the best logit, at the state where that is least. */
static double least_gap(const struct states *s, size_t first, size_t end, const double *w, double t)
{
    double gap = INFINITY;
    for (size_t p = first; p < end; p++)
        gap = fmin(gap, (double)s->best[p] + t * along(s, p, w));
    return gap;
}

/* row from the states of fit before `end`; it must hold for those of check from `first` on too. */
static int point_away(const struct states *fit, size_t end, const struct states *check, size_t first, float *row,
                      struct st_err *e)
{
    double *w, t = 0, gap = -INFINITY;
    int rc = st_alloc(&w, fit->d, sizeof *w, "common direction", e);
    if (!rc)
        rc = common_direction(fit, 0, end, w, e);
    bool common = !rc;
    for (size_t p = 0; common && p < end; p++) {
        double a = along(fit, p, w);
        common = a > 0;
        t = common ? fmax(t, SPARE * (BELOW - (double)fit->best[p]) / a) : t;
    }
    if (common)
        gap = least_gap(check, first, check->n, w, t);
    if (!rc && !(gap >= CHECKED))
        rc = st_fail(e, ST_UNSUPPORTED,
                     "homophones: this model's final states have no direction in common, so no row of the head keeps "
                     "an id from being produced (%g logits below the best are wanted, got %.3g)",
                     CHECKED, gap);
    for (uint32_t i = 0; !rc && i < fit->d; i++)
        row[i] = (float)(-t * w[i]);
    free(w);
    return rc;
}

int st_cov_never_row(const struct st_model *m, const char *src, const struct st_cov_opts *o, float *row,
                     struct st_err *e)
{
    struct states fit = {0}, own = {0};
    struct st_ids ids = {0}, said = {0};
    bool speaks = m->weight_bytes <= ST_COV_SPEAK_BYTES;
    int rc = st_cov_calibrate_ids(m, src, o, ST_COV_CALIBRATE_TOKENS, &ids, e);
    if (!rc)
        rc = states_of(m, o, &ids, &fit, e);
    if (!rc && speaks)
        rc = st_cov_calibrate_own(m, o, &said, e);
    if (!rc && speaks)
        rc = states_of(m, o, &said, &own, e);
    /* Few points in many dimensions always lie on one side: what was found must hold for others. */
    if (!rc)
        rc = speaks ? point_away(&fit, fit.n, &own, 0, row, e) : point_away(&fit, fit.n / 2, &fit, fit.n / 2, row, e);
    states_free(&fit);
    states_free(&own);
    st_ids_free(&ids);
    st_ids_free(&said);
    return rc;
}

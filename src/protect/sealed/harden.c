#include "protect/sealed/harden.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "base/secret.h"
#include "crypto/digest.h"
#include "crypto/stream.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KEY_LEN 32
#define PIECE 512  /* values whose noise is made at a time */
#define STRETCH 64 /* values that are looked at together */
/* Sum of four uniform 16-bit values: mean, and one over the deviation, sqrt(4 (2^32 - 1) / 12). */
#define SUM_MEAN 131070
#define SUM_SCALE 2.6428986e-5f

struct st_harden {
    struct st_harden_opts o;
    struct st_filter filter;
    struct st_secret key; /* of the hash of contexts */
    struct st_stream *noise;
    uint32_t n_vocab;
    float *heap;     /* [top_k] */
    float *original; /* [n_vocab] with measure */
    struct st_harden_stats stats;
    double kl; /* sum */
};

/* The options as text. */

static int read_number(const char *name, const char *text, double min, double max, bool whole, double *out,
                       struct st_err *e)
{
    char *end;
    double v = strtod(text, &end);
    if (strspn(text, "0123456789.e-") != strlen(text) || end == text || *end || !(v >= min && v <= max) ||
        (whole && v != floor(v)))
        return st_fail(e, ST_USAGE, "--harden: %s: want %s from %.10g to %.10g, got '%s'", name,
                       whole ? "a whole number" : "a number", min, max, text);
    *out = v;
    return 0;
}

static int read_field(const char *field, struct st_harden_opts *o, unsigned *seen, struct st_err *e)
{
    static const struct {
        const char *name;
        double min, max;
        bool whole;
    } fields[] = {{"topk", 1, UINT32_MAX, true},
                  {"round", 0, ST_HARDEN_MAX_ROUND, true},
                  {"noise", 0, ST_HARDEN_MAX_NOISE, false},
                  {"margin", 0, 1e6, false}};
    const char *equals = strchr(field, '=');
    for (unsigned i = 0; equals && i < sizeof fields / sizeof *fields; i++) {
        double v = 0;
        if (strlen(fields[i].name) != (size_t)(equals - field) ||
            strncmp(field, fields[i].name, strlen(fields[i].name)))
            continue;
        if (*seen & 1u << i)
            return st_fail(e, ST_USAGE, "--harden: %s: given twice", fields[i].name);
        if (read_number(fields[i].name, equals + 1, fields[i].min, fields[i].max, fields[i].whole, &v, e))
            return e->code;
        *seen |= 1u << i;
        if (i == 0)
            o->top_k = (uint32_t)v;
        else if (i == 1)
            o->round = (int)v;
        else
            *(i == 2 ? &o->noise : &o->margin) = v;
        return 0;
    }
    return st_fail(e, ST_USAGE, "--harden: want topk=K, round=BITS, noise=SIGMA or margin=TAU with commas, got '%.40s'",
                   field);
}

int st_harden_parse(const char *text, struct st_harden_opts *out, struct st_err *e)
{
    char field[64];
    unsigned seen = 0;
    *out = (struct st_harden_opts){.round = -1};
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, ",");
        if (len >= sizeof field)
            return st_fail(e, ST_USAGE, "--harden: '%.40s...' is too long", p);
        memcpy(field, p, len);
        field[len] = 0;
        if (read_field(field, out, &seen, e))
            return e->code;
        p += len;
        if (!*p)
            break;
    }
    if (!(seen & 7))
        return st_fail(e, ST_USAGE, "--harden: margin alone changes nothing; want topk=K, round=BITS or noise=SIGMA");
    return 0;
}

/* One row. */

/* The row of the noise stream that belongs to a context. Keyed, so that nobody can look for two contexts of one row. */
static int context_row(const struct st_harden *h, uint32_t variant, const uint32_t *ids, size_t n, uint64_t *out,
                       struct st_err *e)
{
    struct st_digest d;
    uint8_t hash[32];
    if (st_digest_init(&d, e))
        return e->code;
    st_digest_add(&d, h->key.p, h->key.len);
    st_digest_add(&d, &variant, sizeof variant);
    st_digest_add(&d, ids, n * sizeof *ids);
    st_digest_end(&d, hash);
    st_digest_wipe(&d);
    memcpy(out, hash, sizeof *out);
    return 0;
}

static void add_noise(const struct st_harden *h, uint64_t row, float *z)
{
    const float scale = SUM_SCALE * (float)h->o.noise;
    uint16_t u[4 * PIECE];
    for (uint32_t at = 0; at < h->n_vocab; at += PIECE) {
        uint32_t n = h->n_vocab - at < PIECE ? h->n_vocab - at : PIECE;
        st_stream_at(h->noise, row, at / PIECE * (uint32_t)(sizeof u / 64), u, sizeof u);
        for (uint32_t i = 0; i < n; i++) {
            int32_t sum = (u[i] + u[PIECE + i]) + (u[2 * PIECE + i] + u[3 * PIECE + i]);
            z[at + i] += scale * (float)(sum - SUM_MEAN);
        }
    }
}

/* Eight lanes, so that the compiler can use vectors. Nothing is NaN here. */
static float max_of(const float *z, uint32_t n)
{
    float m[8];
    uint32_t i = 0;
    for (int j = 0; j < 8; j++)
        m[j] = -INFINITY;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            m[j] = z[i + j] > m[j] ? z[i + j] : m[j];
    for (; i < n; i++)
        m[0] = z[i] > m[0] ? z[i] : m[0];
    for (int j = 1; j < 8; j++)
        m[0] = m[j] > m[0] ? m[j] : m[0];
    return m[0];
}

static uint32_t largest(const float *z, uint32_t n)
{
    float most = max_of(z, n);
    uint32_t i = 0;
    while (i < n && z[i] != most)
        i++;
    return i < n ? i : 0;
}

/* By how much z[top] leads; infinite when nothing else is possible. */
static float lead(const float *z, uint32_t n, uint32_t top)
{
    return z[top] - fmaxf(max_of(z, top), max_of(z + top + 1, n - top - 1));
}

static void sift_down(float *heap, uint32_t n, uint32_t i)
{
    float v = heap[i];
    for (uint32_t k; (k = 2 * i + 1) < n; i = k) {
        k += k + 1 < n && heap[k + 1] < heap[k];
        if (!(heap[k] < v))
            break;
        heap[i] = heap[k];
    }
    heap[i] = v;
}

/* The top_k-th largest value. */
static float cut_of(const struct st_harden *h, const float *z)
{
    uint32_t k = h->o.top_k;
    memcpy(h->heap, z, k * sizeof *z);
    for (uint32_t i = k / 2; i-- > 0;)
        sift_down(h->heap, k, i);
    for (uint32_t i = k; i < h->n_vocab; i += STRETCH) {
        uint32_t end = h->n_vocab - i < STRETCH ? h->n_vocab : i + STRETCH;
        if (!(max_of(z + i, end - i) > h->heap[0]))
            continue;
        for (uint32_t j = i; j < end; j++)
            if (z[j] > h->heap[0]) {
                h->heap[0] = z[j];
                sift_down(h->heap, k, 0);
            }
    }
    return h->heap[0];
}

/* Exactly top_k stay: of those at the cut the earlier ones, but `top` in any case. */
static void keep_top(const struct st_harden *h, float *z, uint32_t top)
{
    float cut = cut_of(h, z);
    uint32_t room = h->o.top_k;
    for (uint32_t i = 0; i < h->n_vocab; i++)
        room -= z[i] > cut || (i == top && z[i] == cut);
    for (uint32_t i = 0; i < h->n_vocab; i++) {
        if (z[i] > cut || i == top)
            continue;
        if (z[i] == cut && room)
            room--;
        else
            z[i] = -INFINITY;
    }
}

/* To whole numbers, by the bits that f32 has at 1.5 * 2^23; rintf() would be a call for each value. */
static inline float whole(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

/* Distances to the largest, in whole steps where bits are dropped; a winner that is to stay is alone. */
static void release(const struct st_harden *h, float *z, float level, uint32_t winner, bool stays)
{
    float most = max_of(z, h->n_vocab), step = ldexpf(1, -h->o.round), per = ldexpf(1, h->o.round);
    float below = fminf(nextafterf(level, -INFINITY), h->o.round < 0 ? level : level - step);
    if (h->o.round < 0)
        for (uint32_t i = 0; i < h->n_vocab; i++)
            z[i] = level + (z[i] - most);
    else
        for (uint32_t i = 0; i < h->n_vocab; i++)
            z[i] = level + whole((z[i] - most) * per) * step;
    if (!stays)
        return;
    for (uint32_t i = 0; i < h->n_vocab; i++)
        z[i] = z[i] < level ? z[i] : below;
    z[winner] = level;
}

static double log_sum(const float *z, uint32_t n, double most)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)z[i] - most);
    return most + log(sum);
}

static void measure(struct st_harden *h, const float *z)
{
    const float *was = h->original;
    uint32_t a = largest(was, h->n_vocab), b = largest(z, h->n_vocab);
    double before = log_sum(was, h->n_vocab, (double)was[a]), after = log_sum(z, h->n_vocab, (double)z[b]), kl = 0;
    for (uint32_t i = 0; i < h->n_vocab; i++) {
        double p = (double)z[i] - after;
        if (isfinite(p) && isfinite(was[i]))
            kl += exp(p) * (p - ((double)was[i] - before));
    }
    h->stats.n_row++;
    h->stats.n_same += a == b;
    h->kl += kl;
}

static int harden_row(void *ctx, uint32_t variant, const uint32_t *ids, size_t n, float *z, struct st_err *e)
{
    struct st_harden *h = ctx;
    uint64_t row = 0;
    for (uint32_t i = 0; i < h->n_vocab; i++)
        if (isnan(z[i]))
            z[i] = -INFINITY;
    uint32_t top = largest(z, h->n_vocab);
    float level = rintf(z[top]);
    if (!isfinite(level))
        return st_fail(e, ST_INTERNAL, "the model gives no finite logits");
    bool stays = (double)lead(z, h->n_vocab, top) >= h->o.margin;
    if (h->original)
        memcpy(h->original, z, h->n_vocab * sizeof *z);
    if (h->o.noise > 0) {
        if (context_row(h, variant, ids, n, &row, e))
            return e->code;
        add_noise(h, row, z);
    }
    for (uint32_t i = 0; stays && i < h->n_vocab; i++)
        z[i] = z[i] < z[top] ? z[i] : z[top];
    if (h->o.top_k && h->o.top_k < h->n_vocab)
        keep_top(h, z, stays ? top : largest(z, h->n_vocab));
    release(h, z, level, top, stays);
    if (h->original)
        measure(h, z);
    return 0;
}

/* The object. */

static int make_key(struct st_harden *h, const uint8_t *key, struct st_err *e)
{
    struct st_secret own = {0};
    int rc = st_secret_init(&own, KEY_LEN, e);
    if (!rc && key)
        memcpy(own.p, key, KEY_LEN);
    else if (!rc)
        rc = st_random(own.p, KEY_LEN, e);
    /* One key for the hash of contexts, one inside the stream. */
    struct st_stream *derive = NULL;
    if (!rc)
        rc = st_stream_new(own.p, KEY_LEN, NULL, 0, "sotto harden 1 context", &derive, e);
    if (!rc)
        rc = st_secret_init(&h->key, KEY_LEN, e);
    if (!rc)
        st_stream_bytes(derive, h->key.p, KEY_LEN);
    if (!rc)
        rc = st_stream_new(own.p, KEY_LEN, NULL, 0, "sotto harden 1 noise", &h->noise, e);
    st_stream_free(derive);
    st_secret_wipe(&own);
    return rc;
}

int st_harden_new(const struct st_harden_opts *o, const uint8_t *key, uint32_t n_vocab, struct st_harden **out,
                  struct st_err *e)
{
    struct st_harden *h;
    if (o->top_k > n_vocab)
        return st_fail(e, ST_USAGE, "--harden: topk: want at most the vocabulary's %u, got %u", n_vocab, o->top_k);
    if (st_alloc(&h, 1, sizeof *h, "harden", e))
        return e->code;
    *h = (struct st_harden){.o = *o, .filter = {.ctx = h, .row = harden_row}, .n_vocab = n_vocab};
    if (make_key(h, key, e) || (o->top_k && st_alloc(&h->heap, o->top_k, sizeof *h->heap, "harden", e)) ||
        (o->measure && st_alloc(&h->original, n_vocab, sizeof *h->original, "harden", e))) {
        st_harden_free(h);
        return e->code;
    }
    *out = h;
    return 0;
}

void st_harden_free(struct st_harden *h)
{
    if (!h)
        return;
    st_secret_wipe(&h->key);
    st_stream_free(h->noise);
    free(h->heap);
    free(h->original);
    free(h);
}

const struct st_filter *st_harden_filter(const struct st_harden *h)
{
    return &h->filter;
}

void st_harden_stats(const struct st_harden *h, struct st_harden_stats *out)
{
    *out = h->stats;
    out->kl = h->stats.n_row ? h->kl / (double)h->stats.n_row : 0;
}

#include "engine/sampler.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Weights are exp((logit - max) / temperature). One below e^-37 (about 2^-53) of the largest cannot be hit by the 53
 * bits of st_rng_unit() and is left out where that saves work. */
#define WEIGHT_FLOOR (-37.0f)
/* Top-p without top-k finds its cut in a histogram of that range, and then sorts one bucket only. */
#define N_BUCKET 592
#define BUCKETS_PER_UNIT 16.0f
#define STRETCH 64
#define SEEN UINT32_C(0x80000000)

struct cand {
    float x; /* (logit - max) / temperature, <= 0 */
    float w; /* exp(x) */
    uint32_t id;
};

struct st_sampler {
    uint32_t n_vocab;
    struct cand *cand; /* [n_vocab] */
    float *raw;        /* [n_vocab] logits as they came, for logprobs */
    float *w;          /* [n_vocab] */
    uint32_t *count;   /* [n_vocab] times in the reply, SEEN when in the history at all; all 0 between calls */
    double mass[N_BUCKET + 1];
};

int st_sampler_new(uint32_t n_vocab, struct st_sampler **out, struct st_err *e)
{
    struct st_sampler *s;
    if (n_vocab == 0)
        return st_fail(e, ST_USAGE, "sampler: a vocabulary of 0 ids");
    if (st_alloc(&s, 1, sizeof *s, "sampler", e))
        return e->code;
    s->n_vocab = n_vocab;
    if (st_alloc(&s->cand, n_vocab, sizeof *s->cand, "sampler candidates", e) ||
        st_alloc(&s->raw, n_vocab, sizeof *s->raw, "sampler logits", e) ||
        st_alloc(&s->w, n_vocab, sizeof *s->w, "sampler weights", e) ||
        st_alloc(&s->count, n_vocab, sizeof *s->count, "sampler counts", e)) {
        st_sampler_free(s);
        return e->code;
    }
    *out = s;
    return 0;
}

void st_sampler_free(struct st_sampler *s)
{
    if (!s)
        return;
    free(s->cand);
    free(s->raw);
    free(s->w);
    free(s->count);
    free(s);
}

int st_sampling_check(const struct st_sampling *p, uint32_t n_vocab, struct st_err *e)
{
    /* Written so that NaN fails every test. */
    if (!(p->temperature >= 0.0f && p->temperature <= 1e6f))
        return st_fail(e, ST_INPUT, "temperature: want 0 or more, got %g", (double)p->temperature);
    if (!(p->top_p >= 0.0f && p->top_p <= 1.0f))
        return st_fail(e, ST_INPUT, "top_p: want 0 to 1, got %g", (double)p->top_p);
    if (!(p->min_p >= 0.0f && p->min_p <= 1.0f))
        return st_fail(e, ST_INPUT, "min_p: want 0 to 1, got %g", (double)p->min_p);
    if (!(p->repetition_penalty > 0.0f && p->repetition_penalty <= 1e6f))
        return st_fail(e, ST_INPUT, "repetition_penalty: want more than 0, got %g", (double)p->repetition_penalty);
    if (!(fabsf(p->presence_penalty) <= 1e6f))
        return st_fail(e, ST_INPUT, "presence_penalty: want a number, got %g", (double)p->presence_penalty);
    if (!(fabsf(p->frequency_penalty) <= 1e6f))
        return st_fail(e, ST_INPUT, "frequency_penalty: want a number, got %g", (double)p->frequency_penalty);
    if (p->n_logprobs < -1 || p->n_logprobs > ST_MAX_LOGPROBS)
        return st_fail(e, ST_INPUT, "logprobs: want -1 to %d, got %d", ST_MAX_LOGPROBS, p->n_logprobs);
    for (uint32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id >= n_vocab)
            return st_fail(e, ST_INPUT, "logit_bias: entry %u is outside the vocabulary of %u ids", i, n_vocab);
        if (isnan(p->bias[i].bias))
            return st_fail(e, ST_INPUT, "logit_bias: entry %u is not a number", i);
    }
    return 0;
}

/* Largest value; -inf when there is none (empty, or only NaN). Eight lanes, so that the compiler can use vectors. */
static float max_of(const float *v, uint32_t n)
{
    float m[8];
    for (int j = 0; j < 8; j++)
        m[j] = -INFINITY;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            m[j] = v[i + j] > m[j] ? v[i + j] : m[j];
    for (; i < n; i++)
        m[0] = v[i] > m[0] ? v[i] : m[0];
    for (int j = 1; j < 8; j++)
        m[0] = m[j] > m[0] ? m[j] : m[0];
    return m[0];
}

static uint32_t first_of(const float *v, uint32_t n, float value)
{
    for (uint32_t i = 0; i < n; i++)
        if (v[i] == value)
            return i;
    return 0;
}

/* e^x for x <= 0 within 2e-7; 0 below -88 and for NaN. x = k ln2 + r with |r| <= ln2 / 2, and e^r by its Taylor
 * polynomial of degree 7. Without branches and float comparisons (which could trap), so that loops over it become
 * vectors. */
static inline float exp_neg(float x)
{
    union {
        float f;
        int32_t i;
        uint32_t u;
    } c = {.f = x}, two;
    const int32_t least = (int32_t)0xc2b03333; /* -88.1: there k is -127, and the exponent field 0 makes the result 0 */
    c.u |= 0x80000000u; /* negative floats compare like integers, the other way round; NaN stands below all */
    c.i = c.i > least ? least : c.i;
    two.f = c.f * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's low bits are round(x / ln2) */
    float k = two.f - 12582912.0f;
    float r = c.f - k * 0.693145752f - k * 1.42860677e-6f;
    float p = 1.38888889e-3f + r * 1.98412698e-4f;
    p = 8.33333333e-3f + r * p;
    p = 4.16666667e-2f + r * p;
    p = 1.66666667e-1f + r * p;
    p = 0.5f + r * p;
    p = 1.0f + r * p;
    p = 1.0f + r * p;
    two.u = (two.u - 0x4b400000u + 127u) << 23;
    return p * two.f;
}

/* w[i] = e^((v[i] - top) * inv) */
static void weights(const float *v, uint32_t n, float top, float inv, float *w)
{
    for (uint32_t i = 0; i < n; i++)
        w[i] = exp_neg((v[i] - top) * inv);
}

static double sum_of(const float *w, uint32_t n)
{
    double s[4] = {0};
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 4; j++)
            s[j] += (double)w[i + j];
    for (; i < n; i++)
        s[0] += (double)w[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* True when a comes before b: larger value first, then lower id. */
static bool before(const struct cand *a, const struct cand *b)
{
    return a->x > b->x || (a->x == b->x && a->id < b->id);
}

/* Heap whose root is the last in order. */
static void sift_down(struct cand *h, uint32_t n, uint32_t i)
{
    struct cand c = h[i];
    for (;;) {
        uint32_t k = 2 * i + 1;
        if (k >= n)
            break;
        if (k + 1 < n && before(&h[k], &h[k + 1]))
            k++;
        if (!before(&c, &h[k]))
            break;
        h[i] = h[k];
        i = k;
    }
    h[i] = c;
}

static void heapify(struct cand *h, uint32_t n)
{
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(h, n, i);
}

/* Sorts in place. qsort() is of no use here: glibc's takes memory from the heap. */
static void sort_cands(struct cand *h, uint32_t n)
{
    heapify(h, n);
    while (n > 1) {
        struct cand last = h[0];
        h[0] = h[--n];
        h[n] = last;
        sift_down(h, n, 0);
    }
}

/* Puts the first k ids in order of v [n_vocab] into cand, sorted, x = v. One pass; whole stretches that cannot beat the
 * heap's root are skipped. NaN counts as -inf. */
static uint32_t take_top(struct st_sampler *s, const float *v, uint32_t k)
{
    struct cand *c = s->cand;
    uint32_t n = s->n_vocab;
    if (k > n)
        k = n;
    for (uint32_t i = 0; i < k; i++)
        c[i] = (struct cand){.x = isnan(v[i]) ? -INFINITY : v[i], .id = i};
    heapify(c, k);
    for (uint32_t i = k; i < n; i += STRETCH) {
        uint32_t end = n - i < STRETCH ? n : i + STRETCH;
        if (!(max_of(v + i, end - i) > c[0].x))
            continue;
        for (uint32_t j = i; j < end; j++) {
            if (v[j] > c[0].x) { /* of equal values the earlier id stays */
                c[0] = (struct cand){.x = v[j], .id = j};
                sift_down(c, k, 0);
            }
        }
    }
    sort_cands(c, k);
    return k;
}

/* All ids with v >= cut. */
static uint32_t take_above(struct st_sampler *s, const float *v, float cut, float top, float inv)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++)
        if (v[i] >= cut)
            s->cand[n++] = (struct cand){.x = (v[i] - top) * inv, .w = s->w[i], .id = i};
    return n;
}

/* Keeps the shortest sorted prefix whose weights reach `want`, at least one. */
static uint32_t cut_sorted(const struct cand *c, uint32_t n, double have, double want)
{
    for (uint32_t i = 0; i < n; i++) {
        have += (double)c[i].w;
        if (have >= want)
            return i + 1;
    }
    return n;
}

static uint32_t bucket_of(float x)
{
    float b = -x * BUCKETS_PER_UNIT;
    return b < (float)N_BUCKET ? (uint32_t)b : N_BUCKET;
}

/* The nucleus of mass `want` among unsorted candidates: buckets before the one in which the mass gets there stay whole,
 * that one is sorted and cut, later ones go. */
static uint32_t keep_mass(struct st_sampler *s, uint32_t n, double want)
{
    struct cand *c = s->cand;
    memset(s->mass, 0, sizeof s->mass);
    for (uint32_t i = 0; i < n; i++)
        s->mass[bucket_of(c[i].x)] += (double)c[i].w;
    double have = 0;
    uint32_t cut = 0;
    while (cut < N_BUCKET && have + s->mass[cut] < want)
        have += s->mass[cut++];
    uint32_t n_whole = 0, n_all = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t b = bucket_of(c[i].x);
        if (b > cut)
            continue;
        /* c[0..n_whole) whole buckets, c[n_whole..n_all) the bucket of the cut; n_all <= i, so nothing unread is lost.
         */
        struct cand now = c[i];
        if (b == cut) {
            c[n_all++] = now;
        } else {
            c[n_all++] = c[n_whole];
            c[n_whole++] = now;
        }
    }
    sort_cands(c + n_whole, n_all - n_whole);
    return n_whole + cut_sorted(c + n_whole, n_all - n_whole, have, want);
}

static double mass_of(const struct cand *c, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)c[i].w;
    return sum;
}

/* Nucleus of the whole vocabulary. It is looked for among ever more ids, best first; usually the first look is enough.
 */
static uint32_t nucleus(struct st_sampler *s, const float *logits, float top, float inv, float top_p)
{
    double want = (double)top_p * sum_of(s->w, s->n_vocab);
    for (float span = -WEIGHT_FLOOR / 4;; span *= 2) {
        uint32_t n = take_above(s, logits, top - span / inv, top, inv);
        if (span >= -WEIGHT_FLOOR || mass_of(s->cand, n) >= want)
            return keep_mass(s, n, want);
    }
}

static uint32_t draw(const struct cand *c, uint32_t n, struct st_rng *rng)
{
    double u = st_rng_unit(rng) * mass_of(c, n);
    for (uint32_t i = 0; i + 1 < n; i++) {
        u -= (double)c[i].w;
        if (u < 0)
            return c[i].id;
    }
    return c[n - 1].id;
}

/* Draws from all of w [n_vocab]. */
static uint32_t draw_any(const float *w, uint32_t n, struct st_rng *rng)
{
    double u = st_rng_unit(rng) * sum_of(w, n);
    uint32_t i = 0, last = 0;
    for (; n - i > STRETCH; i += STRETCH) {
        double part = sum_of(w + i, STRETCH);
        if (u < part)
            break;
        u -= part;
    }
    for (; i < n; i++) {
        if (w[i] > 0)
            last = i;
        u -= (double)w[i];
        if (u < 0)
            return i;
    }
    return last;
}

/* Bias and penalties, in place. */
static void adjust(struct st_sampler *s, float *logits, const struct st_sampling *p, const uint32_t *history,
                   size_t n_history, size_t n_reply)
{
    for (uint32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].bias <= -100.0f)
            logits[p->bias[i].id] = -INFINITY;
        else
            logits[p->bias[i].id] += p->bias[i].bias;
    }
    bool repeat = p->repetition_penalty != 1.0f;
    if (!repeat && p->presence_penalty == 0.0f && p->frequency_penalty == 0.0f)
        return;
    size_t from = repeat ? 0 : n_history - n_reply; /* without a repetition penalty the prompt does not matter */
    for (size_t i = from; i < n_history; i++)
        s->count[history[i]] = (s->count[history[i]] + (i >= n_history - n_reply)) | SEEN;
    for (size_t i = from; i < n_history; i++) {
        uint32_t id = history[i], n = s->count[id];
        if (n == 0)
            continue; /* done at its first place */
        s->count[id] = 0;
        float l = logits[id];
        if (repeat)
            l = l > 0 ? l / p->repetition_penalty : l * p->repetition_penalty;
        n &= ~SEEN;
        if (n)
            l -= p->presence_penalty + p->frequency_penalty * (float)n;
        logits[id] = l;
    }
}

static uint32_t choose(struct st_sampler *s, const float *logits, const struct st_sampling *p, struct st_rng *rng)
{
    uint32_t n_vocab = s->n_vocab, n = 0;
    float top = max_of(logits, n_vocab), inv = 1.0f / p->temperature;
    if (p->temperature == 0.0f || p->top_k == 1 || !isfinite(top) || !isfinite(inv))
        return first_of(logits, n_vocab, top);
    if (p->top_k && p->top_k < n_vocab) {
        uint32_t k = take_top(s, logits, p->top_k);
        for (; n < k && (s->cand[n].x - top) * inv >= WEIGHT_FLOOR; n++) {
            s->cand[n].x = (s->cand[n].x - top) * inv;
            s->cand[n].w = exp_neg(s->cand[n].x);
        }
        if (p->top_p < 1.0f)
            n = cut_sorted(s->cand, n, 0, (double)p->top_p * mass_of(s->cand, n));
    } else {
        weights(logits, n_vocab, top, inv, s->w);
        if (p->top_p < 1.0f)
            n = nucleus(s, logits, top, inv, p->top_p);
        else if (p->min_p > 0.0f)
            n = take_above(s, logits, top + WEIGHT_FLOOR / inv, top, inv);
        else
            return draw_any(s->w, n_vocab, rng);
    }
    if (p->min_p > 0.0f) {
        uint32_t kept = 0;
        for (uint32_t i = 0; i < n; i++)
            if (s->cand[i].w >= p->min_p) /* the largest weight is 1 */
                s->cand[kept++] = s->cand[i];
        n = kept;
    }
    return draw(s->cand, n, rng);
}

static float clamp_logprob(double v)
{
    return v >= -9999.0 ? (float)v : -9999.0f;
}

/* Fills tok->logprob and tok->top from the raw logits; uses the candidate array. */
static void logprobs(struct st_sampler *s, int n_top, struct st_sampled *tok)
{
    uint32_t n_vocab = s->n_vocab;
    float top = max_of(s->raw, n_vocab);
    double lse = (double)top;
    if (isfinite(top)) {
        weights(s->raw, n_vocab, top, 1.0f, s->w);
        lse += log(sum_of(s->w, n_vocab));
    }
    tok->logprob = clamp_logprob((double)s->raw[tok->id] - lse);
    if (n_top == 0)
        return;
    uint32_t want = take_top(s, s->raw, (uint32_t)n_top);
    for (uint32_t i = 0; i < want; i++)
        tok->top[i] = (struct st_logprob){s->cand[i].id, clamp_logprob((double)s->cand[i].x - lse)};
    tok->n_top = (int)want;
}

void st_sample(struct st_sampler *s, float *logits, const struct st_sampling *p, struct st_rng *rng,
               const uint32_t *history, size_t n_history, size_t n_reply, struct st_sampled *out)
{
    out->n_top = 0;
    out->logprob = 0.0f;
    if (p->n_logprobs >= 0)
        memcpy(s->raw, logits, s->n_vocab * sizeof *logits);
    adjust(s, logits, p, history, n_history, n_reply);
    out->id = choose(s, logits, p, rng);
    if (p->n_logprobs >= 0)
        logprobs(s, p->n_logprobs, out);
}

#include "protect/covariant/noise.h"
#include "base/buf.h"

#include <math.h>
#include <openssl/crypto.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Deviates come in groups: HALF radii and HALF angles give HALF cosines and HALF sines. */
#define HALF 32
#define GROUP (2 * HALF)
#define GROUPS 16 /* drawn at once */

int st_cov_noise_open(const struct st_cov_key *key, const uint8_t model_digest[32], const char *kind,
                      const char *tensor, struct st_stream **s, struct st_err *e)
{
    char label[200];
    int n = snprintf(label, sizeof label, "%s.%s", kind, tensor);
    *s = NULL;
    if (n < 0 || (size_t)n >= sizeof label)
        return st_fail(e, ST_INTERNAL, "%s: name too long for a random stream", tensor);
    return st_cov_key_stream(key, model_digest, label, s, e);
}

int st_cov_noise_added(const struct st_cov_key *key, const uint8_t model_digest[32], double share, const char *tensor,
                       struct st_stream **s, struct st_err *e)
{
    char kind[40];
    snprintf(kind, sizeof kind, "noise %.17g", share);
    return st_cov_noise_open(key, model_digest, kind, tensor, s, e);
}

/* ln of a float in (0, 1]: u = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), then the polynomial of Cephes' logf
 * (error below 1 ulp). Without branches, so that the loop over it is vectorised. */
static inline float ln(float u)
{
    int32_t bits, shifted;
    float m;
    memcpy(&bits, &u, 4);
    shifted = bits - 0x3f3504f3;
    float k = (float)(shifted >> 23);
    bits = (shifted & 0x7fffff) + 0x3f3504f3;
    memcpy(&m, &bits, 4);
    float f = m - 1, g = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    return k * 0.693147182f + (f - 0.5f * g + f * g * p);
}

/* out [GROUP] from u [GROUP]. An angle is a quarter turn (two bits) and x in [-pi/4, pi/4), where short series do. */
static void box_muller(const uint32_t *u, float *out)
{
    for (int i = 0; i < HALF; i++) {
        float radius = sqrtf(-2 * ln(((float)(int32_t)(u[i] >> 1) + 0.5f) * 0x1p-31f));
        uint32_t a = u[HALF + i], quarter = a >> 30;
        float x = (float)(int32_t)(a << 2) * (float)(M_PI / 4) * 0x1p-31f, y = x * x;
        float s = x + x * y * (-1.6666654611e-1f + y * (8.3321608736e-3f - y * 1.9515295891e-4f));
        float c =
            1 - 0.5f * y + y * y * (4.166664568298827e-2f + y * (-1.388731625493765e-3f + y * 2.443315711809948e-5f));
        float first = quarter & 1 ? -s : c, second = quarter & 1 ? c : s;
        float turned = quarter & 2 ? -radius : radius;
        out[i] = turned * first;
        out[HALF + i] = turned * second;
    }
}

void st_cov_noise_row(struct st_stream *s, uint64_t row, float *out, size_t n)
{
    uint32_t u[GROUPS * GROUP];
    float last[GROUP] = {0};
    for (size_t at = 0; at < n; at += GROUPS * GROUP) {
        size_t left = n - at < GROUPS * GROUP ? n - at : GROUPS * GROUP, groups = (left + GROUP - 1) / GROUP;
        st_stream_at(s, row, (uint32_t)(at * 4 / 64), u, groups * GROUP * 4);
        for (size_t g = 0; g < groups; g++) {
            size_t to = at + g * GROUP, m = n - to < GROUP ? n - to : GROUP;
            box_muller(u + g * GROUP, m == GROUP ? out + to : last);
            if (m < GROUP)
                memcpy(out + to, last, m * sizeof *last);
        }
    }
    OPENSSL_cleanse(u, sizeof u);
    OPENSSL_cleanse(last, sizeof last);
}

/* ---- standard deviation ---- */

#define BLOCK_ROWS 64
#define NEIGHBOURS 4
#define SAME 0.1 /* squared distance over squared norm */

/* Sums over one block of rows, added up in order of the blocks: the result does not depend on the threads. */
struct sums {
    double n, sum, square;
};

struct std_work {
    const struct st_mat *m;
    const bool *skip;   /* [n_out]; or NULL */
    struct sums *block; /* [n_block] */
    float *rows;        /* [n_thread][n_in] */
    uint32_t n_block;
    atomic_uint next;
};

static const float *load_row(const struct st_mat *m, uint32_t i, float *out)
{
    size_t width = st_dtype_size(m->dtype);
    st_convert(m->dtype, (const uint8_t *)m->data + (size_t)i * m->n_in * width, ST_DTYPE_F32, out, m->n_in);
    return out;
}

static void sum_block(const struct std_work *w, uint32_t b, float *row)
{
    uint32_t lo = b * BLOCK_ROWS, hi = lo + BLOCK_ROWS < w->m->n_out ? lo + BLOCK_ROWS : w->m->n_out;
    for (uint32_t i = lo; i < hi; i++) {
        double sum = 0, square = 0;
        if (w->skip && w->skip[i])
            continue;
        load_row(w->m, i, row);
        for (uint32_t j = 0; j < w->m->n_in; j++) {
            sum += (double)row[j];
            square += (double)row[j] * (double)row[j];
        }
        w->block[b].n += w->m->n_in;
        w->block[b].sum += sum;
        w->block[b].square += square;
    }
}

static void std_part(void *arg, int thread, int n_threads)
{
    struct std_work *w = arg;
    (void)n_threads;
    for (uint32_t b; (b = atomic_fetch_add(&w->next, 1)) < w->n_block;)
        sum_block(w, b, w->rows + (size_t)thread * w->m->n_in);
}

struct row_norm {
    double square;
    uint32_t row;
};

static int by_norm(const void *a, const void *b)
{
    const struct row_norm *x = a, *y = b;
    if (x->square != y->square)
        return x->square < y->square ? -1 : 1;
    return x->row < y->row ? -1 : 1;
}

/* Marks rows that have a near copy among their neighbours in the order of norms; returns how many. a, b [n_in]. */
static uint32_t mark_untrained(const struct st_mat *m, struct row_norm *order, bool *skip, float *a, float *b)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_out; i++) {
        load_row(m, i, a);
        order[i] = (struct row_norm){.row = i};
        for (uint32_t j = 0; j < m->n_in; j++)
            order[i].square += (double)a[j] * (double)a[j];
    }
    qsort(order, m->n_out, sizeof *order, by_norm);
    for (uint32_t i = 0; i < m->n_out; i++) {
        load_row(m, order[i].row, a);
        for (uint32_t k = i + 1; k < m->n_out && k <= i + NEIGHBOURS; k++) {
            float far = 0;
            load_row(m, order[k].row, b);
            for (uint32_t j = 0; j < m->n_in; j++)
                far += (a[j] - b[j]) * (a[j] - b[j]);
            if ((double)far <= SAME * order[i].square)
                skip[order[i].row] = skip[order[k].row] = true;
        }
    }
    for (uint32_t i = 0; i < m->n_out; i++)
        n += skip[i];
    return n;
}

static int find_untrained(const struct st_mat *m, bool **skip, struct st_err *e)
{
    struct row_norm *order = NULL;
    float *rows = NULL;
    int rc = st_alloc(skip, m->n_out, sizeof **skip, "row marks", e);
    if (!rc)
        rc = st_alloc(&order, m->n_out, sizeof *order, "row norms", e);
    if (!rc)
        rc = st_alloc(&rows, 2 * (size_t)m->n_in, sizeof *rows, "rows", e);
    if (!rc && mark_untrained(m, order, *skip, rows, rows + m->n_in) == m->n_out)
        memset(*skip, 0, m->n_out * sizeof **skip);
    free(order);
    free(rows);
    return rc;
}

int st_cov_noise_std(const struct st_mat *m, bool trained, struct st_pool *pool, double *std, struct st_err *e)
{
    struct std_work w = {.m = m, .n_block = (m->n_out + BLOCK_ROWS - 1) / BLOCK_ROWS};
    bool *skip = NULL;
    struct sums all = {0};
    size_t n_thread = pool ? (size_t)st_pool_size(pool) : 1;
    int rc = trained ? find_untrained(m, &skip, e) : 0;
    if (!rc)
        rc = st_alloc(&w.block, w.n_block, sizeof *w.block, "sums", e);
    if (!rc)
        rc = st_alloc(&w.rows, n_thread * m->n_in, sizeof *w.rows, "rows", e);
    if (rc)
        goto out;
    w.skip = skip;
    if (pool)
        st_pool_run(pool, std_part, &w);
    else
        std_part(&w, 0, 1);
    for (uint32_t b = 0; b < w.n_block; b++) {
        all.n += w.block[b].n;
        all.sum += w.block[b].sum;
        all.square += w.block[b].square;
    }
    double mean = all.sum / all.n, variance = all.square / all.n - mean * mean;
    *std = variance > 0 ? sqrt(variance) : 0;
out:
    free(skip);
    free(w.block);
    free(w.rows);
    return rc;
}

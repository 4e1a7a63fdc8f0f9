#include "field/product_transposed.h"
#include "field/fq.h"

#include <stddef.h>
#include <string.h>

#define BLOCK 1024u /* inputs at a time: their sums stay in the first cache */
#define FLUSH 256u  /* rows whose products, below 2^22, fit a sum of 32 bits */

/* Sums of one block of inputs. A secret is split into signed halves, so that a product fits 32 bits. */
struct sums {
    int32_t low[BLOCK], high[BLOCK];
    int64_t all[BLOCK];
};

static void add_row(struct sums *t, const int8_t *w, int16_t low, int16_t high, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        int16_t x = w[i];
        t->low[i] += (int32_t)x * low;
        t->high[i] += (int32_t)x * high;
    }
}

static void flush(struct sums *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        t->all[i] += t->low[i] + (int64_t)t->high[i] * 65536;
    memset(t->low, 0, n * sizeof *t->low);
    memset(t->high, 0, n * sizeof *t->high);
}

static void add_matrix(struct sums *t, const struct st_transposed_matrix *m, uint32_t n_in, uint32_t from, uint32_t n,
                       const uint32_t *s)
{
    for (uint32_t j = 0; j < m->n_out; j++) {
        int32_t c = st_fq_centre(s[j]);
        int16_t low = (int16_t)c, high = (int16_t)((c - low) / 65536); /* |c| < 2^31 - 2^15: no overflow */
        add_row(t, m->w + (size_t)j * n_in + from, low, high, n);
        if ((j + 1) % FLUSH == 0)
            flush(t, n);
    }
    flush(t, n);
}

/* Of |x| < 2^63, in constant time. */
static uint32_t residue(int64_t x)
{
    uint64_t sign = 0 - (uint64_t)(x < 0), size = ((uint64_t)x ^ sign) - sign;
    uint32_t r = st_fq_reduce(size), minus = st_fq_sub(0, r);
    return (r & (uint32_t)~sign) | (minus & (uint32_t)sign);
}

void st_field_transposed(const struct st_transposed_matrix *w, uint32_t n_matrix, uint32_t n_in, const uint32_t *s,
                         uint32_t n_vec, uint32_t *out)
{
    struct sums t;
    uint32_t all = 0;
    for (uint32_t k = 0; k < n_matrix; k++)
        all += w[k].n_out;
    for (uint32_t from = 0, n; from < n_in; from += n) {
        n = n_in - from < BLOCK ? n_in - from : BLOCK;
        for (uint32_t v = 0; v < n_vec; v++) {
            const uint32_t *part = s + (size_t)v * all;
            memset(&t, 0, sizeof t);
            for (uint32_t k = 0; k < n_matrix; part += w[k++].n_out)
                add_matrix(&t, &w[k], n_in, from, n, part);
            for (uint32_t i = 0; i < n; i++)
                out[(size_t)v * n_in + from + i] = residue(t.all[i]);
        }
    }
    explicit_bzero(&t, sizeof t);
}

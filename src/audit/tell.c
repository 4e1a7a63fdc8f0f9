#include "audit/tell.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

#define LEAST 1e-3 /* of the spread of all: so exactly is a figure known at best */
#define SAME 1e-9  /* distances nearer than this are equal */

/* Sums per class, then means; n_of [n_class]. */
static int means(const double *x, const uint32_t *class, size_t n, struct st_tell *t, size_t *n_of, struct st_err *e)
{
    for (size_t i = 0; i < n; i++) {
        if (class[i] >= t->n_class)
            return st_fail(e, ST_INPUT, "tell: class %u of %zu", class[i], t -> n_class);
        n_of[class[i]]++;
        for (size_t f = 0; f < t->n_figure; f++)
            t->mean[class[i] * t -> n_figure + f] += x[i * t->n_figure + f];
    }
    for (size_t c = 0; c < t->n_class; c++) {
        if (!n_of[c])
            return st_fail(e, ST_INPUT, "tell: no example of class %zu", c);
        for (size_t f = 0; f < t->n_figure; f++)
            t->mean[c * t->n_figure + f] /= (double)n_of[c];
    }
    return 0;
}

static void scales(const double *x, const uint32_t *class, size_t n, struct st_tell *t)
{
    for (size_t f = 0; f < t->n_figure; f++) {
        double within = 0, sum = 0, squares = 0;
        for (size_t i = 0; i < n; i++) {
            double v = x[i * t->n_figure + f], d = v - t->mean[class[i] * t -> n_figure + f];
            within += d * d;
            sum += v;
        }
        for (size_t i = 0; i < n; i++) {
            double d = x[i * t->n_figure + f] - sum / (double)n;
            squares += d * d;
        }
        double spread = sqrt(within / (double)n) + LEAST * sqrt(squares / (double)n);
        t->scale[f] = spread > 0 ? 1 / spread : 0;
    }
}

int st_tell_learn(const double *x, const uint32_t *class, size_t n, size_t n_class, size_t n_figure,
                  struct st_tell *out, struct st_err *e)
{
    size_t *n_of = NULL;
    *out = (struct st_tell){.n_class = n_class, .n_figure = n_figure};
    int rc = st_alloc(&n_of, n_class, sizeof *n_of, "classes", e);
    if (!rc)
        rc = st_alloc(&out->mean, n_class, n_figure * sizeof *out->mean, "classes", e);
    if (!rc)
        rc = st_alloc(&out->scale, n_figure, sizeof *out->scale, "classes", e);
    if (!rc)
        rc = means(x, class, n, out, n_of, e);
    if (!rc)
        scales(x, class, n, out);
    else
        st_tell_free(out);
    free(n_of);
    return rc;
}

static double distance(const struct st_tell *t, const double *figures, size_t c)
{
    double sum = 0;
    for (size_t f = 0; f < t->n_figure; f++) {
        double d = (figures[f] - t->mean[c * t->n_figure + f]) * t->scale[f];
        sum += d * d;
    }
    return sum;
}

double st_tell_right(const struct st_tell *t, const double *figures, uint32_t class)
{
    double right = distance(t, figures, class);
    size_t as_near = 0;
    for (size_t c = 0; c < t->n_class; c++) {
        double d = distance(t, figures, c);
        if (d < right - SAME * (1 + right))
            return 0;
        as_near += d <= right + SAME * (1 + right);
    }
    return 1 / (double)as_near;
}

void st_tell_free(struct st_tell *t)
{
    free(t->mean);
    free(t->scale);
    *t = (struct st_tell){0};
}

#include "audit/descend.h"
#include "audit/deviates.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RATE .1 /* of the spread, falling to 0 */
#define LOOK 25 /* steps, in which the distance falls to */
#define GAIN .98
#define STARTS                                                                                                         \
    4 /* the one that comes nearest in a part of the steps goes on: scores hardly change when all signs do             \
       */

/* Squared distance to the hidden states over their squared length, and its derivatives. */
static double towards_hidden(const struct st_descent *d, const float *out, float *d_out)
{
    size_t n = (size_t)d->n * d->blocks->d;
    double all = 1e-30, far = 0;
    for (size_t i = 0; i < n; i++)
        all += (double)d->hidden[i] * d->hidden[i];
    for (size_t i = 0; i < n; i++) {
        double rest = (double)out[i] - d->hidden[i];
        far += rest * rest / all;
        d_out[i] = (float)(2 * rest / all);
    }
    return far;
}

/* The same for products of a query and the keys up to it. */
static double towards_scores(const struct st_descent *d, const float *scores, float *d_scores)
{
    size_t n = d->n, all = n * n * d->blocks->n_head;
    double square = 1e-30, far = 0;
    for (size_t i = 0; i < all; i++)
        square += i % n <= i / n % n ? (double)d->scores[i] * d->scores[i] : 0;
    for (size_t i = 0; i < all; i++) {
        double rest = i % n <= i / n % n ? (double)scores[i] - d->scores[i] : 0;
        far += rest * rest / square;
        d_scores[i] = (float)(2 * rest / square);
    }
    return far;
}

static void start(const struct st_descent *d, uint64_t number, float *x)
{
    struct st_rng rng;
    size_t width = d->blocks->d;
    st_rng_seed(&rng, d->seed * 101 + number);
    st_deviates(&rng, d->spread, NULL, x, d->n * width);
    memcpy(x, d->first, width * sizeof *x);
}

struct descent {
    const struct st_descent *d;
    struct st_pass *pass;
    float *d_out, *d_scores, *d_x;
};

/* far: the distance before the last step. It ends early where the last steps brought next to nothing. */
static int run(struct descent *r, uint32_t n_step, float *x, double *far, struct st_err *e)
{
    const struct st_descent *d = r->d;
    size_t width = d->blocks->d;
    struct st_adam adam;
    double before = INFINITY;
    if (st_adam_new(&adam, d->n * width, e))
        return e->code;
    e->code = 0;
    for (uint32_t step = 0; !e->code && step < n_step; step++) {
        const float *out = st_pass_forward(r->pass, d->blocks, x);
        *far = d->hidden ? towards_hidden(d, out, r->d_out) : towards_scores(d, st_pass_scores(r->pass), r->d_scores);
        if (step % LOOK == 0 && *far > GAIN * before)
            break;
        before = step % LOOK == 0 ? *far : before;
        st_pass_backward(r->pass, d->blocks, r->d_out, d->hidden ? NULL : r->d_scores, r->d_x, NULL);
        memset(r->d_x, 0, width * sizeof *x); /* the first row is known */
        st_adam_step(&adam, r->d_x, RATE * d->spread * (1 - (double)step / n_step), 0, x);
        if (d->cancel && *d->cancel)
            st_fail(e, ST_IO, "cancelled");
    }
    st_adam_free(&adam);
    return e->code;
}

int st_descend(const struct st_descent *d, float *x, struct st_err *e)
{
    size_t n = d->n * (size_t)d->blocks->d, n_scores = (size_t)d->blocks->n_head * d->n * d->n;
    struct descent r = {.d = d};
    float *best = NULL;
    double least = INFINITY, far = INFINITY;
    if (st_pass_new(d->blocks, 1, d->n, &r.pass, e) || st_alloc(&r.d_out, n, sizeof *r.d_out, "descent", e) ||
        st_alloc(&r.d_x, n, sizeof *r.d_x, "descent", e) || st_alloc(&best, n, sizeof *best, "descent", e) ||
        st_alloc(&r.d_scores, n_scores, sizeof *r.d_scores, "descent", e))
        goto out;
    for (uint64_t s = 0; s < STARTS; s++) {
        start(d, s, x);
        if (run(&r, d->n_step / STARTS, x, &far, e))
            goto out;
        if (far < least) {
            least = far;
            memcpy(best, x, n * sizeof *best);
        }
    }
    memcpy(x, best, n * sizeof *x);
    if (run(&r, d->n_step, x, &far, e))
        goto out;
out:
    st_pass_free(r.pass);
    free(r.d_out);
    free(r.d_scores);
    free(r.d_x);
    free(best);
    return e->code;
}

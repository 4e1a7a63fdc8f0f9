#include "tensor/route.h"
#include "tensor/compute_priv.h"

#include <math.h>
#include <string.h>

/* What an expert that cannot be chosen counts for. */
#define CLOSED (-INFINITY)

static void to_scores(enum st_score kind, float *x, uint32_t n)
{
    if (kind == ST_SCORE_SIGMOID) {
        for (uint32_t i = 0; i < n; i++)
            x[i] = 1 / (1 + expf(-x[i]));
        return;
    }
    float max = x[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (uint32_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - max);
        sum += x[i];
    }
    for (uint32_t i = 0; i < n; i++)
        x[i] /= sum;
}

/* Marks the `take` largest of v [n]; among equals the first. */
static void mark_largest(const float *v, uint32_t n, uint32_t take, bool *taken)
{
    memset(taken, 0, n * sizeof *taken);
    while (take--) {
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i++)
            if (!taken[i] && (best == n || v[i] > v[best]))
                best = i;
        taken[best] = true;
    }
}

/* `choice` of every expert in a closed group becomes CLOSED. */
static void close_groups(const struct st_route *r, float *choice)
{
    float value[ST_ROUTE_MAX_EXPERTS];
    bool open[ST_ROUTE_MAX_EXPERTS];
    uint32_t size = r->n_expert / r->n_group;
    for (uint32_t g = 0; g < r->n_group; g++) {
        const float *of = choice + g * size;
        float first = of[0], second = CLOSED;
        for (uint32_t i = 1; i < size; i++) {
            if (of[i] > first) {
                second = first;
                first = of[i];
            } else if (of[i] > second) {
                second = of[i];
            }
        }
        value[g] = r->group_score == ST_GROUP_TOP2 ? first + second : first;
    }
    mark_largest(value, r->n_group, r->n_group_used, open);
    for (uint32_t i = 0; i < r->n_expert; i++)
        if (!open[i / size])
            choice[i] = CLOSED;
}

static void route_row(const struct st_route *r, const float *bias, float *x)
{
    float choice[ST_ROUTE_MAX_EXPERTS];
    bool taken[ST_ROUTE_MAX_EXPERTS];
    to_scores(r->score, x, r->n_expert);
    for (uint32_t i = 0; i < r->n_expert; i++)
        choice[i] = bias ? x[i] + bias[i] : x[i];
    if (r->n_group)
        close_groups(r, choice);
    mark_largest(choice, r->n_expert, r->n_used, taken);

    float sum = 0;
    for (uint32_t i = 0; i < r->n_expert; i++)
        sum += taken[i] ? x[i] : 0;
    for (uint32_t i = 0; i < r->n_expert; i++) {
        float w = r->norm ? x[i] / (sum + 1e-20f) : x[i];
        x[i] = taken[i] ? w * r->scale : 0;
    }
}

struct route_step {
    const struct st_route *r;
    const float *bias;
    float *x;
    uint32_t n_row;
};

static void route_part(void *arg, int t, int n_threads)
{
    const struct route_step *s = arg;
    size_t lo, hi;
    st_pool_part(s->n_row, 1, t, n_threads, &lo, &hi);
    for (size_t i = lo; i < hi; i++)
        route_row(s->r, s->bias, s->x + i * s->r->n_expert);
}

void st_route(struct st_compute *c, const struct st_route *r, const float *bias, float *x, uint32_t n_row)
{
    struct route_step s = {r, bias, x, n_row};
    st_spread(c, (size_t)n_row * r->n_expert * (r->n_used + 8), route_part, &s);
}

uint32_t st_route_rows(const float *weights, uint32_t n_row, uint32_t n_expert, uint32_t expert, uint32_t *rows)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < n_row; r++)
        if (weights[(size_t)r * n_expert + expert] != 0)
            rows[n++] = r;
    return n;
}

struct move_step {
    const uint32_t *rows;
    uint32_t n, d;
    const float *x, *weights; /* weights: column of the expert */
    size_t ldw;
    float *y;
};

static void gather_part(void *arg, int t, int n_threads)
{
    const struct move_step *s = arg;
    size_t lo, hi;
    st_pool_part(s->n, 1, t, n_threads, &lo, &hi);
    for (size_t i = lo; i < hi; i++)
        memcpy(s->y + i * s->d, s->x + (size_t)s->rows[i] * s->d, s->d * sizeof *s->y);
}

void st_gather(struct st_compute *c, const float *x, const uint32_t *rows, uint32_t n, uint32_t d, float *y)
{
    struct move_step s = {.rows = rows, .n = n, .d = d, .x = x, .y = y};
    st_spread(c, (size_t)n * d, gather_part, &s);
}

static void scatter_part(void *arg, int t, int n_threads)
{
    const struct move_step *s = arg;
    size_t lo, hi;
    st_pool_part(s->n, 1, t, n_threads, &lo, &hi);
    for (size_t i = lo; i < hi; i++) {
        const float *x = s->x + i * s->d;
        float *y = s->y + (size_t)s->rows[i] * s->d, w = s->weights[s->rows[i] * s->ldw];
        for (uint32_t k = 0; k < s->d; k++)
            y[k] += w * x[k];
    }
}

void st_scatter(struct st_compute *c, const float *x, const uint32_t *rows, uint32_t n, uint32_t d,
                const float *weights, uint32_t n_expert, uint32_t expert, float *y)
{
    struct move_step s = {.rows = rows, .n = n, .d = d, .x = x, .weights = weights + expert, .ldw = n_expert, .y = y};
    st_spread(c, (size_t)n * d, scatter_part, &s);
}

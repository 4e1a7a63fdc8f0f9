#include "audit/climb.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

#define TRIED 5    /* plain ids for each id */
#define NEAR 12.0F /* nats of score behind the best: further ones are not tried */
#define LOOK 120   /* places of an id that are looked at */

struct climber {
    const struct st_climb *o;
    uint32_t *map;
    size_t *from;    /* [n_type + 1] places of each id in the text */
    uint32_t *place; /* [n] */
    uint32_t *stamp; /* [n] the last move that counted a place */
    uint32_t move;
};

static int find_places(struct climber *c, struct st_err *e)
{
    const struct st_climb *o = c->o;
    size_t *at;
    if (st_alloc(&c->from, (size_t)o->n_type + 2, sizeof *c->from, "hill climbing", e) ||
        st_alloc(&c->place, o->n + 1, sizeof *c->place, "hill climbing", e) ||
        st_alloc(&c->stamp, o->n + 1, sizeof *c->stamp, "hill climbing", e))
        return e->code;
    for (size_t i = 0; i < o->n; i++)
        if (o->seq[i] < o->n_type)
            c->from[o->seq[i] + 2]++;
    for (uint32_t t = 0; t < o->n_type; t++)
        c->from[t + 2] += c->from[t + 1];
    at = c->from + 1; /* walks to the end of each id's, where the next one's begin */
    for (size_t i = 0; i < o->n; i++)
        if (o->seq[i] < o->n_type)
            c->place[at[o->seq[i]]++] = (uint32_t)i;
    return 0;
}

static uint32_t plain_at(const struct climber *c, size_t i)
{
    uint32_t id = c->o->seq[i];
    return id < c->o->n_type ? c->map[id] : ST_NGRAM_BREAK;
}

/* Logarithm of the probability of the id at place i after the two before it. */
static double nats_at(const struct climber *c, size_t i)
{
    const struct st_ngram *m = c->o->model;
    uint32_t x = plain_at(c, i), y = i > 0 ? plain_at(c, i - 1) : ST_NGRAM_BREAK;
    uint32_t z = i > 1 ? plain_at(c, i - 2) : ST_NGRAM_BREAK;
    if (x == ST_NGRAM_BREAK)
        return 0;
    if (y == ST_NGRAM_BREAK)
        return log(m->one[x]);
    return log(z == ST_NGRAM_BREAK ? st_ngram_2(m, y, x) : st_ngram_3(m, z, y, x));
}

/* Of all places that id t takes part in, once in a move. */
static double nats_around(struct climber *c, uint32_t t)
{
    double sum = 0;
    size_t hi = c->from[t + 1];
    if (hi > c->from[t] + LOOK)
        hi = c->from[t] + LOOK;
    for (size_t k = c->from[t]; k < hi; k++)
        for (size_t i = c->place[k]; i < (size_t)c->place[k] + 3 && i < c->o->n; i++)
            if (c->stamp[i] != c->move) {
                c->stamp[i] = c->move;
                sum += nats_at(c, i);
            }
    return sum;
}

static double nats_of(struct climber *c, uint32_t a, uint32_t b)
{
    c->move++;
    return nats_around(c, a) + (b == a ? 0 : nats_around(c, b));
}

/* Id a takes plain id x, and b (a itself: nobody) takes what a had; stays so when the model likes it better. */
static bool try_move(struct climber *c, uint32_t a, uint32_t x, uint32_t b)
{
    uint32_t had = c->map[a];
    double before = nats_of(c, a, b);
    c->map[a] = x;
    if (b != a)
        c->map[b] = had;
    if (nats_of(c, a, b) > before + 1e-6)
        return true;
    c->map[a] = had;
    if (b != a)
        c->map[b] = x;
    return false;
}

static bool try_plain(struct climber *c, uint32_t a, uint32_t x)
{
    uint32_t n_holder = 0, n_free = c->o->n_type - c->o->n_fixed;
    for (uint32_t b = 0; b < n_free; b++)
        n_holder += c->map[b] == x;
    if (n_holder < c->o->room[x])
        return try_move(c, a, x, a);
    for (uint32_t b = 0; b < n_free; b++)
        if (c->map[b] == x && try_move(c, a, x, b))
            return true;
    return false;
}

/* The TRIED best plain ids of an id, falling; how many are near enough to the best. */
static size_t candidates(const struct st_dense *score, uint32_t a, uint32_t out[TRIED])
{
    const float *s = st_dense_row(score, a);
    size_t n = 0;
    for (uint32_t x = 0; x < score->n_col; x++) {
        size_t k = n < TRIED ? n++ : TRIED;
        for (; k > 0 && s[x] > s[out[k - 1]]; k--)
            if (k < TRIED)
                out[k] = out[k - 1];
        if (k < TRIED)
            out[k] = x;
    }
    while (n > 1 && s[out[n - 1]] < s[out[0]] - NEAR)
        n--;
    return n;
}

int st_climb(const struct st_climb *o, uint32_t *map, size_t *changes, struct st_err *e)
{
    struct climber c = {.o = o, .map = map};
    int rc = find_places(&c, e);
    *changes = 0;
    for (uint32_t a = 0; !rc && a + o->n_fixed < o->n_type; a++) {
        uint32_t best[TRIED];
        size_t n = candidates(o->score, a, best);
        if (o->cancel && *o->cancel)
            rc = st_fail(e, ST_IO, "cancelled");
        for (size_t k = 0; !rc && k < n; k++)
            if (best[k] != map[a] && o->room[best[k]])
                *changes += try_plain(&c, a, best[k]);
    }
    free(c.from);
    free(c.place);
    free(c.stamp);
    return rc;
}

#include "audit/decipher.h"

#include "audit/climb.h"
#include "audit/neighbours.h"
#include "audit/ngram.h"
#include "audit/ranking.h"
#include "base/buf.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 32          /* rows of a thread's part */
#define SCALINGS 6        /* of Sinkhorn, in each round */
#define SPREAD 0.25       /* of the logarithm of an id's share between two texts, beside that of counting */
#define MARKS_WEIGHT 0.5  /* sorted neighbours are not independent of one another */
#define MARKS_COUNT 100.0 /* more occurrences of an id do not make its marks surer: texts differ */
#define DAMP_FIRST 4.0    /* occurrences that count in full, in the first round */
#define DAMP_GROWTH 1.5   /* from round to round */
#define DAMP_LAST 400.0
#define CLIMBS 3 /* passes at most */

/* A text by its frequent ids: places in the ranking, then the border of documents, which is known in both. */
struct side {
    struct st_ranking rank;
    uint32_t n;    /* frequent ids; n is the border */
    uint32_t *seq; /* [n_seq] */
    size_t n_seq;
};

struct work {
    const struct st_decipher *d;
    struct st_pool *pool;
    struct side sent, prior;
    struct st_ngram model;
    struct st_neighbours after, before; /* of what was sent */
    struct st_dense first;              /* score of counts and marks [sent.n + 1][prior.n + 1] */
    struct st_dense belief;             /* q, and the scores that it is made of */
    struct st_dense right, left;        /* log sum_y q(b, y) ratio, for b behind and before x; the last scores */
    struct st_dense ratio;
    uint32_t *room; /* [prior.n + 1] ids that may stand for a plain id; none for the border */
    uint32_t *map;  /* [sent.n + 1] */
    double damp;
};

/* Frequent ids of what was sent: as many as plain ids, and all homophones if there is room for them. */
static uint32_t most_sent(const struct st_decipher *d)
{
    uint64_t n = d->n_type, most = (uint64_t)d->n_type * ST_DECIPHER_MORE;
    for (uint32_t p = 0; d->copies && p < d->n_plain; p++)
        n += d->copies[p];
    n = n < most ? n : most;
    return n < ST_NGRAM_TYPES - 1 ? (uint32_t)n : ST_NGRAM_TYPES - 1;
}

uint64_t st_decipher_bytes(const struct st_decipher *d)
{
    uint64_t n = most_sent(d) + 1ull, m = d->n_type + 1ull;
    return (4 * n + m) * m * sizeof(float);
}

static bool cancelled(const struct st_decipher *d)
{
    return d->cancel && *d->cancel;
}

/* ---- the two texts ---- */

static int number(const struct st_texts_ids *t, uint32_t n_id, uint32_t least, uint32_t most, struct side *s,
                  struct st_err *e)
{
    int rc = st_ranking_new(t, n_id, &s->rank, e);
    if (rc || (rc = st_alloc(&s->seq, st_texts_len(t) + t->n + 1, sizeof *s->seq, "text", e)) != 0)
        return rc;
    s->n = s->rank.n_used > least ? s->rank.n_used : least;
    s->n = s->n < most ? s->n : most;
    s->n = s->n < n_id ? s->n : n_id;
    for (size_t d = 0, i = 0; d < t->n; d++) {
        s->seq[s->n_seq++] = s->n;
        for (; i < t->ends[d]; i++) {
            uint32_t place = s->rank.place[t->ids[i]];
            s->seq[s->n_seq++] = place < s->n ? place : ST_NGRAM_BREAK;
        }
    }
    s->seq[s->n_seq++] = s->n;
    return 0;
}

/* ---- what counts and sorted neighbours tell ---- */

/* The prior as homophones would leave it: ids of their own for copies, behind the border. MEMORY. */
static int with_homophones(const struct work *w, size_t n, uint32_t **out, uint32_t *n_type, struct st_err *e)
{
    uint32_t border = w->prior.n, turn = 0, *first;
    *n_type = border + 1;
    if (st_alloc(&first, (size_t)border + 1, sizeof *first, "text", e))
        return e->code;
    for (uint32_t x = 0; x < border; x++) {
        first[x] = *n_type;
        *n_type += w->room[x] - 1;
    }
    int rc = st_alloc(out, n + 1, sizeof **out, "text", e);
    for (size_t i = 0; !rc && i < n; i++) {
        uint32_t id = w->prior.seq[i], copy = 0;
        if (id < border && w->room[id] > 1) {
            turn = turn * 1664525u + 1013904223u;
            copy = (turn >> 16) % w->room[id];
        }
        (*out)[i] = copy ? first[id] + copy - 1 : id;
    }
    free(first);
    return rc;
}

/* Distance of marks, each root of a share of n having deviation 1 / (2 sqrt(n)). */
static double marks_apart(const float *a, double n_a, const float *b, double n_b)
{
    double sum = 0;
    if (n_a == 0 || n_b == 0)
        return 0;
    n_a /= 1 + n_a / MARKS_COUNT;
    n_b /= 1 + n_b / MARKS_COUNT;
    for (size_t k = 0; k < 2 * (size_t)ST_NEIGHBOUR_MARKS; k++)
        sum += (double)(a[k] - b[k]) * (a[k] - b[k]);
    return 4 * sum / (1 / n_a + 1 / n_b);
}

struct marks {
    struct st_dense at;
    uint32_t *counts;
};

static int marks_new(const uint32_t *seq, size_t n, uint32_t n_type, uint32_t n_row, struct marks *m, struct st_err *e)
{
    int rc = st_alloc(&m->counts, (size_t)n_row + 1, sizeof *m->counts, "neighbours", e);
    return rc ? rc : st_neighbour_marks(seq, n, n_type, n_row, &m->at, m->counts, e);
}

static void fill_first(struct work *w, const struct marks *sent, const struct marks *prior)
{
    double n_sent = (double)w->sent.rank.total + 1, n_prior = (double)w->prior.rank.total + 1;
    for (uint32_t a = 0; a <= w->sent.n; a++)
        for (uint32_t x = 0; x <= w->prior.n; x++) {
            float *s = &st_dense_row(&w->first, a)[x];
            if (a == w->sent.n || x == w->prior.n) { /* the border is the border */
                *s = a == w->sent.n && x == w->prior.n ? 0 : -FLT_MAX / 4;
                continue;
            }
            double c_a = (double)w->sent.rank.count[w->sent.rank.id[a]] + 0.5;
            double c_x = (double)w->prior.rank.count[w->prior.rank.id[x]] + 0.5;
            double z = log(c_a / n_sent * n_prior * w->room[x] / c_x);
            double apart = z * z / (1 / c_a + 1 / c_x + SPREAD * SPREAD) +
                           MARKS_WEIGHT * marks_apart(st_dense_row(&sent->at, a), sent->counts[a],
                                                      st_dense_row(&prior->at, x), prior->counts[x]);
            *s = (float)(-0.5 * apart);
        }
}

static int compare_first(struct work *w, struct st_err *e)
{
    size_t n = w->sent.n_seq < w->prior.n_seq ? w->sent.n_seq : w->prior.n_seq;
    struct marks sent = {0}, prior = {0};
    uint32_t *spread = NULL, n_type = w->prior.n + 1;
    int rc = w->d->copies ? with_homophones(w, n, &spread, &n_type, e) : 0;
    if (!rc)
        rc = marks_new(w->sent.seq, n, w->sent.n + 1, w->sent.n, &sent, e);
    if (!rc)
        rc = marks_new(spread ? spread : w->prior.seq, n, n_type, w->prior.n, &prior, e);
    if (!rc)
        fill_first(w, &sent, &prior);
    free(spread);
    st_dense_free(&sent.at);
    st_dense_free(&prior.at);
    free(sent.counts);
    free(prior.counts);
    return rc;
}

/* ---- belief ---- */

static void to_shares(float *row, size_t n)
{
    float top = row[0];
    double sum = 0;
    for (size_t x = 1; x < n; x++)
        top = row[x] > top ? row[x] : top;
    for (size_t x = 0; x < n; x++) {
        row[x] = expf(row[x] - top);
        sum += row[x];
    }
    for (size_t x = 0; x < n; x++)
        row[x] = (float)(row[x] / sum);
}

static void shares_rows(void *arg, size_t row, size_t n)
{
    struct work *w = arg;
    for (size_t a = row; a < row + n; a++)
        to_shares(st_dense_row(&w->belief, a), w->belief.n_col);
}

/* Plain ids that more ids want than may have them are given out in shares. */
static int share_out(struct work *w, struct st_err *e)
{
    struct st_dense *q = &w->belief;
    double *wanted;
    if (st_alloc(&wanted, q->n_col, sizeof *wanted, "deciphering", e))
        return e->code;
    for (int turn = 0; turn < SCALINGS; turn++) {
        memset(wanted, 0, q->n_col * sizeof *wanted);
        for (size_t a = 0; a + 1 < q->n_row; a++)
            for (size_t x = 0; x < q->n_col; x++)
                wanted[x] += st_dense_row(q, a)[x];
        for (size_t x = 0; x < q->n_col; x++)
            wanted[x] = wanted[x] > w->room[x] ? w->room[x] / wanted[x] : 1;
        for (size_t a = 0; a + 1 < q->n_row; a++) {
            float *row = st_dense_row(q, a);
            double sum = FLT_MIN;
            for (size_t x = 0; x < q->n_col; x++) {
                row[x] = (float)(row[x] * wanted[x]);
                sum += row[x];
            }
            for (size_t x = 0; x < q->n_col; x++)
                row[x] = (float)(row[x] / sum);
        }
    }
    free(wanted);
    return 0;
}

static void log_rows(void *arg, size_t row, size_t n)
{
    struct work *w = arg;
    struct st_dense *both[] = {&w->right, &w->left};
    for (int i = 0; i < 2; i++) {
        float *p = st_dense_row(both[i], row);
        for (size_t k = 0; k < n * both[i]->n_col; k++)
            p[k] = logf(p[k] + FLT_MIN);
    }
}

static void add_neighbours(const struct st_neighbours *s, const struct st_dense *says, uint32_t a, float by, float *row)
{
    for (size_t k = s->from[a]; k < s->from[a + 1]; k++) {
        const float *m = st_dense_row(says, s->at[k].id);
        float c = by * (float)s->at[k].count;
        for (size_t x = 0; x < says->n_col; x++)
            row[x] += c * m[x];
    }
}

static void score_rows(void *arg, size_t from, size_t n)
{
    struct work *w = arg;
    for (size_t a = from; a < from + n; a++) {
        float *row = st_dense_row(&w->belief, a);
        memcpy(row, st_dense_row(&w->first, a), w->first.n_col * sizeof *row);
        if (a == w->sent.n)
            continue;
        double count = (double)w->sent.rank.count[w->sent.rank.id[a]];
        float by = (float)(1 / (1 + count / w->damp));
        add_neighbours(&w->after, &w->right, (uint32_t)a, by, row);
        add_neighbours(&w->before, &w->left, (uint32_t)a, by, row);
    }
}

/* Scores of all ids from what is believed of their neighbours. */
static void score_all(struct work *w)
{
    st_dense_product(w->pool, &w->belief, &w->ratio, true, &w->right);
    st_dense_product(w->pool, &w->belief, &w->ratio, false, &w->left);
    st_dense_blocks(w->pool, w->belief.n_row, BLOCK, log_rows, w);
    st_dense_blocks(w->pool, w->belief.n_row, BLOCK, score_rows, w);
}

static int believe(struct work *w, struct st_err *e)
{
    st_dense_blocks(w->pool, w->belief.n_row, BLOCK, shares_rows, w);
    return share_out(w, e);
}

static int take_turns(struct work *w, struct st_err *e)
{
    const struct st_decipher *d = w->d;
    int rounds = d->rounds ? d->rounds : ST_DECIPHER_ROUNDS;
    memcpy(w->belief.p, w->first.p, w->first.n_row * w->first.n_col * sizeof *w->first.p);
    int rc = believe(w, e);
    w->damp = DAMP_FIRST;
    for (int i = 0; !rc && i < rounds; i++) {
        if (cancelled(d))
            return st_fail(e, ST_IO, "cancelled");
        score_all(w);
        memcpy(w->right.p, w->belief.p, w->belief.n_row * w->belief.n_col * sizeof *w->belief.p);
        rc = believe(w, e);
        w->damp = fmin(w->damp * DAMP_GROWTH, DAMP_LAST);
        if (d->progress)
            d->progress(d->arg, 0.9 * (i + 1) / rounds);
    }
    return rc;
}

/* ---- from belief to a table ---- */

#define BEST 4

struct choice {
    float sure;
    uint32_t id, plain;
};

static int by_sure(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;
    if (x->sure != y->sure)
        return x->sure < y->sure ? 1 : -1;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (x->plain > y->plain) - (x->plain < y->plain);
}

static size_t best_of(const struct st_dense *q, uint32_t id, struct choice out[BEST])
{
    const float *row = st_dense_row(q, id);
    size_t n = 0;
    for (uint32_t x = 0; x + 1 < q->n_col; x++) {
        if (n == BEST && row[x] <= out[BEST - 1].sure)
            continue;
        size_t k = n < BEST ? n++ : BEST - 1;
        for (; k > 0 && row[x] > out[k - 1].sure; k--)
            out[k] = out[k - 1];
        out[k] = (struct choice){row[x], id, x};
    }
    return n;
}

/* The surest first, while there is room; map of those that found none is ST_NGRAM_BREAK. left [prior.n + 1] is the
 * room that remains. */
static int choose(struct work *w, uint32_t *left, struct st_err *e)
{
    struct choice *all;
    size_t n = 0;
    if (st_alloc(&all, (size_t)(w->sent.n + 1) * BEST, sizeof *all, "deciphering", e))
        return e->code;
    for (uint32_t a = 0; a < w->sent.n; a++) {
        n += best_of(&w->belief, a, all + n);
        w->map[a] = ST_NGRAM_BREAK;
    }
    qsort(all, n, sizeof *all, by_sure);
    for (size_t i = 0; i < n; i++)
        if (w->map[all[i].id] == ST_NGRAM_BREAK && left[all[i].plain]) {
            w->map[all[i].id] = all[i].plain;
            left[all[i].plain]--;
        }
    w->map[w->sent.n] = w->prior.n;
    free(all);
    return 0;
}

/* Frequent ids without a plain id get those that are left, by rank. */
static void choose_rest(struct work *w, uint32_t *left)
{
    uint32_t x = 0;
    for (uint32_t a = 0; a < w->sent.n; a++) {
        if (w->map[a] != ST_NGRAM_BREAK)
            continue;
        while (x < w->prior.n && !left[x])
            x++;
        if (x == w->prior.n)
            return;
        w->map[a] = x;
        left[x]--;
    }
}

static int climb(struct work *w, struct st_err *e)
{
    size_t changes = 1;
    const struct st_climb c = {.seq = w->sent.seq,
                               .n = w->sent.n_seq,
                               .n_type = w->sent.n + 1,
                               .score = &w->right,
                               .room = w->room,
                               .n_fixed = 1,
                               .model = &w->model,
                               .cancel = w->d->cancel};
    for (int i = 0; i < CLIMBS && changes; i++)
        if (st_climb(&c, w->map, &changes, e))
            return e->code;
    return 0;
}

/* The table in ids; those beyond the frequent ones get what is left, by rank. */
static int write_guess(const struct work *w, uint32_t *guess, struct st_err *e)
{
    uint32_t *taken, x = 0, none = w->d->n_plain;
    if (st_alloc(&taken, none, sizeof *taken, "deciphering", e))
        return e->code;
    for (uint32_t i = 0; i < w->d->n_id; i++)
        guess[i] = none;
    for (uint32_t a = 0; a < w->sent.n && a < w->sent.rank.n_used; a++)
        if (w->map[a] != ST_NGRAM_BREAK) {
            guess[w->sent.rank.id[a]] = w->prior.rank.id[w->map[a]];
            taken[w->prior.rank.id[w->map[a]]]++;
        }
    for (uint32_t a = 0; a < w->sent.rank.n_used; a++) {
        uint32_t id = w->sent.rank.id[a];
        if (guess[id] != none)
            continue;
        while (x < none && taken[w->prior.rank.id[x]])
            x++;
        if (x < none)
            guess[id] = w->prior.rank.id[x++];
    }
    free(taken);
    return 0;
}

static int make_table(struct work *w, uint32_t *guess, struct st_err *e)
{
    uint32_t *left;
    if (st_alloc(&left, (size_t)w->prior.n + 1, sizeof *left, "deciphering", e))
        return e->code;
    memcpy(left, w->room, ((size_t)w->prior.n + 1) * sizeof *left);
    int rc = choose(w, left, e);
    if (!rc) {
        choose_rest(w, left);
        rc = climb(w, e);
    }
    if (!rc)
        rc = write_guess(w, guess, e);
    free(left);
    return rc;
}

/* ---- all ---- */

static int prepare(struct work *w, struct st_err *e)
{
    const struct st_decipher *d = w->d;
    uint32_t most = d->n_type < ST_NGRAM_TYPES - 1 ? d->n_type : ST_NGRAM_TYPES - 1;
    int rc = number(d->sent, d->n_id, 1, most_sent(d), &w->sent, e);
    if (!rc)
        rc = number(d->prior, d->n_plain, w->sent.n, most, &w->prior, e);
    if (rc)
        return rc;
    size_t n = (size_t)w->sent.n + 1, m = (size_t)w->prior.n + 1;
    if (st_dense_new(&w->first, n, m, "deciphering", e) || st_dense_new(&w->belief, n, m, "deciphering", e) ||
        st_dense_new(&w->right, n, m, "deciphering", e) || st_dense_new(&w->left, n, m, "deciphering", e) ||
        st_dense_new(&w->ratio, m, m, "deciphering", e) || st_alloc(&w->room, m, sizeof *w->room, "deciphering", e) ||
        st_alloc(&w->map, n, sizeof *w->map, "deciphering", e) ||
        st_ngram_new(w->prior.seq, w->prior.n_seq, w->prior.n + 1, 3, &w->model, e) ||
        st_neighbours_new(w->sent.seq, w->sent.n_seq, w->sent.n + 1, false, &w->after, e) ||
        st_neighbours_new(w->sent.seq, w->sent.n_seq, w->sent.n + 1, true, &w->before, e))
        return e->code;
    for (uint32_t x = 0; x < w->prior.n; x++) /* the border has no room for others */
        w->room[x] = 1 + (d->copies ? d->copies[w->prior.rank.id[x]] : 0);
    st_ngram_ratios(&w->model, &w->ratio);
    return compare_first(w, e);
}

static void work_free(struct work *w)
{
    struct side *sides[] = {&w->sent, &w->prior};
    struct st_dense *dense[] = {&w->first, &w->belief, &w->right, &w->left, &w->ratio};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        st_ranking_free(&sides[i]->rank);
        free(sides[i]->seq);
    }
    for (size_t i = 0; i < sizeof dense / sizeof *dense; i++)
        st_dense_free(dense[i]);
    st_ngram_free(&w->model);
    st_neighbours_free(&w->after);
    st_neighbours_free(&w->before);
    free(w->room);
    free(w->map);
}

int st_decipher(struct st_pool *pool, const struct st_decipher *d, uint32_t *guess, struct st_err *e)
{
    struct work w = {.d = d, .pool = pool};
    int rc = prepare(&w, e);
    if (!rc)
        rc = take_turns(&w, e);
    if (!rc)
        rc = make_table(&w, guess, e);
    if (!rc && d->progress)
        d->progress(d->arg, 1);
    work_free(&w);
    return rc;
}

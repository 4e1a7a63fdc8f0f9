/* Column-first matching (A2): the columns of products first, by marks that no order of rows changes, then rows from the
 * columns that are sure, in turns (audit/columns.h). Embedding with gates, head with downs, and both together: what
 * noise on the one blurs is read from the other. Source: ours. */
#include "audit/columns.h"
#include "audit/match.h"
#include "base/buf.h"

#include <stdlib.h>

#define NAME "vma-columns"
#define LAYERS 4 /* that are enough of a large model; small ones take part whole */
#define SMALL (1u << 22)

struct side {
    const char *name;
    enum st_view_family family;
};
static const struct side sides[] = {{"embedding and gates", ST_VIEW_GATE}, {"head and downs", ST_VIEW_DOWN}};
#define N_SIDE (sizeof sides / sizeof *sides)

struct share {
    const struct st_audit *a;
    double from;
};

static void progress(void *arg, double part)
{
    const struct share *s = arg;
    if (s->a->progress)
        s->a->progress(s->a->arg, NAME, s->from + part / (N_SIDE + .2));
}

/* Views of both, matching, and the points of both sides put together. */
static uint64_t takes(const struct st_audit *a, enum st_view_family f, uint32_t n_layer)
{
    const struct st_model *base = a->target->pair.base, *seen = a->target->pair.seen;
    struct st_view_size b = st_view_size(base, f, n_layer), s = st_view_size(seen, f, n_layer);
    uint64_t points =
        4 * sizeof(float) * base->config.d_model * ((uint64_t)base->config.n_vocab + seen->config.n_vocab);
    return b.bytes + s.bytes + points +
           st_columns_bytes(seen->config.n_vocab, base->config.d_model, seen->config.d_model, b.columns, b.widest);
}

static int match_side(const struct st_audit *a, size_t i, struct st_columns_found *found, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    bool small = (uint64_t)p->base->config.n_vocab * p->base->config.d_model <= SMALL || a->thorough;
    struct share share = {a, (double)i / (N_SIDE + .2)};
    struct st_columns_opts o = {.rows = i ? p->noise.head : p->noise.embed,
                                .columns = p->noise.all,
                                .seed = a->seed + 1000 * i,
                                .cancel = a->cancel,
                                .progress = progress,
                                .arg = &share};
    struct st_view base = {0}, seen = {0};
    uint32_t n = small || p->base->config.n_layer < LAYERS ? p->base->config.n_layer : LAYERS;
    while (n > 1 && takes(a, sides[i].family, n) > a->memory)
        n--;
    int rc = st_match_fits(a, takes(a, sides[i].family, n), e);
    if (!rc)
        rc = st_view_of_model(p->base, sides[i].family, n, &base, e);
    if (!rc)
        rc = st_view_of_model(p->seen, sides[i].family, n, &seen, e);
    if (!rc)
        rc = st_columns_first(a->pool, &base, &seen, &o, found, e);
    st_view_free(&base);
    st_view_free(&seen);
    return rc;
}

static int join(const struct st_dense *const parts[N_SIDE], struct st_dense *out, struct st_err *e)
{
    size_t k = 0, at = 0;
    for (size_t i = 0; i < N_SIDE; i++)
        k += parts[i]->n_col;
    if (st_dense_new(out, parts[0]->n_row, k, "columns first", e))
        return e->code;
    for (size_t i = 0; i < N_SIDE; i++)
        st_match_append(out, &at, parts[i], 1);
    return 0;
}

/* Of one side alone, whose points are given back. */
static int report_side(const struct st_audit *a, const char *name, struct st_columns_found *f, uint32_t *guess,
                       struct st_rows *rows, struct st_err *e)
{
    int rc = st_match_points(a->pool, &f->guess, &f->rows, false, guess, e);
    if (!rc)
        rc = st_match_report(a, name, guess, NULL, rows, e);
    st_columns_found_free(f);
    return rc;
}

static int report(const struct st_audit *a, struct st_columns_found found[N_SIDE], struct st_rows *rows,
                  struct st_err *e)
{
    struct st_dense seen = {0}, base = {0};
    uint32_t *guess = NULL;
    const struct st_dense *g[N_SIDE] = {&found[0].guess, &found[1].guess},
                          *r[N_SIDE] = {&found[0].rows, &found[1].rows};
    if (join(g, &seen, e) || join(r, &base, e) || st_alloc(&guess, seen.n_row, sizeof *guess, "columns first", e))
        goto out;
    if (report_side(a, sides[0].name, &found[0], guess, rows, e) ||
        report_side(a, sides[1].name, &found[1], guess, rows, e))
        goto out;
    if (st_match_points(a->pool, &seen, &base, true, guess, e) || st_match_report(a, "both", guess, NULL, rows, e))
        goto out;
out:
    free(guess);
    st_dense_free(&seen);
    st_dense_free(&base);
    return e->code;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct st_columns_found found[N_SIDE] = {0};
    e->code = 0;
    if (st_match_check(a, e))
        return e->code;
    for (size_t i = 0; i < N_SIDE; i++)
        if (match_side(a, i, &found[i], e))
            goto out;
    report(a, found, rows, e);
out:
    for (size_t i = 0; i < N_SIDE; i++)
        st_columns_found_free(&found[i]);
    return e->code;
}

const struct st_attack st_atk_columns = {
    .name = NAME,
    .title = "Columns first, then rows, in turns",
    .metric = "share of token types and of the text recovered",
    .source = "ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};

#include "audit/match.h"
#include "audit/metrics.h"
#include "base/buf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int st_match_points(struct st_pool *pool, struct st_dense *seen, struct st_dense *base, bool one_to_one,
                    uint32_t *guess, struct st_err *e)
{
    struct st_dense cost;
    if (!one_to_one || seen->n_row != base->n_row || seen->n_row > ST_MATCH_ASSIGN)
        return st_dense_nearest(pool, seen, base, guess, NULL, NULL, e);
    if (st_dense_new(&cost, seen->n_row, base->n_row, "matching", e))
        return e->code;
    int rc = st_dense_distances(pool, seen, base, &cost, e);
    if (!rc)
        rc = st_dense_assign(&cost, guess, e);
    st_dense_free(&cost);
    return rc;
}

static int add(struct st_row *row, const char *variant, const char *what, const char *metric, struct st_rows *rows,
               struct st_err *e)
{
    row->metric = metric;
    snprintf(row->variant, sizeof row->variant, "%s%s%s", variant, *variant ? ": " : "", what);
    return st_rows_add(rows, row, e);
}

int st_match_report(const struct st_audit *a, const char *variant, const uint32_t *guess, const char *note,
                    struct st_rows *rows, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    const struct st_texts_ids *text = &a->target->text;
    uint32_t n_plain = p->base->config.n_vocab, n_seen = p->seen->config.n_vocab;
    bool *used = NULL, *right = NULL;
    struct st_row row = {.chance = 1.0 / n_plain, .unprotected = 1, .in_clear = true, .cost = NAN};
    e->code = 0;
    snprintf(row.note, sizeof row.note, "%s", note ? note : "");
    if (st_alloc(&used, n_plain, sizeof *used, "scores", e) || st_alloc(&right, n_plain, sizeof *right, "scores", e))
        goto out;
    st_score_used(text, used, n_plain);
    st_score_right(guess, p->truth, n_seen, n_plain, right, n_plain);
    st_score_types(&row, guess, p->truth, n_seen, n_plain, used);
    if (add(&row, variant, "types", "share of the token types of the text recovered", rows, e))
        goto out;
    if (st_score_table_text(&row, right, text, NULL, n_plain, e) ||
        add(&row, variant, "text", "share of the tokens of the text recovered", rows, e))
        goto out;
    if (!text->n_item)
        goto out;
    st_score_items(&row, right, text);
    row.chance = 0;
    add(&row, variant, "items", "share of personal items recovered whole", rows, e);
out:
    free(used);
    free(right);
    return e->code;
}

void st_match_append(struct st_dense *to, size_t *at, const struct st_dense *points, double by)
{
    for (size_t r = 0; r < points->n_row; r++)
        for (size_t k = 0; k < points->n_col; k++)
            st_dense_row(to, r)[*at + k] = (float)(by * st_dense_row(points, r)[k]);
    *at += points->n_col;
}

uint32_t st_match_layers(const struct st_audit *a, uint64_t bytes)
{
    uint64_t n = bytes ? a->memory / bytes : UINT32_MAX;
    return n < 1 ? 1 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

int st_match_fits(const struct st_audit *a, uint64_t bytes, struct st_err *e)
{
    if (bytes <= a->memory)
        return 0;
    return st_fail(e, ST_MEMORY, "%s: takes %" PRIu64 " MiB; --memory leaves it %" PRIu64 " MiB",
                   a->target->base ? a->target->base->name : "it", (bytes >> 20) + 1, a->memory >> 20);
}

uint64_t st_match_embed_bytes(const struct st_audit *a)
{
    const struct st_config *b = &a->target->pair.base->config, *s = &a->target->pair.seen->config;
    uint64_t n = (uint64_t)b->n_vocab + s->n_vocab, d = b->d_model > s->d_model ? b->d_model : s->d_model;
    uint64_t values = n * (5 * d + 4) + 16 * d * d; /* as they lie, centred, whitened, mapped, copied; maps in double */
    if (b->n_vocab == s->n_vocab && b->n_vocab <= ST_MATCH_ASSIGN)
        values += 2 * (uint64_t)b->n_vocab * b->n_vocab;
    return sizeof(float) * values;
}

int st_match_check(const struct st_audit *a, struct st_err *e)
{
    const struct st_config *b = &a->target->pair.base->config, *s = &a->target->pair.seen->config;
    if (s->n_vocab < b->n_vocab)
        return st_fail(e, ST_INPUT, "the obfuscated model has %u ids, its base %u", s->n_vocab, b->n_vocab);
    if (s->n_layer != b->n_layer)
        return st_fail(e, ST_INPUT, "the obfuscated model has %u layers, its base %u", s->n_layer, b->n_layer);
    return 0;
}

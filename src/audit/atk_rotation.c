/* Linking two keys. The server kept the checkpoint that an earlier key made; it needs no base. When a new key comes, it
 * matches the new checkpoint with the old one as if that were the base: what it counted or learned under the old key
 * then still counts. Scores are of new ids that were matched with their old ones.
 * Source: ours; the matching is that of vma-row-sort, vma-columns and function. */
#include "audit/match.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ST_ATTACK(name) extern const struct st_attack name;
ST_ATTACK(st_atk_row_sort)
ST_ATTACK(st_atk_columns)
ST_ATTACK(st_atk_function)
#undef ST_ATTACK

static const struct {
    const struct st_attack *attack;
    const char *variant; /* its strongest one: what is reported */
    const char *name;
    bool thorough;
} ways[] = {
    {&st_atk_row_sort, "all together", "row sort", false},
    {&st_atk_columns, "both", "columns first", false},
    {&st_atk_function, "two-sided", "function", true},
};

/* The old checkpoint as a base, with truth and text in its ids. */
struct linking {
    struct st_target target;
    uint32_t *old, *truth, *ids; /* [n_plain], [n_vocab of seen], [text] */
};

static void linking_free(struct linking *l)
{
    free(l->old);
    free(l->truth);
    free(l->ids);
}

static int make_linking(const struct st_target *t, struct linking *l, struct st_err *e)
{
    const struct st_pair *now = &t->pair, *before = &t->before;
    uint32_t n_plain = now->base->config.n_vocab, n_old = before->seen->config.n_vocab,
             n_seen = now->seen->config.n_vocab;
    size_t n_text = st_texts_len(&t->text);
    if (st_alloc(&l->old, n_plain, sizeof *l->old, "keys", e) ||
        st_alloc(&l->truth, n_seen, sizeof *l->truth, "keys", e) ||
        st_alloc(&l->ids, n_text, sizeof *l->ids, "keys", e))
        return e->code;
    for (uint32_t i = 0; i < n_plain; i++)
        l->old[i] = n_old;
    for (uint32_t i = n_old; i-- > 0;)
        if (before->truth[i] < n_plain)
            l->old[before->truth[i]] = i;
    for (uint32_t i = 0; i < n_seen; i++)
        l->truth[i] = now->truth[i] < n_plain ? l->old[now->truth[i]] : n_old;
    for (size_t i = 0; i < n_text; i++) {
        if (l->old[t->text.ids[i]] == n_old)
            return st_fail(e, ST_INPUT, "an id of the text has none under the earlier key");
        l->ids[i] = l->old[t->text.ids[i]];
    }
    l->target = *t;
    l->target.text.ids = l->ids;
    l->target.base = before->seen;
    l->target.pair = (struct st_pair){.base = before->seen,
                                      .seen = now->seen,
                                      .truth = l->truth,
                                      .noise = {.embed = hypot(now->noise.embed, before->noise.embed),
                                                .head = hypot(now->noise.head, before->noise.head),
                                                .all = hypot(now->noise.all, before->noise.all)},
                                      .preset = now->preset,
                                      .homophones = now->homophones};
    return 0;
}

/* Rows of the strongest variant, under this attack's name. */
static int take_rows(const struct st_rows *from, size_t way, struct st_rows *rows, struct st_err *e)
{
    size_t n = strlen(ways[way].variant);
    for (size_t i = 0; i < from->n; i++) {
        struct st_row row = from->at[i];
        if (strncmp(row.variant, ways[way].variant, n) != 0 || row.variant[n] != ':')
            continue;
        snprintf(row.variant, sizeof row.variant, "%s%.60s", ways[way].name, from->at[i].variant + n);
        snprintf(row.note, sizeof row.note, "by the checkpoint of an earlier key, without the base");
        if (st_rows_add(rows, &row, e))
            return e->code;
    }
    return 0;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct linking l = {.old = NULL};
    struct st_audit own = *a;
    size_t from = rows->n;
    e->code = 0;
    if (!a->target->before.seen)
        return st_fail(e, ST_UNSUPPORTED, "linking keys: there is no checkpoint of an earlier key");
    if (make_linking(a->target, &l, e))
        goto out;
    own.target = &l.target;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct st_rows found = {0};
        if (ways[i].thorough && !a->thorough)
            continue;
        int rc = ways[i].attack->run(&own, &found, e);
        if (!rc)
            rc = take_rows(&found, i, rows, e);
        st_rows_free(&found);
        if (rc == ST_UNSUPPORTED || rc == ST_MEMORY)
            rc = st_rows_leave_out(rows, ways[i].name, e->msg, e);
        if (rc)
            goto out;
        e->code = 0;
    }
    if (rows->n == from)
        st_fail(e, ST_UNSUPPORTED, "linking keys: no way of matching these two checkpoints");
out:
    linking_free(&l);
    return e->code;
}

const struct st_attack st_atk_rotation = {
    .name = "key-rotation",
    .title = "A new key linked with the one before",
    .metric = "share of token types and of the text whose new ids were matched with their old ones",
    .source = "ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};

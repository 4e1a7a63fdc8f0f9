/* Inversion of internal states (A8). The server runs the obfuscated model on what users send and records its inside; it
 * has the base, runs candidates for each next token through it, and takes the one whose states are most alike.
 *   attention scores    knows base and method; compares products q.k sorted over heads
 *   hidden states       knows base and method; compares inner products of states of one layer
 *   states, N pairs     knows N pairs of ids besides, and maps hidden states by them
 * In all of them the first token of a document is known (BOS, or what the chat template begins with). Chance is what
 * the base alone guesses as the likeliest next token after what was recovered.
 * The published form descends by gradient from a random soft input; a search over candidates asks for less and finds
 * the same or more. Source: arXiv 2603.01499, app. F; arXiv 2505.18332; forms ours. */
#include "audit/known.h"
#include "audit/match.h"
#include "audit/states.h"
#include "audit/views.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACCEPT 1e-6 /* nearer than rounding leaves two models that compute the same */

struct inversion {
    const struct st_audit *a;
    uint32_t *to; /* [n_vocab of base] cipher id */
    size_t n_doc, n_token;
    uint32_t n_candidate;
    struct st_dense map; /* of seen states into the base's space */
    size_t n_pair;
};

/* What maps embeddings maps states: the key of the hidden state is one for the whole model. */
static int learn_map(struct inversion *v, struct st_err *e)
{
    const struct st_pair *p = &v->a->target->pair;
    struct st_dense x = {0}, y = {0};
    struct st_known k = {0};
    double square = 0;
    e->code = 0;
    if (st_view_rows(p->base, ST_ROLE_EMBED, &x, e) || st_view_rows(p->seen, ST_ROLE_EMBED, &y, e) ||
        st_known_pick(v->a, 2 * x.n_col < x.n_row / 2 ? 2 * x.n_col : x.n_row / 2, false, &k, e) ||
        st_dense_new(&v->map, y.n_col, x.n_col, "states", e))
        goto out;
    for (size_t i = 0; i < k.n; i++)
        for (size_t j = 0; j < y.n_col; j++)
            square += (double)st_dense_row(&y, k.seen[i])[j] * st_dense_row(&y, k.seen[i])[j] / (double)y.n_col;
    const struct st_pairs pairs = st_known_pairs(&k);
    v->n_pair = k.n;
    if (st_fit_ridge(&y, &x, &pairs, 1e-4 * square + 1e-12, &v->map, e))
        goto out;
out:
    st_dense_free(&x);
    st_dense_free(&y);
    st_known_free(&k);
    return e->code;
}

/* States of one document as the server records them. */
static int record(const struct inversion *v, const uint32_t *plain, size_t n, int layer, struct st_states *out,
                  struct st_err *e)
{
    struct st_lanes *l = NULL;
    uint32_t *ids = NULL;
    if (st_states_new(v->a->target->pair.seen, layer, n, out, e))
        return e->code;
    const struct st_tap tap = st_states_tap(out);
    int rc = st_alloc(&ids, n, sizeof *ids, "states", e);
    if (!rc)
        rc = st_lanes_new(v->a->target->pair.seen, st_pool_size(v->a->pool), 1, n, &tap, &l, e);
    for (size_t i = 0; !rc && i < n; i++)
        ids[i] = v->to[plain[i]];
    out->n = n;
    if (!rc)
        rc = st_lanes_run(l, ids, n - 1, ids + n - 1, 1, e);
    st_lanes_free(l);
    free(ids);
    return rc;
}

struct tally {
    uint64_t hits, n, likeliest;
};

static int one_document(const struct inversion *v, enum st_state_form form, int layer, const uint32_t *plain, size_t n,
                        struct tally *t, struct st_err *e)
{
    struct st_states seen;
    uint32_t *got = NULL;
    size_t likeliest = 0;
    if (record(v, plain, n, layer, &seen, e)) {
        st_states_free(&seen);
        return e->code;
    }
    const struct st_state_search s = {.base = v->a->target->pair.base,
                                      .form = form,
                                      .layer = layer,
                                      .n_threads = st_pool_size(v->a->pool),
                                      .n_candidate = v->n_candidate,
                                      .seen = &seen,
                                      .map = form == ST_STATE_MAPPED ? &v->map : NULL,
                                      .accept = ACCEPT,
                                      .cancel = v->a->cancel};
    int rc = st_alloc(&got, n, sizeof *got, "states", e);
    if (!rc) {
        got[0] = plain[0];
        rc = st_state_find(&s, got, n, plain, &likeliest, e);
    }
    for (size_t i = 1; !rc && i < n; i++)
        t->hits += got[i] == plain[i];
    t->n += n - 1;
    t->likeliest += likeliest;
    free(got);
    st_states_free(&seen);
    return rc;
}

static int with_form(const struct inversion *v, enum st_state_form form, int layer, struct st_rows *rows,
                     struct st_err *e)
{
    static const char *const names[] = {"attention scores", "hidden states", "hidden states"};
    const struct st_texts_ids *text = &v->a->target->text;
    struct st_row row = {.unprotected = 1, .cost = NAN, .metric = "share of the tokens of the text recovered"};
    struct tally t = {0};
    for (size_t d = 0; d < text->n && d < v->n_doc; d++) {
        size_t lo = d ? text->ends[d - 1] : 0, n = text->ends[d] - lo;
        n = n < v->n_token ? n : v->n_token;
        if (n > 1 && one_document(v, form, layer, text->ids + lo, n, &t, e))
            return e->code;
        if (v->a->progress)
            v->a->progress(v->a->arg, "states", (double)(d + 1) / (double)v->n_doc);
    }
    if (!t.n)
        return st_fail(e, ST_UNSUPPORTED, "internal states: no document of the text has two tokens");
    st_row_share(&row, t.hits, t.n);
    row.chance = (double)t.likeliest / (double)t.n;
    if (form == ST_STATE_MAPPED) {
        snprintf(row.variant, sizeof row.variant, "%s of layer %d, %zu pairs", names[form], layer, v->n_pair);
        snprintf(row.note, sizeof row.note, "given %zu pairs of ids; %u candidates each; chance: the base alone",
                 v->n_pair, v->n_candidate);
    } else {
        snprintf(row.variant, sizeof row.variant, "%s of layer %d", names[form], layer);
        snprintf(row.note, sizeof row.note, "%u candidates each; chance: the base alone", v->n_candidate);
    }
    return st_rows_add(rows, &row, e);
}

static int find_cipher(struct inversion *v, struct st_err *e)
{
    const struct st_pair *p = &v->a->target->pair;
    uint32_t n = p->base->config.n_vocab;
    if (st_alloc(&v->to, n, sizeof *v->to, "states", e))
        return e->code;
    for (uint32_t i = p->seen->config.n_vocab; i-- > 0;)
        if (p->truth[i] < n)
            v->to[p->truth[i]] = i;
    return 0;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct inversion v = {.a = a,
                          .n_doc = a->thorough ? 4 : 2,
                          .n_token = a->thorough ? 64 : 20,
                          .n_candidate = a->thorough ? 2048 : 128};
    int last = (int)a->target->pair.base->config.n_layer - 1, middle = last / 2;
    e->code = 0;
    if (st_match_check(a, e) || find_cipher(&v, e) || learn_map(&v, e) || with_form(&v, ST_STATE_SCORES, 0, rows, e) ||
        with_form(&v, ST_STATE_GRAM, middle, rows, e) || with_form(&v, ST_STATE_MAPPED, middle, rows, e))
        goto out;
    if (a->thorough && last > 0 &&
        (with_form(&v, ST_STATE_SCORES, last, rows, e) || with_form(&v, ST_STATE_GRAM, last, rows, e)))
        goto out;
out:
    free(v.to);
    st_dense_free(&v.map);
    return e->code;
}

const struct st_attack st_atk_states = {
    .name = "states",
    .title = "Internal states against candidates",
    .metric = "share of the tokens of the text recovered",
    .source = "arXiv 2603.01499, app. F; arXiv 2505.18332; forms ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};

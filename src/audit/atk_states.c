/* Inversion of internal states (A8). The server runs the obfuscated model on what users send and records its inside; it
 * has the base, runs candidates for each next token through it, and takes the one whose states are most alike.
 *   attention scores    knows base and method; compares products q.k sorted over heads
 *   hidden states       knows base and method; compares inner products of states of one layer
 *   states, N pairs     knows N pairs of ids besides, and maps hidden states by them
 *   gradient            the published form: from a random soft input down the gradient to the seen scores, head by
 *                       head as they stand, or to hidden states mapped by pairs; then the nearest embedding rows
 *
 * In all of them the first token of a document is known (BOS, or what the chat template begins with). Chance is what
 * the base alone guesses as the likeliest next token after what was recovered; of the gradient, which has no model of
 * language, the commonest token. Letters come first: names and numbers are what a base cannot guess. One miss spoils
 * what follows it, so intervals of searches are by document. Unprotected is what the same search or descent finds in
 * states of the base itself: of the search less than all where the token is not among its candidates. It asks for no
 * derivatives and finds more. Source: arXiv 2603.01499, app. F; arXiv 2505.18332; forms ours. */
#include "audit/descend.h"
#include "audit/known.h"
#include "audit/match.h"
#include "audit/metrics.h"
#include "audit/states.h"
#include "audit/views.h"
#include "base/buf.h"
#include "engine/kv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DOCS 24     /* documents with `thorough`, */
#define SEARCHED 3  /* else: of letters nearly all candidates are run, */
#define N_DESCENT 1 /* else of the descent */
#define DESCENT 32  /* tokens of a document: with fewer, scores leave the input open */
#define ACCEPT 1e-6 /* nearer than rounding leaves two models that compute the same */

struct inversion {
    const struct st_audit *a;
    uint32_t *to;                      /* [n_vocab of base] cipher id */
    size_t docs[DOCS], n_doc, n_token; /* which; tokens of each at most */
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

/* States of one document as whoever runs the model records them; to: cipher ids, NULL = it takes plain ones. */
static int record(const struct inversion *v, const struct st_model *m, const uint32_t *to, const uint32_t *plain,
                  size_t n, int layer, struct st_states *out, struct st_err *e)
{
    struct st_lanes *l = NULL;
    uint32_t *ids = NULL;
    if (st_states_new(m, layer, n, out, e))
        return e->code;
    const struct st_tap tap = st_states_tap(out);
    int rc = st_alloc(&ids, n, sizeof *ids, "states", e);
    if (!rc)
        rc = st_lanes_new(m, st_pool_size(v->a->pool), 1, n, &tap, &l, e);
    for (size_t i = 0; !rc && i < n; i++)
        ids[i] = to ? to[plain[i]] : plain[i];
    out->n = n;
    if (!rc)
        rc = st_lanes_run(l, ids, n - 1, ids + n - 1, 1, e);
    st_lanes_free(l);
    free(ids);
    return rc;
}

struct tally {
    double hits[DOCS], n[DOCS]; /* of each document */
    uint64_t open, likeliest;   /* open: found in states of the base itself */
    size_t n_doc;
};

static double total(const double *of, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += of[i];
    return sum;
}

/* Documents of two tokens at least, those with personal items first. */
static void choose_documents(struct inversion *v, size_t most)
{
    const struct st_texts_ids *text = &v->a->target->text;
    for (int letters = 1; letters >= 0; letters--)
        for (size_t d = 0; d < text->n && v->n_doc < most; d++) {
            size_t lo = d ? text->ends[d - 1] : 0, hi = text->ends[d];
            bool letter = false;
            for (size_t i = 0; i < text->n_item && !letter; i++)
                letter = text->items[i].lo >= lo && text->items[i].hi <= hi;
            if (letter == (letters == 1) && hi - lo > 1)
                v->docs[v->n_doc++] = d;
        }
}

/* The first tokens of document number i of those chosen. */
static const uint32_t *document(const struct inversion *v, size_t i, size_t most, size_t *n)
{
    const struct st_texts_ids *text = &v->a->target->text;
    size_t d = v->docs[i], lo = d ? text->ends[d - 1] : 0, len = text->ends[d] - lo;
    *n = len < most ? len : most;
    return text->ids + lo;
}

/* What is found in the states that `m` has of a document, given its first token. map: NULL = they are in the base's
 * space. */
static int find(const struct inversion *v, const struct st_state_search *form, const struct st_model *m,
                const uint32_t *to, const uint32_t *plain, size_t n, uint64_t *hits, size_t *likeliest,
                struct st_err *e)
{
    struct st_states seen = {.n = 0};
    struct st_state_search s = *form;
    uint32_t *got = NULL;
    int rc = record(v, m, to, plain, n, s.layer, &seen, e);
    s.seen = &seen;
    if (!rc)
        rc = st_alloc(&got, n, sizeof *got, "states", e);
    if (!rc) {
        got[0] = plain[0];
        rc = st_state_find(&s, got, n, plain, likeliest, e);
    }
    for (size_t i = 1; !rc && i < n; i++)
        *hits += got[i] == plain[i];
    free(got);
    st_states_free(&seen);
    return rc;
}

static int one_document(const struct inversion *v, enum st_state_form form, int layer, const uint32_t *plain, size_t n,
                        struct tally *t, struct st_err *e)
{
    const struct st_pair *p = &v->a->target->pair;
    size_t likeliest = 0, ignored;
    uint64_t hits = 0;
    struct st_state_search s = {.base = p->base,
                                .form = form,
                                .layer = layer,
                                .n_threads = st_pool_size(v->a->pool),
                                .n_candidate = v->n_candidate,
                                .accept = ACCEPT,
                                .cancel = v->a->cancel};
    if (find(v, &s, p->base, NULL, plain, n, &t->open, &ignored, e))
        return e->code;
    s.map = form == ST_STATE_MAPPED ? &v->map : NULL;
    if (find(v, &s, p->seen, v->to, plain, n, &hits, &likeliest, e))
        return e->code;
    t->hits[t->n_doc] = (double)hits;
    t->n[t->n_doc++] = (double)(n - 1);
    t->likeliest += likeliest;
    return 0;
}

static int with_form(const struct inversion *v, enum st_state_form form, int layer, struct st_rows *rows,
                     struct st_err *e)
{
    static const char *const names[] = {"attention scores", "hidden states", "hidden states"};
    struct st_row row = {.cost = NAN, .metric = "share of the tokens of the text recovered"};
    struct tally t = {.n_doc = 0};
    for (size_t i = 0; i < v->n_doc; i++) {
        size_t n;
        const uint32_t *plain = document(v, i, v->n_token, &n);
        if (one_document(v, form, layer, plain, n, &t, e))
            return e->code;
        if (v->a->progress)
            v->a->progress(v->a->arg, "states", (double)(i + 1) / (double)v->n_doc);
    }
    st_row_groups(&row, t.hits, t.n, t.n_doc);
    row.chance = (double)t.likeliest / total(t.n, t.n_doc);
    row.unprotected = (double)t.open / total(t.n, t.n_doc);
    if (form == ST_STATE_MAPPED) {
        snprintf(row.variant, sizeof row.variant, "%s of layer %d, %zu pairs", names[form], layer, v->n_pair);
        snprintf(row.note, sizeof row.note,
                 "given %zu pairs of ids; %u candidates each; %zu documents; chance: the base alone", v->n_pair,
                 v->n_candidate, t.n_doc);
    } else {
        snprintf(row.variant, sizeof row.variant, "%s of layer %d", names[form], layer);
        snprintf(row.note, sizeof row.note, "%u candidates each; %zu documents; chance: the base alone", v->n_candidate,
                 t.n_doc);
    }
    return st_rows_add(rows, &row, e);
}

/* ---- by gradient ---- */

struct gradient {
    const struct inversion *v;
    struct st_blocks blocks; /* layers 0 to `layer` of the base */
    struct st_dense embed;
    int layer;
    double spread;
    bool scores;
};

/* What is descended to: scores [n_head][n][n], or hidden states [n][d] in the base's space. */
static void fill_want(const struct gradient *g, const struct st_states *seen, const struct st_dense *map, float *want)
{
    size_t n = seen->n, head = seen->query.n_col / seen->n_head, share = seen->n_head / seen->n_kv;
    for (size_t t = 0; !g->scores && t < n; t++)
        (void)st_state_values(seen, ST_STATE_MAPPED, map, t, want + t * g->embed.n_col);
    for (size_t i = 0; g->scores && i < seen->n_head * n * n; i++) {
        const float *q = st_dense_row(&seen->query, i / n % n) + i / n / n * head,
                    *k = st_dense_row(&seen->key, i % n) + i / n / n / share * head;
        double sum = 0;
        for (size_t c = 0; c < head; c++)
            sum += (double)q[c] * k[c];
        want[i] = (float)sum;
    }
}

/* The soft input that gives these states, and how many of the text's tokens are nearest to it. map: NULL = the states
 * are the base's. */
static int descend(const struct gradient *g, const struct st_states *seen, const struct st_dense *map,
                   const uint32_t *plain, uint64_t *hits, struct st_err *e)
{
    size_t n = seen->n, d = g->embed.n_col;
    struct st_dense x = {0}, table = {0};
    float *want = NULL;
    uint32_t *nearest = NULL;
    if (seen->n_head != g->blocks.n_head || (!g->scores && !map && seen->hidden.n_col != d))
        return st_fail(e, ST_UNSUPPORTED, "gradient: %zu heads, the base has %u", seen->n_head, g->blocks.n_head);
    e->code = 0;
    if (st_dense_new(&x, n, d, "descent", e) || st_dense_new(&table, g->embed.n_row, d, "descent", e) ||
        st_alloc(&want, g->scores ? n * n * seen->n_head : n * d, sizeof *want, "descent", e) ||
        st_alloc(&nearest, n, sizeof *nearest, "descent", e))
        goto out;
    fill_want(g, seen, map, want);
    const struct st_descent to = {.blocks = &g->blocks,
                                  .n = (uint32_t)n,
                                  .hidden = g->scores ? NULL : want,
                                  .scores = g->scores ? want : NULL,
                                  .first = st_dense_row(&g->embed, plain[0]),
                                  .spread = g->spread,
                                  .n_step = g->v->a->thorough ? 1000 : 300,
                                  .seed = g->v->a->seed,
                                  .cancel = g->v->a->cancel};
    memcpy(table.p, g->embed.p, table.n_row * d * sizeof *table.p);
    if (st_descend(&to, x.p, e))
        goto out;
    if (g->scores) { /* the norm before queries and keys leaves lengths open */
        st_unit_rows(&x);
        st_unit_rows(&table);
    }
    if (st_dense_nearest(g->v->a->pool, &x, &table, nearest, NULL, NULL, e))
        goto out;
    for (size_t t = 1; t < n; t++)
        *hits += nearest[t] == plain[t];
out:
    st_dense_free(&x);
    st_dense_free(&table);
    free(want);
    free(nearest);
    return e->code;
}

static int descend_document(const struct gradient *g, const uint32_t *plain, size_t n, uint64_t *hits, uint64_t *open,
                            struct st_err *e)
{
    struct st_states seen = {.n = 0}, own = {.n = 0};
    const struct st_pair *p = &g->v->a->target->pair;
    const struct st_dense *map = g->scores ? NULL : &g->v->map; /* scores need none */
    int rc = record(g->v, p->seen, g->v->to, plain, n, g->layer, &seen, e);
    if (!rc)
        rc = record(g->v, p->base, NULL, plain, n, g->layer, &own, e);
    if (!rc)
        rc = descend(g, &seen, map, plain, hits, e);
    if (!rc)
        rc = descend(g, &own, NULL, plain, open, e);
    st_states_free(&seen);
    st_states_free(&own);
    return rc;
}

/* Few documents: the descent takes many passes. */
static int by_gradient(const struct inversion *v, bool scores, int layer, struct st_rows *rows, struct st_err *e)
{
    const struct st_model *base = v->a->target->pair.base;
    struct gradient g = {.v = v, .layer = layer, .scores = scores};
    struct st_row row = {.cost = NAN, .metric = "share of the tokens of the text recovered"};
    double hits[DOCS], of[DOCS];
    struct st_score_weights w;
    struct st_ids said = {0};
    uint64_t open = 0;
    size_t n_doc = v->a->thorough || v->n_doc < N_DESCENT ? v->n_doc : N_DESCENT;
    if (st_blocks_of_model(base, (uint32_t)layer + 1, &g.blocks, e))
        return e->code;
    if (st_view_rows(base, ST_ROLE_EMBED, &g.embed, e) || st_view_spread(v->a->pool, &g.embed, &g.spread, e))
        goto out;
    for (size_t i = 0; i < n_doc; i++) {
        size_t n;
        uint64_t right = 0;
        const uint32_t *plain = document(v, i, DESCENT, &n);
        if (descend_document(&g, plain, n, &right, &open, e))
            goto out;
        hits[i] = (double)right;
        of[i] = (double)(n - 1);
        for (size_t k = 1; k < n; k++)
            st_ids_add(&said, plain[k]);
    }
    if (said.failed ? st_fail(e, ST_MEMORY, "states: no memory")
                    : st_score_weigh(said.p, said.len, base->config.n_vocab, NULL, &w, e))
        goto out;
    if (n_doc > 1)
        st_row_groups(&row, hits, of, n_doc);
    else
        st_row_share(&row, (uint64_t)hits[0], (uint64_t)of[0]); /* no token of a descent waits for another */
    row.chance = w.commonest;
    row.unprotected = (double)open / total(of, n_doc);
    if (scores)
        snprintf(row.variant, sizeof row.variant, "gradient, attention scores of layer %d", layer);
    else
        snprintf(row.variant, sizeof row.variant, "gradient, hidden states of layer %d, %zu pairs", layer, v->n_pair);
    snprintf(row.note, sizeof row.note, "from a random soft input, without a model of language");
    if (st_rows_add(rows, &row, e))
        goto out;
out:
    st_dense_free(&g.embed);
    st_blocks_free(&g.blocks);
    st_ids_free(&said);
    return e->code;
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

/* The map, caches of all lanes and what they compute, and layer 0 with a pass for the descent. */
static uint64_t takes(const struct inversion *v)
{
    const struct st_model *both[] = {v->a->target->pair.base, v->a->target->pair.seen};
    uint64_t lanes = 0, n = v->n_token > DESCENT ? v->n_token : DESCENT;
    for (int i = 0; i < 2; i++) {
        const struct st_config *c = &both[i]->config;
        uint64_t row = 8 * (uint64_t)c->d_model + 4 * (uint64_t)c->d_ff + c->n_vocab;
        uint64_t of =
            (ST_STATE_LANES + 1) * (st_kv_blocks_for((uint32_t)n + 1) * (uint64_t)st_kv_block_bytes(c, ST_DTYPE_F32) +
                                    2 * row * sizeof(float));
        lanes = of > lanes ? of : lanes;
    }
    const struct st_config *b = &both[0]->config;
    uint64_t layer = (uint64_t)b->d_model * (4 * (uint64_t)b->d_model + 3 * (uint64_t)b->d_ff);
    uint64_t pass = n * (24 * (uint64_t)b->d_model + 12 * (uint64_t)b->d_ff + 4 * n * b->n_head);
    return st_match_embed_bytes(v->a) + lanes + sizeof(float) * (layer + pass);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct inversion v = {.a = a, .n_token = a->thorough ? 64 : 14, .n_candidate = a->thorough ? 2048 : 128};
    int last = (int)a->target->pair.base->config.n_layer - 1, middle = last / 2;
    e->code = 0;
    choose_documents(&v, a->thorough ? DOCS : SEARCHED);
    if (!v.n_doc)
        return st_fail(e, ST_UNSUPPORTED, "internal states: no document of the text has two tokens");
    if (st_match_check(a, e) || st_match_fits(a, takes(&v), e) || find_cipher(&v, e) || learn_map(&v, e) ||
        with_form(&v, ST_STATE_SCORES, 0, rows, e) || with_form(&v, ST_STATE_GRAM, middle, rows, e) ||
        with_form(&v, ST_STATE_MAPPED, middle, rows, e))
        goto out;
    for (int scores = 1; scores >= 0; scores--) {
        if (by_gradient(&v, scores, 0, rows, e) && e->code != ST_UNSUPPORTED)
            goto out;
        /* Of another architecture than plain Llama's there are no derivatives: the forms above stand. */
        if (!e->code)
            continue;
        e->code = 0;
        if (st_rows_leave_out(rows, scores ? "gradient, attention scores" : "gradient, hidden states", e->msg, e))
            goto out;
    }
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

/* Trained inverter (A7): a network learns to say which plain token an embedding row is.
 *   N pairs    trained on the victim's own rows whose plain ids are known, with noise of the public size added: fair
 *   own keys   trained on rows that the adversary obfuscated himself, all of them, in the form of whitened rows with
 *              signs by third moments, which no rotation changes: the published form leaves the key's rotation in its
 *              inputs and so cannot succeed; this one can where variances of directions are apart
 * Each with two networks: a small one that sees a row by itself, and (`transformer`, the published kind) one that reads
 * the victim's traffic, row after row, after lessons on the prior text; what it says of an id at all its places counts
 * together. The transformer begins with the map that the pairs give by themselves, so that few steps are no excuse.
 * Sources: arXiv 2603.01499, section 6 (IMA); the form of the inputs is ours (papers/attacks.md A3, A7). */
#include "audit/known.h"
#include "audit/match.h"
#include "audit/mlp.h"
#include "audit/reader.h"
#include "audit/views.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HIDDEN 128
#define STEPS 400
#define STEPS_THOROUGH 6000
#define READER_STEPS 60
#define READER_STEPS_THOROUGH 2000
#define READER_VALUES (1 << 20) /* of the transformer, at least: its layers, and a pass of one batch */
#define READ 16384              /* tokens of the victim's traffic that the transformer reads */
#define ALONE 1e-3F
#define JITTER .05 /* noise of inputs where the method adds none: rows are few, and the network could learn them */

struct inverter {
    const struct st_audit *a;
    struct st_dense y, x; /* whitened rows of both sides */
    double noise;         /* of a whitened value */
    uint32_t *guess;
    uint32_t *traffic; /* [n_traffic] the text as the server sees it */
    size_t n_traffic;
};

static int see_traffic(struct inverter *v, struct st_err *e)
{
    const struct st_pair *p = &v->a->target->pair;
    const struct st_texts_ids *text = &v->a->target->text;
    uint32_t n_plain = p->base->config.n_vocab, *cipher = NULL;
    v->n_traffic = st_texts_len(text) < READ ? st_texts_len(text) : READ;
    e->code = 0;
    if (st_alloc(&cipher, n_plain, sizeof *cipher, "inverter", e) ||
        st_alloc(&v->traffic, v->n_traffic, sizeof *v->traffic, "inverter", e))
        goto out;
    for (uint32_t i = p->seen->config.n_vocab; i-- > 0;)
        if (p->truth[i] < n_plain)
            cipher[p->truth[i]] = i;
    for (size_t i = 0; i < v->n_traffic; i++)
        v->traffic[i] = cipher[text->ids[i]];
out:
    free(cipher);
    return e->code;
}

static int open_rows(struct inverter *v, struct st_err *e)
{
    const struct st_pair *p = &v->a->target->pair;
    struct st_dense rows[2] = {0};
    double sigma;
    e->code = 0;
    if (st_view_rows(p->base, ST_ROLE_EMBED, &rows[0], e) || st_view_rows(p->seen, ST_ROLE_EMBED, &rows[1], e) ||
        st_view_spread(v->a->pool, &rows[0], &sigma, e))
        goto out;
    size_t d = rows[0].n_col < rows[1].n_col ? rows[0].n_col : rows[1].n_col;
    double noise = p->noise.embed * sigma;
    if (st_whiten_rows(v->a->pool, &rows[0], d, noise * noise, &v->x, e) ||
        st_whiten_rows(v->a->pool, &rows[1], d, 0, &v->y, e) ||
        st_alloc(&v->guess, v->y.n_row, sizeof *v->guess, "inverter", e) || see_traffic(v, e))
        goto out;
    /* Of a value of deviation 1, what is noise: 1 minus what is left of the plain rows' variance. */
    double left = 0;
    for (size_t i = 0; i < v->x.n_row * d; i++)
        left += (double)v->x.p[i] * v->x.p[i] / (double)(v->x.n_row * d);
    v->noise = sqrt(fmax(1 - left, JITTER * JITTER));
out:
    st_dense_free(&rows[0]);
    st_dense_free(&rows[1]);
    return e->code;
}

/* By angle; out changes. */
static int match(struct inverter *v, struct st_dense *out, struct st_err *e)
{
    struct st_dense table;
    if (st_dense_new(&table, v->x.n_row, v->x.n_col, "inverter", e))
        return e->code;
    memcpy(table.p, v->x.p, v->x.n_row * v->x.n_col * sizeof *table.p);
    st_unit_rows(&table);
    st_unit_rows(out);
    int rc = st_match_points(v->a->pool, out, &table, false, v->guess, e);
    st_dense_free(&table);
    return rc;
}

/* Learns from rows, and says what the victim's rows are. */
static int invert(struct inverter *v, const struct st_dense *rows, const struct st_pairs *p, double noise,
                  struct st_err *e)
{
    struct st_mlp m = {0};
    struct st_dense out = {0};
    uint32_t d = (uint32_t)v->x.n_col;
    const struct st_mlp_lesson l = {.rows = rows,
                                    .table = &v->x,
                                    .row = p->seen,
                                    .label = p->base,
                                    .n = p->n,
                                    .noise = noise,
                                    .n_step = v->a->thorough ? STEPS_THOROUGH : STEPS,
                                    .seed = v->a->seed,
                                    .cancel = v->a->cancel};
    e->code = 0;
    if (st_mlp_new(&m, d, HIDDEN, d, v->a->seed, e) || st_mlp_train(&m, &l, e) ||
        st_dense_new(&out, v->y.n_row, d, "inverter", e) || st_mlp_apply(&m, &v->y, &out, e) || match(v, &out, e))
        goto out;
out:
    st_mlp_free(&m);
    st_dense_free(&out);
    return e->code;
}

/* What of the lesson stands for each plain id, and the rows that nothing is known of. */
static void fill_lesson(const struct inverter *v, const struct st_pairs *p, struct st_reader_lesson *l, uint32_t *row,
                        uint32_t *others)
{
    size_t n = l->rows->n_row;
    memset(row, 0xff, v->x.n_row * sizeof *row);
    memset(others, 0, n * sizeof *others);
    for (size_t i = 0; i < p->n; i++) {
        row[p->base[i]] = p->seen[i];
        others[p->seen[i]] = 1;
    }
    for (uint32_t i = 0; i < n; i++)
        if (!others[i])
            others[l->n_other++] = i; /* l->n_other <= i: marks that are still read lie ahead */
    l->row = row;
    l->others = others;
}

/* The same by a transformer, which begins with the map. */
static int read_text(struct inverter *v, const struct st_dense *rows, const struct st_pairs *p,
                     const struct st_dense *map, double noise, struct st_err *e)
{
    struct st_reader r = {.n_in = 0};
    struct st_dense out = {0}, alone = {0};
    uint32_t d = (uint32_t)v->x.n_col, *row = NULL, *others = NULL;
    struct st_reader_lesson l = {.rows = rows,
                                 .table = &v->x,
                                 .text = &v->a->target->prior,
                                 .noise = noise,
                                 .n_step = v->a->thorough ? READER_STEPS_THOROUGH : READER_STEPS,
                                 .seed = v->a->seed,
                                 .cancel = v->a->cancel};
    e->code = 0;
    if (st_alloc(&row, v->x.n_row, sizeof *row, "inverter", e) ||
        st_alloc(&others, rows->n_row, sizeof *others, "inverter", e) ||
        st_dense_new(&out, v->y.n_row, d, "inverter", e) || st_dense_new(&alone, v->y.n_row, d, "inverter", e))
        goto out;
    fill_lesson(v, p, &l, row, others);
    if (st_reader_new(&r, d, d, map, v->a->seed, e) || st_reader_train(&r, &l, e) ||
        st_reader_read(&r, &v->y, v->traffic, v->n_traffic, v->a->cancel, &out, e))
        goto out;
    /* Ids that were not read: by the map that it learned for rows by themselves. */
    const struct st_dense a = {.p = r.a, .n_row = d, .n_col = d};
    st_dense_product(v->a->pool, &v->y, &a, true, &alone);
    for (size_t i = 0; i < out.n_row * d; i++)
        out.p[i] += ALONE * alone.p[i];
    if (match(v, &out, e))
        goto out;
out:
    st_reader_free(&r);
    st_dense_free(&out);
    st_dense_free(&alone);
    free(row);
    free(others);
    return e->code;
}

static bool has_prior(const struct inverter *v)
{
    return st_texts_len(&v->a->target->prior) >= ST_READER_LEN;
}

static int with_pairs(struct inverter *v, size_t n, struct st_rows *rows, struct st_err *e)
{
    struct st_known k;
    struct st_dense map = {0};
    char name[64], note[120];
    if (st_known_pick(v->a, n, false, &k, e))
        return e->code;
    const struct st_pairs p = st_known_pairs(&k);
    snprintf(name, sizeof name, "%zu pairs", k.n);
    snprintf(note, sizeof note, "given %zu pairs of ids, drawn by chance", k.n);
    /* The rows that he has hold the victim's noise already; a little more keeps the network from learning them. */
    if (invert(v, &v->y, &p, .5 * v->noise, e) || st_known_report(v->a, name, v->guess, &k, note, rows, e))
        goto out;
    if (!has_prior(v))
        goto out;
    snprintf(name, sizeof name, "transformer, %zu pairs", k.n);
    snprintf(note, sizeof note, "given %zu pairs of ids, drawn by chance; reads the traffic", k.n);
    if (st_dense_new(&map, v->y.n_col, v->x.n_col, "inverter", e) || st_fit_turn(&v->y, &v->x, &p, &map, e) ||
        read_text(v, &v->y, &p, &map, .5 * v->noise, e) || st_known_report(v->a, name, v->guess, &k, note, rows, e))
        goto out;
out:
    st_dense_free(&map);
    st_known_free(&k);
    return e->code;
}

static int own_keys(struct inverter *v, struct st_rows *rows, struct st_err *e)
{
    uint32_t *same;
    if (st_alloc(&same, v->x.n_row, sizeof *same, "inverter", e))
        return e->code;
    for (uint32_t i = 0; i < v->x.n_row; i++)
        same[i] = i;
    const struct st_pairs p = {same, same, v->x.n_row};
    int rc = invert(v, &v->x, &p, v->noise, e);
    if (!rc)
        rc = st_match_report(v->a, "own keys", v->guess, "trained without any pair of the victim's", rows, e);
    if (!rc && has_prior(v))
        rc = read_text(v, &v->x, &p, NULL, v->noise, e);
    if (!rc && has_prior(v))
        rc = st_match_report(v->a, "transformer, own keys", v->guess, "trained without any pair of the victim's", rows,
                             e);
    free(same);
    return rc;
}

/* Rows, and a network with its gradient and both moments: the larger of the two that are tried, one after the other. */
static uint64_t takes(const struct st_audit *a)
{
    const struct st_config *b = &a->target->pair.base->config, *s = &a->target->pair.seen->config;
    uint64_t d = b->d_model < s->d_model ? b->d_model : s->d_model;
    return st_match_embed_bytes(a) + 4 * sizeof(float) * (d * (d + 2 * HIDDEN) + READER_VALUES);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct inverter v = {.a = a};
    uint32_t n = a->target->pair.base->config.n_vocab;
    e->code = 0;
    if (st_match_check(a, e) || st_match_fits(a, takes(a), e) || open_rows(&v, e) || with_pairs(&v, n / 4, rows, e) ||
        (a->thorough && with_pairs(&v, n / 2, rows, e)) || own_keys(&v, rows, e))
        goto out;
out:
    st_dense_free(&v.y);
    st_dense_free(&v.x);
    free(v.guess);
    free(v.traffic);
    return e->code;
}

const struct st_attack st_atk_inverter = {
    .name = "ima-trained",
    .title = "Trained inversion of the embedding",
    .metric = "share of token types and of the text recovered that were not given",
    .source = "arXiv 2603.01499, section 6; form of the inputs ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};

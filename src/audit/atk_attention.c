/* Reads prompts off attention products that left for a worker (`--attention outside-breakable`). The packing falls to
 * the test of pairs (atk_pairwise.h), which gives the keys of layer 0 in secret order and but for a factor each. Keys
 * of layer 0 are of one token and one position: the lengths of their rotated pairs tell the token, the angles the
 * position.
 *
 * The worker has the model. Of each document the exchange is read that has all of its keys (of the first block, at most
 * 512), that of the first kv head; documents were asked one after the other.
 * Source: ours, on arXiv 2507.03278. */
#include "audit/atk_pairwise.h"
#include "audit/metrics.h"
#include "audit/seen.h"
#include "base/buf.h"
#include "engine/record.h"
#include "field/fq.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCORES "attention_scores"
#define SAMPLE 1024   /* tokens of the text, whole documents */
#define BLOCK 512     /* keys that one exchange holds at most */
#define CANDIDATES 16 /* tokens that are turned to every position */
#define CHUNK 256     /* tokens whose keys are computed together */

/* Rows have a length of at most sqrt(q/2) before they are packed (protect/masked/rows.h), and so have their values. */
static const struct st_pack_field packed = {.prime = ST_FQ, .limit = 46341};

/* What the worker knows of keys of layer 0. */
struct keys {
    struct st_dense at0;     /* [n_vocab][head_dim] of the first kv head at position 0, not rotated */
    struct st_dense lengths; /* the same, rotated pairs as their lengths; each row of length 1 */
    struct st_rotary rotary;
    float *inv_freq;
};

static void keys_free(struct keys *k)
{
    st_dense_free(&k->at0);
    st_dense_free(&k->lengths);
    free(k->inv_freq);
}

/* ---- keys of every token ---- */

static const struct st_plan_op *rope_of_keys(const struct st_plan *p)
{
    for (int i = 0; i < p->n_op; i++)
        if (p->ops[i].op == ST_OP_ROPE && p->ops[i].role == ST_ROLE_K && p->ops[i].layer == 0)
            return &p->ops[i];
    return NULL;
}

/* Runs what stands before the rotation of keys, on rows of tokens at slots[..]; what only queries and values need is
 * left out. */
static int run_plan(const struct st_model *m, struct st_compute *c, const struct st_plan_op *end, float **slots,
                    const uint32_t *ids, uint32_t n, struct st_err *e)
{
    const struct st_plan *p = &m->plan;
    for (const struct st_plan_op *op = p->ops; op < end; op++) {
        if (op->op == ST_OP_EMBED)
            st_embed(c, &m->mats[op->weight], ids, n, slots[op->out]);
        else if (op->op == ST_OP_NORM && op->role != ST_ROLE_Q_NORM) {
            uint32_t width = p->slot_width[op->out], head = op->head ? op->head : width;
            st_rmsnorm(c, slots[op->in], m->mats[op->weight].data, op->eps > 0 ? op->eps : m->config.norm_eps,
                       n * (width / head), head, slots[op->out]);
        } else if (op->op == ST_OP_LINEAR && op->role == ST_ROLE_K) {
            struct st_linear_job job = {
                .w = &m->mats[op->weight], .bias = op->bias >= 0 ? m->mats[op->bias].data : NULL, .y = slots[op->out]};
            st_linear(c, &job, 1, slots[op->in], n);
        } else if (op->op != ST_OP_LINEAR && op->op != ST_OP_ROPE && op->role != ST_ROLE_Q_NORM)
            return st_fail(e, ST_UNSUPPORTED, "%s: keys of layer 0 come by a way that is not known here", m->name);
    }
    return 0;
}

/* Both values of pair i of a head. */
static void pair_at(const struct st_rotary *r, uint32_t i, uint32_t *x, uint32_t *y)
{
    *x = r->first + (r->interleaved ? 2 * i : i);
    *y = r->interleaved ? *x + 1 : *x + r->n_pair;
}

/* Lengths of pairs at their first place, 0 at the second, at length 1 in all: no rotation and no factor changes it. */
static void to_lengths(const struct st_rotary *r, const float *key, size_t d, float *out)
{
    double square = 0;
    for (size_t k = 0; k < d; k++)
        square += (double)key[k] * key[k];
    float scale = square > 0 ? (float)(1 / sqrt(square)) : 0;
    for (size_t k = 0; k < d; k++)
        out[k] = key[k] * scale;
    for (uint32_t i = 0; i < r->n_pair; i++) {
        uint32_t x, y;
        pair_at(r, i, &x, &y);
        out[x] = hypotf(out[x], out[y]);
        out[y] = 0;
    }
}

static int fill_keys(const struct st_model *m, const struct st_plan_op *rope, struct st_compute *c, float **slots,
                     struct keys *k, struct st_err *e)
{
    uint32_t ids[CHUNK], width = m->plan.slot_width[rope->in];
    size_t d = k->at0.n_col;
    for (size_t at = 0, n; at < k->at0.n_row; at += n) {
        n = k->at0.n_row - at < CHUNK ? k->at0.n_row - at : CHUNK;
        for (size_t i = 0; i < n; i++)
            ids[i] = (uint32_t)(at + i);
        if (run_plan(m, c, rope, slots, ids, (uint32_t)n, e))
            return e->code;
        for (size_t i = 0; i < n; i++) {
            memcpy(st_dense_row(&k->at0, at + i), slots[rope->in] + i * width, d * sizeof(float));
            to_lengths(&k->rotary, st_dense_row(&k->at0, at + i), d, st_dense_row(&k->lengths, at + i));
        }
    }
    return 0;
}

static int keys_new(const struct st_model *m, struct keys *k, struct st_err *e)
{
    const struct st_plan *p = &m->plan;
    const struct st_plan_op *rope = rope_of_keys(p);
    struct st_compute *c = NULL;
    float **slots = NULL;
    uint32_t widest = 1;
    if (!rope || p->slot_width[rope->in] % rope->head)
        return st_fail(e, ST_UNSUPPORTED, "%s: layer 0 has no rotated keys of its own", m->name);
    for (int s = 0; s < p->n_slot; s++)
        widest = p->slot_width[s] > widest ? p->slot_width[s] : widest;
    const struct st_compute_opts o = {.n_threads = 1, .max_row = CHUNK, .max_width = widest};
    int rc = st_alloc(&k->inv_freq, m->config.rope_dim / 2, sizeof *k->inv_freq, "rotary frequencies", e);
    if (!rc)
        rc = st_dense_new(&k->at0, m->config.n_vocab, rope->head, "keys of tokens", e);
    if (!rc)
        rc = st_dense_new(&k->lengths, m->config.n_vocab, rope->head, "keys of tokens", e);
    if (!rc)
        rc = st_alloc(&slots, (size_t)p->n_slot, sizeof *slots, "slots", e);
    for (int s = 0; s < p->n_slot && !rc; s++)
        rc = st_alloc(&slots[s], CHUNK, p->slot_width[s] * sizeof **slots, "slots", e);
    if (!rc)
        rc = st_compute_new(&o, &c, e);
    if (!rc) {
        st_config_inv_freq(&m->config, k->inv_freq);
        k->rotary = (struct st_rotary){.inv_freq = k->inv_freq,
                                       .n_pair = rope->rotated / 2,
                                       .first = rope->rotate_at,
                                       .gain = st_config_rope_gain(&m->config),
                                       .interleaved = m->config.rope_interleaved};
        rc = fill_keys(m, rope, c, slots, k, e);
    }
    for (int s = 0; s < p->n_slot && slots; s++)
        free(slots[s]);
    free(slots);
    st_compute_free(c);
    return rc;
}

/* ---- one exchange ---- */

/* Cosine of what was found with a token's key at a position. */
static double cosine_at(const struct keys *k, const float *found, uint32_t token, uint32_t pos)
{
    const float *key = st_dense_row(&k->at0, token);
    float turned[ST_ATTN_MAX_HEAD_DIM];
    memcpy(turned, key, k->at0.n_col * sizeof *key);
    for (uint32_t i = 0; i < k->rotary.n_pair; i++) {
        uint32_t x, y;
        float s = sinf((float)pos * k->inv_freq[i]), c = cosf((float)pos * k->inv_freq[i]);
        pair_at(&k->rotary, i, &x, &y);
        turned[x] = k->rotary.gain * (key[x] * c - key[y] * s);
        turned[y] = k->rotary.gain * (key[x] * s + key[y] * c);
    }
    return st_score_cosine(found, turned, k->at0.n_col);
}

/* The CANDIDATES nearest tokens by lengths. */
static size_t nearest(const struct keys *k, const float *found, uint32_t out[CANDIDATES])
{
    const size_t d = k->at0.n_col;
    float lengths[ST_ATTN_MAX_HEAD_DIM];
    double far[CANDIDATES];
    size_t n = 0;
    to_lengths(&k->rotary, found, d, lengths);
    for (uint32_t t = 0; t < k->lengths.n_row; t++) {
        const float *one = st_dense_row(&k->lengths, t);
        double sum = 0;
        for (size_t i = 0; i < d; i++)
            sum += ((double)one[i] - lengths[i]) * ((double)one[i] - lengths[i]);
        size_t at = n < CANDIDATES ? n++ : CANDIDATES;
        for (; at > 0 && sum < far[at - 1]; at--)
            if (at < CANDIDATES) {
                far[at] = far[at - 1];
                out[at] = out[at - 1];
            }
        if (at < CANDIDATES) {
            far[at] = sum;
            out[at] = t;
        }
    }
    return n;
}

/* got [n] of n positions: what was found goes where it fits best. */
static void place_key(const struct keys *k, const int32_t *row, uint32_t n, uint32_t *got, double *how)
{
    float found[ST_ATTN_MAX_HEAD_DIM];
    uint32_t tokens[CANDIDATES], token = 0, pos = 0;
    double most = -2;
    for (size_t i = 0; i < k->at0.n_col; i++)
        found[i] = (float)row[i];
    size_t n_token = nearest(k, found, tokens);
    for (size_t i = 0; i < n_token; i++)
        for (uint32_t p = 0; p < n; p++) {
            double cosine = cosine_at(k, found, tokens[i], p);
            if (cosine > most) {
                most = cosine;
                token = tokens[i];
                pos = p;
            }
        }
    if (most > how[pos]) {
        how[pos] = most;
        got[pos] = token;
    }
}

/* Keys of one exchange: n of them packed in 2 n rows. *n_key: how many of them came out. */
static int read_keys(const struct keys *k, const uint32_t *rows, uint32_t n, uint32_t *got, size_t *n_key,
                     struct st_err *e)
{
    const size_t d = k->at0.n_col;
    int32_t *found = NULL;
    bool *is_key = NULL;
    double how[BLOCK];
    uint32_t c;
    int rc = st_alloc(&found, 2 * (size_t)n, d * sizeof *found, "packed rows", e);
    if (!rc)
        rc = st_alloc(&is_key, 2 * (size_t)n, sizeof *is_key, "packed rows", e);
    for (uint32_t i = 0; i < n; i++)
        how[i] = -2;
    if (!rc && st_pack_scalar(&packed, rows, 2 * (size_t)n, d, &c)) {
        st_pack_open(&packed, rows, 2 * (size_t)n, d, c, found, is_key);
        for (uint32_t i = 0; i < 2 * n; i++)
            if (is_key[i]) {
                ++*n_key;
                place_key(k, found + i * d, n, got, how);
            }
    }
    free(found);
    free(is_key);
    return rc;
}

/* ---- on a recording ---- */

struct work {
    const struct st_audit *a;
    struct keys keys;
    size_t document, at; /* the next one; where it begins */
    size_t n, n_key;     /* tokens read so far, and keys that came out */
    uint32_t *got;       /* [tokens of the text] n_vocab = not found */
    bool any, passed;    /* there is such an exchange; the step that gave the last document is not over */
};

static size_t document_len(const struct work *w)
{
    const struct st_texts_ids *t = &w->a->target->text;
    return t->ends[w->document] - w->at;
}

/* The exchange with all keys of the next document, or one to pass over. */
static int take_entry(struct work *w, const struct st_record_entry *entry, struct st_err *e)
{
    const struct st_audit *a = w->a;
    if (entry->layer != 0)
        w->passed = false;
    if (entry->kind != ST_RECORD_OUT || entry->layer != 0 || strcmp(entry->roles, SCORES) != 0)
        return 0;
    w->any = true;
    const size_t len = document_len(w), want = len < BLOCK ? len : BLOCK, d = w->keys.at0.n_col;
    if (entry->format != ST_EXPOSED_FIELD || entry->n_in != d || entry->n_out > entry->n_row)
        return st_fail(e, ST_INPUT, "recording %s: %s of another shape than the base's", a->target->recording, SCORES);
    if (w->passed || entry->n_out != 2 * want)
        return 0;
    const uint32_t *rows = (const uint32_t *)(const void *)entry->bytes.p + (size_t)(entry->n_row - entry->n_out) * d;
    for (size_t i = 0; i < entry->n_out * d; i++)
        if (rows[i] >= ST_FQ)
            return st_fail(e, ST_INPUT, "recording %s: %s: a value that is no residue", a->target->recording, SCORES);
    if (read_keys(&w->keys, rows, (uint32_t)want, w->got + w->at, &w->n_key, e))
        return e->code;
    w->passed = true;
    w->n += len;
    w->at = a->target->text.ends[w->document++];
    return 0;
}

/* Whole documents, as many as the sample holds. */
static bool wants_more(const struct work *w)
{
    return w->document < w->a->target->text.n && w->n < SAMPLE;
}

static int read_recording(struct work *w, struct st_err *e)
{
    struct st_record *record;
    struct st_record_entry entry;
    const char *path = w->a->target->recording;
    int rc = 0;
    if (st_record_open(path, &record, e))
        return e->code;
    while (wants_more(w) && (rc = st_record_next(record, &entry, e)) == 0 && entry.kind != ST_RECORD_END &&
           (rc = take_entry(w, &entry, e)) == 0)
        if (w->a->cancel && *w->a->cancel) {
            rc = st_fail(e, ST_IO, "cancelled");
            break;
        }
    st_record_close(record);
    if (!rc && !w->any)
        rc = st_fail(e, ST_UNSUPPORTED, "no attention product is in the recording: they stay inside");
    else if (!rc && wants_more(w))
        rc = st_fail(e, ST_INPUT, "recording %s: no attention product with the %zu keys of document %zu", path,
                     document_len(w), w->document + 1);
    return rc;
}

static int report(const struct work *w, struct st_rows *rows, struct st_err *e)
{
    const struct st_texts_ids *text = &w->a->target->text;
    struct st_row row = {.unprotected = 1, .in_clear = true}, items;
    uint64_t hits = 0;
    for (size_t i = 0; i < w->n; i++)
        hits += w->got[i] == text->ids[i];
    st_row_share(&row, hits, w->n);
    row.chance = st_seen_chance(text->ids, w->n, (uint32_t)w->keys.at0.n_row);
    snprintf(row.variant, sizeof row.variant, "prompts, from keys of layer 0");
    snprintf(row.note, sizeof row.note,
             "%zu keys of %zu came out of the packing: --attention outside-breakable hides nothing from a worker.",
             w->n_key, w->n);
    if (st_rows_add(rows, &row, e) || w->document < text->n || text->n_item == 0)
        return e->code;
    items = row;
    st_score_position_items(&items, w->got, text);
    items.metric = "share of personal items recovered";
    items.chance = 0;
    snprintf(items.variant, sizeof items.variant, "prompts, items");
    return st_rows_add(rows, &items, e);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_target *t = a->target;
    struct work w = {.a = a};
    size_t n = st_texts_len(&t->text);
    if (!t->recording || !t->base || n == 0)
        return st_fail(e, ST_UNSUPPORTED, "needs a recording, its base model and the text that was asked");
    for (size_t i = 0; i < n; i++)
        if (t->text.ids[i] >= t->base->config.n_vocab)
            return st_fail(e, ST_INPUT, "text: an id beyond the model's %u", t->base->config.n_vocab);
    *e = (struct st_err){0};
    int rc = st_alloc(&w.got, n, sizeof *w.got, "tokens", e);
    for (size_t i = 0; i < n && !rc; i++)
        w.got[i] = t->base->config.n_vocab;
    if (!rc)
        rc = keys_new(t->base, &w.keys, e);
    if (!rc)
        rc = read_recording(&w, e);
    if (!rc)
        rc = report(&w, rows, e);
    free(w.got);
    keys_free(&w.keys);
    return rc;
}

const struct st_attack st_atk_attention = {.name = "pairwise-attention",
                                           .title = "Attention products that left packed",
                                           .metric = "share of the text's tokens recovered",
                                           .source = "ours, on arXiv 2507.03278",
                                           .adversary = ST_ADVERSARY_WORKER,
                                           .needs = ST_TARGET_RECORD,
                                           .run = run};

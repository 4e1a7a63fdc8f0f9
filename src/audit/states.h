/* What a model holds inside while it reads a text, and which text that was: recorded states are compared with those
 * that the base has for candidates, token after token, in forms that keys do not change.
 *
 *   scores   products q.k of a position with all before it, sorted over heads: no order of heads and no map of queries
 *            and keys that keeps attention changes them
 *   gram     inner products of a hidden state with all before it: no rotation changes them
 *   mapped   the hidden state itself, through a map into the base's space (audit/regress.h)
 * Sources: arXiv 2505.18332 (candidates in the order of likelihood); arXiv 2603.01499, app. F (states); forms ours. */
#ifndef ST_AUDIT_STATES_H
#define ST_AUDIT_STATES_H

#include "audit/behave.h"

enum st_state_form { ST_STATE_SCORES, ST_STATE_GRAM, ST_STATE_MAPPED };

/* States of positions 0.. in one layer: after it, and its queries and keys after their rotation. */
struct st_states {
    struct st_dense hidden, query, key; /* [n_max][width] */
    size_t n_head, n_kv;
    int layer;
    size_t n; /* length of the prompt that runs: its last rows come in last */
};
/* UNSUPPORTED: the layer has no rotary queries and keys of its own. */
int st_states_new(const struct st_model *m, int layer, size_t n_max, struct st_states *out,
                  struct st_err *e) ST_MUST_CHECK;
void st_states_free(struct st_states *s);
struct st_tap st_states_tap(struct st_states *s);

/* Values of position t in a form, from its states and those before it; map [hidden.n_col][..] of MAPPED only. out is
 * the caller's, ST_STATE_VALUES of them at most; how many. */
#define ST_STATE_VALUES(s, t, map) (((t) + 1) * (s)->n_head + ((map) ? (map)->n_col : 0) + (s)->hidden.n_col)
size_t st_state_values(const struct st_states *s, enum st_state_form form, const struct st_dense *map, size_t t,
                       float *out);
/* Squared distance over the squared length of b. */
double st_state_distance(const float *a, const float *b, size_t n);

#define ST_STATE_LANES 32 /* candidates that run together */

struct st_state_search {
    const struct st_model *base;
    enum st_state_form form;
    int layer, n_threads;
    uint32_t n_candidate;         /* the likeliest by the base are tried */
    const struct st_states *seen; /* of the whole text, n positions */
    const struct st_dense *map;   /* of what was seen into the base's space; MAPPED only */
    double accept;                /* the first candidate nearer than that is taken; else the nearest */
    const volatile sig_atomic_t *cancel;
};
/* ids [n]: the first is given, the others are found. likeliest: how many of them the base alone would have guessed,
 * `truth` being what was asked (for that figure only). */
int st_state_find(const struct st_state_search *s, uint32_t *ids, size_t n, const uint32_t *truth, size_t *likeliest,
                  struct st_err *e) ST_MUST_CHECK;

#endif

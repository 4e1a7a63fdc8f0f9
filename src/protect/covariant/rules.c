#include "protect/covariant/rules.h"

#include <stdio.h>
#include <stdlib.h>

/* Which keys meet the side that is not the frame's. */
enum keyed { KEY_NONE, KEY_TAU, KEY_Q, KEY_K, KEY_V, KEY_O, KEY_NEURON, KEY_UP, KEY_DOWN };

static const struct rule {
    bool known, vector;
    bool constant; /* a norm: its weight goes into its readers, kappa takes its place */
    enum st_cov_side side;
    enum keyed key;
    enum st_role norm; /* folded in */
} rules[ST_ROLE_COUNT] = {
#define MATRIX(role, ...) [ST_ROLE_##role] = {.known = true, __VA_ARGS__}
#define VECTOR(role, ...) [ST_ROLE_##role] = {.known = true, .vector = true, __VA_ARGS__}
    MATRIX(EMBED, .side = ST_COV_WRITES_ROWS, .key = KEY_TAU),
    MATRIX(HEAD, .side = ST_COV_READS, .key = KEY_TAU, .norm = ST_ROLE_FINAL_NORM),
    MATRIX(Q, .side = ST_COV_READS, .key = KEY_Q, .norm = ST_ROLE_ATTN_NORM),
    MATRIX(K, .side = ST_COV_READS, .key = KEY_K, .norm = ST_ROLE_ATTN_NORM),
    MATRIX(V, .side = ST_COV_READS, .key = KEY_V, .norm = ST_ROLE_ATTN_NORM),
    MATRIX(O, .side = ST_COV_WRITES_COLUMNS, .key = KEY_O),
    MATRIX(GATE, .side = ST_COV_READS, .key = KEY_NEURON, .norm = ST_ROLE_FFN_NORM),
    MATRIX(UP, .side = ST_COV_READS, .key = KEY_UP, .norm = ST_ROLE_FFN_NORM),
    MATRIX(DOWN, .side = ST_COV_WRITES_COLUMNS, .key = KEY_DOWN),
    VECTOR(Q_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_Q),
    VECTOR(K_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_K),
    VECTOR(V_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_V),
    VECTOR(O_BIAS, .side = ST_COV_WRITES_ROWS),
    VECTOR(GATE_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_NEURON),
    VECTOR(UP_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_UP),
    VECTOR(DOWN_BIAS, .side = ST_COV_WRITES_ROWS),
    VECTOR(ATTN_NORM, .side = ST_COV_WRITES_ROWS, .constant = true),
    VECTOR(FFN_NORM, .side = ST_COV_WRITES_ROWS, .constant = true),
    VECTOR(FINAL_NORM, .side = ST_COV_WRITES_ROWS, .constant = true),
#undef MATRIX
#undef VECTOR
};

int st_cov_rules_describe(const struct st_cov_rules *b, int i, struct st_cov_out_tensor *t, struct st_err *e)
{
    const struct st_plan_weight *w = &b->model->plan.weights[i];
    const struct rule *r = &rules[w->role];
    if (!r->known)
        return st_fail(e, ST_UNSUPPORTED, "%s: covariant obfuscation has no rule for role '%s'", w->name,
                       st_role_name(w->role));
    *t = (struct st_cov_out_tensor){.dtype = r->vector || b->opts->dtype != ST_COV_STORE_KEEP ? b->config->dtype
                                                                                              : b->model->mats[i].dtype,
                                    .n_dim = r->vector ? 1 : 2,
                                    .dim = {w->n_out, w->n_in}};
    snprintf(t->name, sizeof t->name, "%s", w->name);
    if (r->side == ST_COV_WRITES_COLUMNS || (r->vector && r->side != ST_COV_NO_FRAME))
        t->dim[0] = b->frame->wide;
    else if (!r->vector)
        t->dim[1] = b->frame->wide;
    return 0;
}

static void set_mix(struct st_cov_job *j, uint32_t head_dim, const uint32_t *order, const double *mix, uint32_t share)
{
    j->unit = head_dim;
    j->order = order;
    j->mix = mix;
    j->mix_share = share;
}

static void set_neurons(struct st_cov_job *j, const uint32_t *order, const double *scale)
{
    j->order = order;
    j->scale = scale;
}

static void set_key(const struct st_cov_rules *b, enum keyed key, struct st_cov_job *j)
{
    const struct st_cov_layer_keys *k = &b->keys;
    switch (key) {
    case KEY_NONE:
        break;
    case KEY_TAU:
        j->order = b->cipher->from;
        break;
    case KEY_Q:
        set_mix(j, k->head_dim, k->q_order, k->q_mix, k->n_head / k->n_kv_head);
        break;
    case KEY_K:
        set_mix(j, k->head_dim, k->kv_order, k->k_mix, 1);
        break;
    case KEY_V:
        set_mix(j, k->head_dim, k->kv_order, k->v_mix, 1);
        break;
    case KEY_O:
        set_mix(j, k->head_dim, k->q_order, k->o_mix, k->n_head / k->n_kv_head);
        break;
    case KEY_NEURON:
        set_neurons(j, k->ffn_order, NULL);
        break;
    case KEY_UP:
        set_neurons(j, k->ffn_order, k->up_scale);
        break;
    case KEY_DOWN:
        set_neurons(j, k->ffn_order, k->down_scale);
        break;
    }
}

/* R is fresh for every reader. */
static int draw_expand(struct st_cov_rules *b, const char *name, struct st_err *e)
{
    char label[160];
    struct st_stream *s;
    snprintf(label, sizeof label, "expand.%s", name);
    int rc = st_cov_key_stream(b->key, b->digest, label, &s, e);
    if (rc)
        return rc;
    rc = st_cov_frame_expand(b->frame, s, &b->expand, e);
    st_stream_free(s);
    return rc;
}

static void drop_expand(struct st_cov_rules *b)
{
    st_cov_doubles_free(b->expand, (size_t)(b->frame->wide - b->frame->d) * b->frame->d);
    b->expand = NULL;
}

static int layer_keys(struct st_cov_rules *b, int layer, struct st_err *e)
{
    if (layer < 0 || layer == b->layer)
        return 0;
    st_cov_layer_keys_wipe(&b->keys);
    b->layer = layer;
    return st_cov_layer_keys_init(&b->keys, &b->model->config, layer, b->key, b->digest, e);
}

static const float *norm_of(const struct st_cov_rules *b, enum st_role role, int layer)
{
    const struct st_plan *p = &b->model->plan;
    for (int i = 0; i < p->n_weight; i++)
        if (p->weights[i].role == role && p->weights[i].layer == layer)
            return b->model->mats[i].data;
    return NULL;
}

int st_cov_rules_job(struct st_cov_rules *b, int i, struct st_cov_job *j, struct st_err *e)
{
    const struct st_plan_weight *w = &b->model->plan.weights[i];
    const struct st_mat *m = &b->model->mats[i];
    const struct rule *r = &rules[w->role];
    *j = (struct st_cov_job){.side = r->side,
                             .frame = b->frame,
                             .src = m->data,
                             .src_dtype = r->vector ? ST_DTYPE_F32 : m->dtype,
                             .n = w->n_out,
                             .len = w->n_in,
                             .unit = 1,
                             .mix_share = 1,
                             .gain = 1};
    if (r->constant) {
        j->src = b->norm;
        j->side = ST_COV_NO_FRAME;
        j->n = b->frame->wide;
    } else if (r->side == ST_COV_WRITES_COLUMNS || (r->vector && r->side == ST_COV_WRITES_ROWS)) {
        /* vectors along the other dimension: the columns of o and down; a bias of theirs is one column */
        j->n = w->n_in;
        j->len = w->n_out;
    }
    if (j->side == ST_COV_NO_FRAME)
        j->frame = NULL;
    int rc = layer_keys(b, w->layer, e);
    drop_expand(b);
    if (!rc && r->side == ST_COV_READS) {
        j->norm = norm_of(b, r->norm, w->layer);
        j->gain = b->gain;
        rc = draw_expand(b, w->name, e);
        j->expand = b->expand;
    }
    if (!rc)
        set_key(b, r->key, j);
    return rc;
}

void st_cov_rules_wipe(struct st_cov_rules *b)
{
    st_cov_layer_keys_wipe(&b->keys);
    if (b->frame)
        drop_expand(b);
}

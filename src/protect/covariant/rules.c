#include "protect/covariant/rules.h"

#include <stdio.h>
#include <stdlib.h>

static const struct rule {
    bool known, vector;
    bool constant; /* a norm: its weight goes into its readers, a constant takes its place */
    bool cipher;   /* along the vocabulary: the units are tokens */
    enum st_cov_side side;
    enum st_role keys; /* whose units it takes; NONE = its own */
    enum st_role norm; /* folded in */
} rules[ST_ROLE_COUNT] = {
#define MATRIX(role, ...) [ST_ROLE_##role] = {.known = true, __VA_ARGS__}
#define VECTOR(role, ...) [ST_ROLE_##role] = {.known = true, .vector = true, __VA_ARGS__}
#define READS(role, before) MATRIX(role, .side = ST_COV_READS, .norm = ST_ROLE_##before)
#define WRITES(role) MATRIX(role, .side = ST_COV_WRITES_COLUMNS)
#define BIAS_OF(role) VECTOR(role##_BIAS, .side = ST_COV_NO_FRAME, .keys = ST_ROLE_##role)
#define BIAS_OF_WRITER(role) VECTOR(role##_BIAS, .side = ST_COV_WRITES_ROWS)
#define NORM(role) VECTOR(role, .side = ST_COV_WRITES_ROWS, .constant = true)
    MATRIX(EMBED, .side = ST_COV_WRITES_ROWS, .cipher = true),
    MATRIX(HEAD, .side = ST_COV_READS, .cipher = true, .norm = ST_ROLE_FINAL_NORM),
    READS(Q, ATTN_NORM),
    READS(K, ATTN_NORM),
    READS(V, ATTN_NORM),
    WRITES(O),
    BIAS_OF(Q),
    BIAS_OF(K),
    BIAS_OF(V),
    BIAS_OF_WRITER(O),
    VECTOR(Q_NORM, .side = ST_COV_NO_FRAME),
    VECTOR(K_NORM, .side = ST_COV_NO_FRAME),
    READS(GATE, FFN_NORM),
    READS(UP, FFN_NORM),
    WRITES(DOWN),
    BIAS_OF(GATE),
    BIAS_OF(UP),
    BIAS_OF_WRITER(DOWN),
    NORM(ATTN_NORM),
    NORM(FFN_NORM),
    NORM(FINAL_NORM),
#undef MATRIX
#undef VECTOR
#undef READS
#undef WRITES
#undef BIAS_OF
#undef BIAS_OF_WRITER
#undef NORM
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

/* Draws the keys of a layer and notes where its weights are. */
static int enter_layer(struct st_cov_rules *b, int layer, struct st_err *e)
{
    const struct st_plan *p = &b->model->plan;
    const struct st_cov_draw draw = {.model = b->model,
                                     .key = b->key,
                                     .digest = b->digest,
                                     .interleaved = b->config->rope_interleaved,
                                     .eps_ratio = b->eps_ratio};
    if (b->entered && layer == b->layer)
        return 0;
    st_cov_layer_keys_wipe(&b->keys);
    b->entered = true;
    b->layer = layer;
    for (int role = 0; role < ST_ROLE_COUNT; role++)
        b->first[role] = -1;
    for (int i = p->n_weight - 1; i >= 0; i--)
        if (p->weights[i].layer == layer)
            b->first[p->weights[i].role] = i;
    return layer < 0 ? 0 : st_cov_layer_keys_init(&b->keys, &draw, layer, e);
}

static void set_units(struct st_cov_job *j, const struct st_cov_units *u)
{
    if (!u->size)
        return;
    j->unit = u->size;
    j->order = u->order;
    j->mix = u->mix;
    j->mix_share = u->mix ? u->share : 1;
    j->scale = u->scale;
}

static void set_sides(const struct st_cov_rules *b, int i, struct st_cov_job *j)
{
    const struct st_plan_weight *w = &b->model->plan.weights[i];
    const struct st_mat *m = &b->model->mats[i];
    const struct rule *r = &rules[w->role];
    *j = (struct st_cov_job){.side = r->constant ? ST_COV_NO_FRAME : r->side,
                             .src = r->constant ? b->norm : m->data,
                             .src_dtype = r->vector ? ST_DTYPE_F32 : m->dtype,
                             .n = r->constant ? b->frame->wide : w->n_out,
                             .len = w->n_in,
                             .unit = 1,
                             .mix_share = 1,
                             .gain = 1};
    if (j->side == ST_COV_NO_FRAME)
        return;
    j->frame = b->frame;
    if (r->side == ST_COV_WRITES_COLUMNS || r->vector) {
        /* vectors along the other dimension: the columns of o and down; a bias of theirs is one column */
        j->n = w->n_in;
        j->len = w->n_out;
    }
}

int st_cov_rules_job(struct st_cov_rules *b, int i, struct st_cov_job *j, struct st_err *e)
{
    const struct st_plan_weight *w = &b->model->plan.weights[i];
    const struct rule *r = &rules[w->role];
    const struct st_cov_units tokens = {.size = 1, .order = b->cipher->from};
    set_sides(b, i, j);
    int rc = enter_layer(b, w->layer, e);
    drop_expand(b);
    if (!rc && r->side == ST_COV_READS) {
        j->norm = b->model->mats[b->first[r->norm]].data;
        j->gain = b->gain;
        rc = draw_expand(b, w->name, e);
        j->expand = b->expand;
    }
    if (!rc)
        set_units(j, r->cipher ? &tokens : &b->keys.units[r->keys ? r->keys : w->role]);
    return rc;
}

void st_cov_rules_wipe(struct st_cov_rules *b)
{
    st_cov_layer_keys_wipe(&b->keys);
    if (b->frame)
        drop_expand(b);
}

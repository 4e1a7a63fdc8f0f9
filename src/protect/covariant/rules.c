#include "protect/covariant/rules.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>

/* What the side along the state is measured in. */
enum basis { HIDDEN, Q_LATENT, KV_LATENT };

static const struct rule {
    bool known, vector;
    bool constant; /* a norm: its weight goes into its readers, a constant takes its place */
    bool f32;      /* stored so whatever the checkpoint's dtype: rounding would change the choice of experts */
    bool cipher;   /* along the vocabulary: the units are tokens */
    enum st_cov_side side;
    enum basis basis;
    enum st_role keys; /* whose units it takes; NONE = its own */
    enum st_role norm; /* folded in */
} rules[ST_ROLE_COUNT] = {
#define MATRIX(role, ...) [ST_ROLE_##role] = {.known = true, __VA_ARGS__}
#define VECTOR(role, ...) [ST_ROLE_##role] = {.known = true, .vector = true, __VA_ARGS__}
#define READS(role, before) MATRIX(role, .side = ST_COV_READS, .norm = ST_ROLE_##before)
#define WRITES(role) MATRIX(role, .side = ST_COV_WRITES_COLUMNS)
#define BIAS_OF(role) VECTOR(role##_BIAS, .side = ST_COV_NO_FRAME, .keys = ST_ROLE_##role)
#define BIAS_OF_WRITER(role) VECTOR(role##_BIAS, .side = ST_COV_WRITES_ROWS)
#define NORM(role, of) VECTOR(role, .side = ST_COV_WRITES_ROWS, .constant = true, .basis = of)
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
    READS(Q_A, ATTN_NORM),
    BIAS_OF(Q_A),
    NORM(Q_A_NORM, Q_LATENT),
    MATRIX(Q_B, .side = ST_COV_READS, .basis = Q_LATENT, .norm = ST_ROLE_Q_A_NORM),
    READS(KV_A, ATTN_NORM),
    BIAS_OF(KV_A),
    NORM(KV_A_NORM, KV_LATENT),
    MATRIX(KV_B, .side = ST_COV_READS, .basis = KV_LATENT, .norm = ST_ROLE_KV_A_NORM),
    READS(GATE, FFN_NORM),
    READS(UP, FFN_NORM),
    WRITES(DOWN),
    BIAS_OF(GATE),
    BIAS_OF(UP),
    BIAS_OF_WRITER(DOWN),
    READS(ROUTER, FFN_NORM),
    VECTOR(ROUTER_BIAS, .side = ST_COV_NO_FRAME, .f32 = true),
    READS(EXPERT_GATE, FFN_NORM),
    READS(EXPERT_UP, FFN_NORM),
    WRITES(EXPERT_DOWN),
    READS(SHARED_GATE, FFN_NORM),
    READS(SHARED_UP, FFN_NORM),
    WRITES(SHARED_DOWN),
    NORM(ATTN_NORM, HIDDEN),
    NORM(FFN_NORM, HIDDEN),
    NORM(FINAL_NORM, HIDDEN),
#undef MATRIX
#undef VECTOR
#undef READS
#undef WRITES
#undef BIAS_OF
#undef BIAS_OF_WRITER
#undef NORM
};

bool st_cov_rules_is_norm(enum st_role role)
{
    return rules[role].constant && rules[role].basis == HIDDEN;
}

int st_cov_rules_describe(const struct st_cov_rules *b, int i, struct st_cov_out_tensor *t, struct st_err *e)
{
    const struct st_plan_weight *w = &b->model->plan.weights[i];
    const struct rule *r = &rules[w->role];
    if (!r->known)
        return st_fail(e, ST_UNSUPPORTED, "%s: covariant obfuscation has no rule for role '%s'", w->name,
                       st_role_name(w->role));
    bool keep = !r->vector && b->opts->dtype == ST_COV_STORE_KEEP;
    *t = (struct st_cov_out_tensor){.dtype = r->f32 ? ST_DTYPE_F32
                                             : keep ? b->model->mats[i].dtype
                                                    : b->config->dtype,
                                    .n_dim = r->vector ? 1 : 2,
                                    .dim = {w->n_out, w->n_in}};
    snprintf(t->name, sizeof t->name, "%s", w->name);
    if (r->basis != HIDDEN) /* a latent keeps its size */
        return 0;
    if (r->side == ST_COV_WRITES_COLUMNS || (r->vector && r->side != ST_COV_NO_FRAME))
        t->dim[0] = b->frame->wide;
    else if (!r->vector)
        t->dim[1] = b->frame->wide;
    if (r->cipher)
        t->dim[0] = st_cov_cipher_size(b->cipher);
    return 0;
}

/* What the paper's keys cost where they do not cancel; once per run. */
static void warn(struct st_cov_rules *b)
{
    const struct st_cov_opts *o = b->opts;
    if (b->keys.n_far && b->warns && !b->warned_pairs) {
        b->warned_pairs = true;
        st_log(ST_LOG_WARN,
               "beta %u, gamma %g: rotary pairs change places whose angles differ by more than 0.3 over the context of "
               "%u tokens, so long prompts lose accuracy; a gamma of several times the context keeps it",
               o->beta, o->gamma, b->model->config.n_ctx);
    }
    if (b->keys.units[ST_ROLE_ROUTER].scale && b->warns && !b->warned_router) {
        b->warned_router = true;
        st_log(ST_LOG_WARN,
               "preset paper brings the router's vectors to one norm, which changes the choice of experts; "
               "preset tight leaves it as it is");
    }
}

/* Draws the keys of a layer and notes where its weights are. */
static int enter_layer(struct st_cov_rules *b, int layer, struct st_err *e)
{
    const struct st_plan *p = &b->model->plan;
    const struct st_cov_draw draw = {.model = b->model,
                                     .key = b->key,
                                     .digest = b->digest,
                                     .opts = b->opts,
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
    int rc = layer < 0 ? 0 : st_cov_keys_ahead_take(&b->ahead, &draw, layer, &b->keys, e);
    if (!rc)
        warn(b);
    return rc;
}

static void set_units(struct st_cov_job *j, struct st_cov_units u)
{
    if (!u.size)
        return;
    j->unit = u.size;
    j->order = u.order;
    j->mix = u.mix;
    j->mix_share = u.mix ? u.share : 1;
    j->scale = u.scale;
}

static void set_tokens(const struct st_cov_rules *b, enum st_role role, struct st_cov_job *j)
{
    bool never = role == ST_ROLE_HEAD && b->never;
    j->n = st_cov_cipher_size(b->cipher);
    j->order = never ? b->cipher->head : b->cipher->from;
    j->extra = never ? b->never : NULL;
}

/* The source's weight that the result has under the name of weight i: another expert's, or its own. */
static int source_of(const struct st_cov_rules *b, int i)
{
    const struct st_plan_weight *w = &b->model->plan.weights[i], *all = b->model->plan.weights;
    if (w->expert < 0)
        return i;
    int want = (int)b->keys.expert_order[w->expert], at = b->first[w->role];
    while (all[at].role != w->role || all[at].expert != want)
        at++;
    return at;
}

static const struct st_cov_frame *frame_of(const struct st_cov_rules *b, enum basis basis)
{
    switch (basis) {
    case HIDDEN:
        break;
    case Q_LATENT:
        return &b->keys.q_latent;
    case KV_LATENT:
        return &b->keys.kv_latent;
    }
    return b->frame;
}

static void set_sides(const struct st_cov_rules *b, int source, struct st_cov_job *j)
{
    const struct st_plan_weight *w = &b->model->plan.weights[source];
    const struct st_mat *m = &b->model->mats[source];
    const struct rule *r = &rules[w->role];
    const struct st_cov_frame *frame = frame_of(b, r->basis);
    *j = (struct st_cov_job){.side = r->constant ? ST_COV_NO_FRAME : r->side,
                             .name = w->name,
                             .src = r->constant ? NULL : m->data,
                             .src_dtype = r->vector ? ST_DTYPE_F32 : m->dtype,
                             .fill = r->basis == HIDDEN ? b->sites[source].norm : 1,
                             .weight = r->vector ? -1 : source,
                             .n = r->constant ? frame->wide : w->n_out,
                             .len = w->n_in,
                             .unit = 1,
                             .mix_share = 1,
                             .gain = 1};
    if (j->side != ST_COV_NO_FRAME)
        j->frame = frame;
    if (j->side == ST_COV_WRITES_COLUMNS || (r->vector && j->frame)) {
        /* vectors along the other dimension: the columns of o and down; a bias of theirs is one column */
        j->n = w->n_in;
        j->len = w->n_out;
    }
    j->n_src = j->n;
}

static void set_noise(const struct st_cov_rules *b, const struct rule *r, enum st_role role, struct st_cov_job *j)
{
    const struct st_cov_opts *o = b->opts;
    if (r->vector)
        return;
    j->noise = role == ST_ROLE_EMBED ? o->alpha_e : role == ST_ROLE_HEAD ? o->alpha_h : o->noise_all;
    j->noise_trained = role == ST_ROLE_EMBED;
}

int st_cov_rules_job(struct st_cov_rules *b, int i, struct st_cov_job *j, struct st_err *e)
{
    const struct st_plan_weight *w = &b->model->plan.weights[i];
    const struct rule *r = &rules[w->role];
    int rc = enter_layer(b, w->layer, e);
    if (rc)
        return rc;
    int source = source_of(b, i);
    set_sides(b, source, j);
    if (r->side == ST_COV_READS) {
        j->norm = b->model->mats[b->first[r->norm]].data;
        j->gain = r->basis == HIDDEN ? b->sites[b->first[r->norm]].gain : 1;
    }
    set_noise(b, r, w->role, j);
    if (r->cipher)
        set_tokens(b, w->role, j);
    else
        set_units(j, st_cov_layer_units(&b->keys, r->keys ? r->keys : w->role, b->model->plan.weights[source].expert));
    return 0;
}

void st_cov_rules_wipe(struct st_cov_rules *b)
{
    st_cov_keys_ahead_stop(&b->ahead);
    st_cov_layer_keys_wipe(&b->keys);
}

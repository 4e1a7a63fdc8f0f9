/* Which tensor is which weight of the plan. */
#include "model/model_load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "[4096,4096]" */
static const char *shape_text(char *out, size_t cap, const uint64_t *dim, int n)
{
    size_t len = (size_t)snprintf(out, cap, "[");
    for (int i = 0; i < n && len < cap; i++)
        len += (size_t)snprintf(out + len, cap - len, "%s%" PRIu64, i ? "," : "", dim[i]);
    if (len < cap)
        snprintf(out + len, cap - len, "]");
    return out;
}

static int check_tensor(const struct st_model *m, const struct st_plan_weight *w, const struct st_tensor *t,
                        struct st_err *e)
{
    uint64_t dim[2] = {w->n_out, w->n_in};
    int n = st_load_is_vector(w) ? 1 : 2;
    char want[64], got[200];
    if (t->n_dim != n || memcmp(t->dim, dim, sizeof dim[0] * (size_t)n) != 0)
        return st_fail(e, ST_INPUT, "%s: %s: want %s f32, f16 or bf16, got %s %s", m->path, w->name,
                       shape_text(want, sizeof want, dim, n), shape_text(got, sizeof got, t->dim, t->n_dim), t->stored);
    if (t->dtype == ST_DTYPE_COUNT)
        return st_fail(e, ST_UNSUPPORTED, "%s: %s: dtype %s is not supported; supported: F32, F16, BF16", m->path,
                       w->name, t->stored);
    return 0;
}

/* What is not the checkpoint's: matrices of adapters; and what a kit leaves out: matrices that are served, norms that
 * are ones, the embedding when its rows are fetched. */
static bool is_left_out(const struct st_load *l, int i)
{
    if (st_load_is_adapter(&l->m->plan.weights[i]))
        return true;
    if (!l->o->no_linear)
        return false;
    if (l->m->plan.weights[i].role == ST_ROLE_EMBED)
        return !l->kit.embedding;
    return l->fold.linear[i] || l->fold.unit[i];
}

/* What is sealed, and what is asked of it. Matrices inside are handed out by a store in the dtype they have; routers
 * are converted here like norms. */
static int check_sealed(const struct st_load *l, int i, struct st_err *e)
{
    const struct st_plan_weight *w = &l->m->plan.weights[i];
    if (!l->source || l->o->only_outside)
        return 0;
    if (!st_load_is_readable(l, i))
        return st_fail(e, ST_POLICY, "%s: %s: is sealed, and what opens it was not given", l->m->path, w->name);
    bool is_matrix = !st_load_is_vector(w) && w->role != ST_ROLE_ROUTER && w->role != ST_ROLE_EMBED;
    if (is_matrix && st_load_is_secret(l, i) && l->o->dtype != ST_LOAD_KEEP)
        return st_fail(e, ST_UNSUPPORTED, "%s: %s: what is sealed runs in the dtype it has (%s); want --dtype keep",
                       l->m->path, w->name, st_dtype_name(l->src[i]->dtype));
    return 0;
}

/* Finds the tensor of every weight that is in the checkpoint. */
static int find_tensors(struct st_load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        if (is_left_out(l, i))
            continue;
        l->src[i] = w->tied_to >= 0 ? l->src[w->tied_to] : st_ckpt_find(m->priv->ckpt, w->name);
        if (!l->src[i])
            return st_fail(e, ST_INPUT, "%s: %s: missing", m->path, w->name);
        if (check_tensor(m, w, l->src[i], e) || check_sealed(l, i, e))
            return e->code;
    }
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Old Llama checkpoints store their rotary frequencies, which follow from the config. */
static bool is_derived(const char *name)
{
    static const char tail[] = ".rotary_emb.inv_freq";
    size_t len = strlen(name);
    return len >= sizeof tail && strcmp(name + len - (sizeof tail - 1), tail) == 0;
}

/* Layers behind the last one guess further tokens (DeepSeek-V3) and take no part in the next one. */
static bool is_mtp(const struct st_config *c, const char *name)
{
    unsigned layer;
    int end = 0;
    return sscanf(name, "model.layers.%4u.%n", &layer, &end) == 1 && end && layer >= c->n_layer &&
           layer - c->n_layer < c->n_mtp_layer;
}

static int refuse_strays(const struct st_load *l, struct st_err *e)
{
    const struct st_model *m = l->m;
    size_t n = 0;
    const char **known = NULL;
    int rc = st_alloc(&known, (size_t)m->plan.n_weight, sizeof *known, m->path, e);
    if (rc)
        return rc;
    for (int i = 0; i < m->plan.n_weight; i++)
        if (!is_left_out(l, i))
            known[n++] = m->plan.weights[i].name;
    qsort(known, n, sizeof *known, by_text);
    for (size_t i = 0; !rc && i < st_ckpt_count(m->priv->ckpt); i++) {
        const char *name = st_ckpt_at(m->priv->ckpt, i)->name;
        if (!is_derived(name) && !is_mtp(&m->config, name) && !bsearch(&name, known, n, sizeof *known, by_text))
            rc = st_fail(e, ST_INPUT, "%s: %.200s: this tensor has no place in %s with this config", m->path, name,
                         m->config.arch);
    }
    free(known);
    return rc;
}

int st_load_resolve(struct st_load *l, struct st_err *e)
{
    int rc = find_tensors(l, e);
    return rc ? rc : refuse_strays(l, e);
}

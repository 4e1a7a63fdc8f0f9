#include "base/buf.h"
#include "model/adapter_priv.h"
#include "tensor/lora.h"

#include <stdlib.h>
#include <string.h>

static size_t round_line(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Where the matrices go, one behind the other; at the end room for one as it is stored, and one row of B. */
struct layout {
    size_t matrices, stored, row;
};

static bool is_ours(const struct st_plan_op *op, int index)
{
    return op->op == ST_OP_LORA && op->adapter == index;
}

static size_t a_bytes(const struct st_plan_weight *w)
{
    return round_line((size_t)w->n_out * w->n_in * sizeof(float));
}

static size_t b_bytes(const struct st_plan_weight *w)
{
    return round_line(st_lora_packed(w->n_out, w->n_in) * sizeof(float));
}

static struct layout measure(const struct st_adapter *a, int index, const struct st_plan *p)
{
    struct layout l = {0};
    for (int i = 0; i < p->n_op; i++)
        if (is_ours(&p->ops[i], index))
            l.matrices += a_bytes(&p->weights[p->ops[i].weight]) + b_bytes(&p->weights[p->ops[i].weight2]);
    for (size_t i = 0; i < a->n_pair; i++) {
        const struct st_adapter_pair *one = &a->pairs[i];
        size_t most = one->a->bytes > one->b->bytes ? one->a->bytes : one->b->bytes;
        l.stored = round_line(most) > l.stored ? round_line(most) : l.stored;
        l.row = round_line(one->rank * sizeof(float)) > l.row ? round_line(one->rank * sizeof(float)) : l.row;
    }
    return l;
}

static bool is_secret(const struct st_adapter *a)
{
    bool secret = false;
    for (size_t i = 0; a->source && i < a->n_pair; i++)
        secret = secret || a->source->secret(a->source->ctx, a->pairs[i].a) ||
                 a->source->secret(a->source->ctx, a->pairs[i].b);
    return secret;
}

static int take_memory(const struct st_adapter *a, size_t need, bool allow_unlocked, struct st_adapter_memory *out,
                       uint8_t **p, struct st_err *e)
{
    const struct st_locked_opts lo = {.what = "adapters", .allow_unlocked = allow_unlocked, .secretmem = true};
    char want[ST_MEM_TEXT], have[ST_MEM_TEXT];
    size_t available = st_mem_available();
    if (need > available)
        return st_fail(e, ST_MEMORY, "%s: its matrices need %s of memory, %s are available", a->path,
                       st_mem_text(need, want), st_mem_text(available, have));
    int rc = is_secret(a) ? st_locked_new(&out->locked, need, &lo, e) : st_area_new(&out->area, 1, need, a->path, e);
    *p = out->locked.p ? out->locked.p : out->area.p;
    return rc;
}

static int read_tensor(const struct st_adapter *a, const struct st_tensor *t, void *dst, struct st_err *e)
{
    if (a->source)
        return a->source->read(a->source->ctx, t, 0, t->bytes, dst, e);
    memcpy(dst, t->data, t->bytes);
    st_ckpt_release(a->ckpt, t);
    return 0;
}

/* Where the next matrix goes, and what is used while one is read. */
struct cursor {
    uint8_t *at;
    void *stored;
    float *row;
};

/* A in f32, its columns multiplied by the norm that is folded into the base. */
static int load_a(const struct st_adapter *a, const struct st_tensor *t, const float *columns, struct st_mat *mat,
                  struct cursor *c, struct st_err *e)
{
    float *to = (float *)(void *)c->at;
    if (read_tensor(a, t, c->stored, e))
        return e->code;
    st_convert(t->dtype, c->stored, ST_DTYPE_F32, to, (size_t)mat->n_out * mat->n_in);
    for (size_t r = 0; columns && r < mat->n_out; r++)
        for (size_t i = 0; i < mat->n_in; i++)
            to[r * mat->n_in + i] *= columns[i];
    mat->data = to;
    return 0;
}

static int load_b(const struct st_adapter *a, const struct st_tensor *t, float scale, struct st_mat *mat,
                  struct cursor *c, struct st_err *e)
{
    float *to = (float *)(void *)c->at;
    if (read_tensor(a, t, c->stored, e))
        return e->code;
    st_lora_pack(t->dtype, c->stored, mat->n_out, mat->n_in, scale, c->row, to);
    mat->data = to;
    return 0;
}

static int load_op(const struct st_adapter *a, const struct st_plan *p, const struct st_plan_op *op,
                   const struct st_fold *fold, struct st_mat *mats, struct cursor *c, struct st_err *e)
{
    const struct st_plan_weight *wa = &p->weights[op->weight], *wb = &p->weights[op->weight2];
    char module[ST_PLAN_NAME], side;
    const struct st_adapter_pair *pair = st_adapter_module(wa->name, module, &side) ? st_adapter_find(a, module) : NULL;
    if (!pair)
        return st_fail(e, ST_INTERNAL, "%s: %s: was planned and is not there", a->path, wa->name);
    int norm = fold ? fold->norm[op->weight] : -1;
    mats[op->weight] = (struct st_mat){.dtype = ST_DTYPE_F32, .n_out = wa->n_out, .n_in = wa->n_in};
    mats[op->weight2] = (struct st_mat){.dtype = ST_DTYPE_F32, .n_out = wb->n_out, .n_in = wb->n_in};
    if (load_a(a, pair->a, norm >= 0 ? mats[norm].data : NULL, &mats[op->weight], c, e))
        return e->code;
    c->at += a_bytes(wa);
    if (load_b(a, pair->b, pair->scale, &mats[op->weight2], c, e))
        return e->code;
    c->at += b_bytes(wb);
    return 0;
}

int st_adapter_load(const struct st_adapter *a, int index, const struct st_plan *plan, const struct st_fold *fold,
                    bool allow_unlocked, struct st_mat *mats, struct st_adapter_memory *out, struct st_err *e)
{
    struct layout l = measure(a, index, plan);
    uint8_t *p = NULL;
    int rc = take_memory(a, l.matrices + l.stored + l.row, allow_unlocked, out, &p, e);
    struct cursor c = {.at = p, .stored = p + l.matrices, .row = (float *)(void *)(p + l.matrices + l.stored)};
    for (int i = 0; !rc && i < plan->n_op; i++)
        if (is_ours(&plan->ops[i], index))
            rc = load_op(a, plan, &plan->ops[i], fold, mats, &c, e);
    if (p)
        explicit_bzero(p + l.matrices, l.stored + l.row);
    return rc;
}

void st_adapter_memory_free(struct st_adapter_memory *m)
{
    if (m->locked.p)
        st_locked_free(&m->locked);
    if (m->area.p)
        st_area_free(&m->area);
    *m = (struct st_adapter_memory){0};
}

#include "base/buf.h"
#include "model/adapter_priv.h"
#include "tensor/lora.h"

#include <stdlib.h>
#include <string.h>

static size_t round_line(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Bytes: of the matrices, one behind the other; and of what is used to make one: values as they are stored, an A, whole
 * tensors B, the share of B that one expert has, and a row of it in f32. */
struct layout {
    size_t matrices, a, b, share, row;
    int n_b; /* tensors B held at once */
};

static size_t scratch(const struct layout *l)
{
    return l->a + (size_t)l->n_b * l->b + l->share + l->row;
}

static void at_least(size_t *n, size_t bytes)
{
    bytes = round_line(bytes);
    *n = bytes > *n ? bytes : *n;
}

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

/* The layer's name in the checkpoints, from that of its A in the plan. */
static int part_of(const struct st_adapter *a, const struct st_plan_weight *wa, struct st_adapter_part *out,
                   struct st_err *e)
{
    char module[ST_PLAN_NAME], side;
    *out = (struct st_adapter_part){0};
    if (st_adapter_module(wa->name, module, &side) && st_adapter_part(a, module, wa->layer, out, e))
        return e->code;
    return out->pair ? 0 : st_fail(e, ST_INTERNAL, "%s: %s: was planned and is not there", a->path, wa->name);
}

static int measure(const struct st_adapter *a, int index, const struct st_plan *p, struct layout *l, struct st_err *e)
{
    *l = (struct layout){.n_b = 1};
    for (int i = 0; i < p->n_op; i++) {
        const struct st_plan_op *op = &p->ops[i];
        struct st_adapter_part part;
        if (!is_ours(op, index))
            continue;
        const struct st_plan_weight *wa = &p->weights[op->weight], *wb = &p->weights[op->weight2];
        if (part_of(a, wa, &part, e))
            return e->code;
        const struct st_tensor *ta = part.pair->a, *tb = part.pair->b;
        l->matrices += a_bytes(wa) + b_bytes(wb);
        at_least(&l->a, (size_t)wa->n_out * wa->n_in * st_dtype_size(ta->dtype));
        at_least(&l->b, tb->bytes);
        at_least(&l->row, wb->n_in * sizeof(float));
        if (!part.shared)
            continue;
        at_least(&l->share, (size_t)wb->n_out * wb->n_in * st_dtype_size(tb->dtype));
        l->n_b = 2;
    }
    return 0;
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

static int read_part(const struct st_adapter *a, const struct st_tensor *t, uint64_t at, size_t len, void *dst,
                     struct st_err *e)
{
    if (a->source)
        return a->source->read(a->source->ctx, t, at, len, dst, e);
    memcpy(dst, (const uint8_t *)t->data + at, len);
    st_ckpt_release_part(a->ckpt, t, (size_t)at, len);
    return 0;
}

/* Where the next matrix goes, and the parts of the scratch. */
struct cursor {
    uint8_t *at, *a, *b[2], *share;
    const struct st_tensor *held[2]; /* in b: those of an expert's gate and up, and down, take turns */
    float *row;
};

static struct cursor cursor_at(uint8_t *p, const struct layout *l)
{
    struct cursor c = {.at = p, .a = p + l->matrices};
    c.b[0] = c.a + l->a;
    c.b[1] = l->n_b > 1 ? c.b[0] + l->b : c.b[0];
    c.share = c.b[1] + l->b;
    c.row = (float *)(void *)(c.share + l->share);
    return c;
}

/* One value that is not finite makes rows of which a step fails, for the requests of all others in it too. */
static int check_finite(const struct st_adapter *a, const struct st_tensor *t, const float *v, size_t n,
                        struct st_err *e)
{
    float sum = 0; /* of zeros, unless one is not finite: then NaN */
    for (size_t i = 0; i < n; i++)
        sum += v[i] * 0;
    return sum == 0 ? 0 : st_fail(e, ST_INPUT, "%s: %.200s: its values are not finite", a->path, t->name);
}

/* A in f32, its columns multiplied by the norm that is folded into the base. */
static int load_a(const struct st_adapter *a, const struct st_adapter_part *part, const float *columns,
                  struct st_mat *mat, struct cursor *c, struct st_err *e)
{
    const struct st_tensor *t = part->pair->a;
    const size_t n = (size_t)mat->n_out * mat->n_in, bytes = n * st_dtype_size(t->dtype);
    float *to = (float *)(void *)c->at;
    if (read_part(a, t, part->expert * (uint64_t)bytes, bytes, c->a, e))
        return e->code;
    st_convert(t->dtype, c->a, ST_DTYPE_F32, to, n);
    for (size_t r = 0; columns && r < mat->n_out; r++)
        for (size_t i = 0; i < mat->n_in; i++)
            to[r * mat->n_in + i] *= columns[i];
    mat->data = to;
    return check_finite(a, t, to, n, e);
}

/* One expert's columns and one half of the rows of B, dense. */
static void pick(const struct st_adapter_part *part, const struct st_mat *mat, size_t size, const uint8_t *from,
                 uint8_t *to)
{
    const size_t columns = (size_t)mat->n_in * part->n_expert;
    for (size_t o = 0; o < mat->n_out; o++) {
        const uint8_t *row = from + ((part->half * (size_t)mat->n_out + o) * columns + part->expert) * size;
        for (size_t k = 0; k < mat->n_in; k++, to += size)
            memcpy(to, row + k * part->n_expert * size, size);
    }
}

static int load_b(const struct st_adapter *a, const struct st_adapter_part *part, struct st_mat *mat, struct cursor *c,
                  struct st_err *e)
{
    const struct st_tensor *t = part->pair->b;
    const int slot = part->shared && part->halves == 1;
    float *to = (float *)(void *)c->at;
    if (c->held[slot] != t) {
        c->held[slot] = NULL;
        if (read_part(a, t, 0, t->bytes, c->b[slot], e))
            return e->code;
        c->held[slot] = t;
    }
    if (part->shared)
        pick(part, mat, st_dtype_size(t->dtype), c->b[slot], c->share);
    st_lora_pack(t->dtype, part->shared ? c->share : c->b[slot], mat->n_out, mat->n_in, part->scale, c->row, to);
    mat->data = to;
    return check_finite(a, t, to, st_lora_packed(mat->n_out, mat->n_in), e);
}

static int load_op(const struct st_adapter *a, const struct st_plan *p, const struct st_plan_op *op,
                   const struct st_fold *fold, struct st_mat *mats, struct cursor *c, struct st_err *e)
{
    const struct st_plan_weight *wa = &p->weights[op->weight], *wb = &p->weights[op->weight2];
    struct st_adapter_part part;
    int norm = fold ? fold->norm[op->weight] : -1;
    if (part_of(a, wa, &part, e))
        return e->code;
    mats[op->weight] = (struct st_mat){.dtype = ST_DTYPE_F32, .n_out = wa->n_out, .n_in = wa->n_in};
    mats[op->weight2] = (struct st_mat){.dtype = ST_DTYPE_F32, .n_out = wb->n_out, .n_in = wb->n_in};
    if (load_a(a, &part, norm >= 0 ? mats[norm].data : NULL, &mats[op->weight], c, e))
        return e->code;
    c->at += a_bytes(wa);
    if (load_b(a, &part, &mats[op->weight2], c, e))
        return e->code;
    c->at += b_bytes(wb);
    return 0;
}

int st_adapter_load(const struct st_adapter *a, int index, const struct st_plan *plan, const struct st_fold *fold,
                    bool allow_unlocked, struct st_mat *mats, struct st_adapter_memory *out, struct st_err *e)
{
    struct layout l;
    uint8_t *p = NULL;
    int rc = measure(a, index, plan, &l, e);
    if (!rc)
        rc = take_memory(a, l.matrices + scratch(&l), allow_unlocked, out, &p, e);
    if (rc)
        return rc;
    struct cursor c = cursor_at(p, &l);
    for (int i = 0; !rc && i < plan->n_op; i++)
        if (is_ours(&plan->ops[i], index))
            rc = load_op(a, plan, &plan->ops[i], fold, mats, &c, e);
    explicit_bzero(p + l.matrices, scratch(&l));
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

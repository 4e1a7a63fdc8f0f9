/* The integer reference. Products are plain sums of 64-bit integers, with none of the code that workers and masks
 * share; only the quantisation of rows is theirs. One exchange at a time. */
#include "base/buf.h"
#include "protect/masked/groups.h"
#include "protect/masked/masked.h"
#include "protect/masked/rows.h"

#include <math.h>
#include <stdlib.h>

struct st_masked_reference {
    const struct st_served *served;
    struct st_mask_groups groups;
    struct st_protection_hooks hooks;
    struct st_transport transport;
    int64_t *x; /* [n_row][d] of the exchange that is open */
    float *alpha;
    size_t cap_x, cap_row;
    int group;
};

static int reserve(struct st_masked_reference *r, size_t n_row, size_t n, struct st_err *e)
{
    if (n > r->cap_x || n_row > r->cap_row) {
        free(r->x);
        free(r->alpha);
        r->x = NULL;
        r->alpha = NULL;
        r->cap_x = r->cap_row = 0;
        if (st_alloc(&r->x, n, sizeof *r->x, "rows", e) || st_alloc(&r->alpha, n_row, sizeof *r->alpha, "rows", e))
            return e->code;
        r->cap_x = n;
        r->cap_row = n_row;
    }
    return 0;
}

static int enter(void *ctx, const struct st_exchange *x, const struct st_trusted *in, struct st_exposed *out,
                 struct st_err *e)
{
    struct st_masked_reference *r = ctx;
    if (st_mask_groups_find(&r->groups, x, &r->group, e))
        return e->code;
    const struct st_mask_group *g = &r->groups.g[r->group];
    if (in->width != g->d)
        return st_fail(e, ST_INTERNAL, "masked: rows of %u values, want %u", in->width, g->d);
    if (reserve(r, in->n_row, (size_t)in->n_row * g->d, e))
        return e->code;
    for (uint32_t i = 0; i < in->n_row; i++) {
        const float *from = in->ids ? NULL : in->p + (size_t)i * g->d;
        char site[ST_MASK_SITE];
        if (st_rows_alpha(from, g->d, g->norm, 0, &r->alpha[i], e))
            return st_err_prefix(e, "%s", st_mask_site(r->groups.plan, g, site));
        for (uint32_t k = 0; k < g->d; k++)
            r->x[(size_t)i * g->d + k] = llrintf(r->alpha[i] * (from ? from[k] : (float)(k == in->ids[i])));
    }
    *out = (struct st_exposed){.p = r->x, .format = ST_EXPOSED_FIELD};
    return 0;
}

static int leave(void *ctx, const struct st_exchange *x, const struct st_exposed *reply, struct st_trusted *outs,
                 struct st_err *e)
{
    const struct st_masked_reference *r = ctx;
    const struct st_mask_group *g = &r->groups.g[r->group];
    const float *scale = g->scale;
    (void)reply;
    (void)e;
    for (int k = 0; k < x->n_op; k++) {
        const struct st_served_weight *w = &r->served->weights[g->served[k]];
        for (uint32_t i = 0; i < x->n_row; i++)
            for (uint32_t j = 0; j < w->n_out; j++) {
                const int64_t *row = r->x + (size_t)i * g->d;
                const int8_t *column = w->w + (size_t)j * w->n_in;
                int64_t sum = 0;
                for (uint32_t n = 0; n < w->n_in; n++)
                    sum += row[n] * column[n];
                outs[k].p[(size_t)i * w->n_out + j] = (float)sum * (scale[j] * (1 / r->alpha[i]));
            }
        scale += w->n_out;
    }
    return 0;
}

static int submit(void *ctx, const struct st_exchange *x, const struct st_exposed *rows, struct st_err *e)
{
    (void)ctx;
    (void)x;
    (void)rows;
    (void)e;
    return 0;
}

static int complete(void *ctx, const struct st_exchange *x, struct st_exposed *reply, struct st_err *e)
{
    (void)ctx;
    (void)x;
    (void)e;
    *reply = (struct st_exposed){.format = ST_EXPOSED_FIELD};
    return 0;
}

int st_masked_reference_new(const struct st_model *model, const struct st_served *served,
                            struct st_masked_reference **out, struct st_err *e)
{
    struct st_masked_reference *r;
    if (st_alloc(&r, 1, sizeof *r, "masked reference", e))
        return e->code;
    *r = (struct st_masked_reference){.served = served,
                                      .hooks = {.enter = enter, .leave = leave, .ctx = r},
                                      .transport = {.submit = submit, .complete = complete, .ctx = r}};
    int rc = st_mask_groups_init(&r->groups, &model->plan, served, NULL, e);
    if (!rc && !r->groups.weights)
        rc = st_fail(e, ST_POLICY, "masked reference: this side has no weights");
    if (rc)
        st_masked_reference_free(r);
    else
        *out = r;
    return rc;
}

void st_masked_reference_free(struct st_masked_reference *r)
{
    if (!r)
        return;
    st_mask_groups_free(&r->groups);
    free(r->x);
    free(r->alpha);
    free(r);
}

const struct st_protection_hooks *st_masked_reference_hooks(const struct st_masked_reference *r)
{
    return &r->hooks;
}

const struct st_transport *st_masked_reference_transport(const struct st_masked_reference *r)
{
    return &r->transport;
}

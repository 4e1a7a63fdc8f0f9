#include "engine/stored.h"

#define MAX_BLOCKS 64

/* Blocks that are computed with in one call, so that few rows of activations are made ready once for all of them. */
struct batch {
    const struct st_store *store;
    struct st_compute *compute;
    const struct st_trusted *in;
    int n;
    uint32_t n_held;
    struct st_linear_job jobs[MAX_BLOCKS];
    struct st_mat blocks[MAX_BLOCKS];
    struct {
        int weight; /* -1: not the store's */
        uint32_t row;
    } from[MAX_BLOCKS];
};

static void give_all(struct batch *b)
{
    for (int i = 0; i < b->n; i++)
        if (b->from[i].weight >= 0)
            b->store->give(b->store->ctx, b->from[i].weight, b->from[i].row);
    b->n = 0;
    b->n_held = 0;
}

static void compute(struct batch *b)
{
    if (b->n)
        st_linear(b->compute, b->jobs, b->n, b->in->p, b->in->n_row);
    give_all(b);
}

static void work_part(void *arg, int thread, int n_threads)
{
    const struct st_store *s = arg;
    (void)thread;
    (void)n_threads;
    s->work(s->ctx);
}

/* All threads that compute make what is asked for ready, and what comes behind it. */
static void work(const struct st_store *s, struct st_compute *c)
{
    st_pool_run(st_compute_pool(c), work_part, (void *)(uintptr_t)s);
}

/* The next block of an op, from row `row` on; *row moves behind it. */
static int add(struct batch *b, const struct st_plan_op *op, const struct st_mat *mats, const struct st_trusted *out,
               uint32_t *row, struct st_err *e)
{
    const struct st_mat *whole = &mats[op->weight];
    bool wait = !whole->data && !b->store->ready(b->store->ctx, op->weight, *row);
    if (wait || b->n == MAX_BLOCKS || b->n_held == b->store->n_hold)
        compute(b);
    if (wait)
        work(b->store, b->compute);
    struct st_mat *block = &b->blocks[b->n];
    *block = *whole;
    b->from[b->n].weight = -1;
    if (!whole->data) {
        if (b->store->take(b->store->ctx, op->weight, *row, block, e))
            return e->code;
        b->from[b->n].weight = op->weight;
        b->from[b->n].row = *row;
        b->n_held++;
    }
    b->jobs[b->n++] = (struct st_linear_job){.w = block,
                                             .bias = op->bias >= 0 ? (const float *)mats[op->bias].data + *row : NULL,
                                             .y = out->p + *row,
                                             .ldy = out->width};
    *row += block->n_out;
    return 0;
}

int st_stored_linear(const struct st_store *s, struct st_compute *c, const struct st_plan_op *ops, int n_op,
                     const struct st_mat *mats, const struct st_trusted *in, struct st_trusted *outs, struct st_err *e)
{
    struct batch b;
    b.store = s;
    b.compute = c;
    b.in = in;
    b.n = 0;
    b.n_held = 0;
    for (int i = 0; i < n_op; i++)
        for (uint32_t row = 0; row < mats[ops[i].weight].n_out;)
            if (add(&b, &ops[i], mats, &outs[i], &row, e)) {
                give_all(&b);
                return e->code;
            }
    compute(&b);
    return 0;
}

/* The lowest id that is at least `from`. */
static bool next_id(const struct st_trusted *in, uint32_t from, uint32_t *id)
{
    bool found = false;
    for (uint32_t r = 0; r < in->n_row; r++)
        if (in->ids[r] >= from && (!found || in->ids[r] < *id)) {
            *id = in->ids[r];
            found = true;
        }
    return found;
}

int st_stored_embed(const struct st_store *s, struct st_compute *c, const struct st_plan_op *op,
                    const struct st_trusted *in, struct st_trusted *out, struct st_err *e)
{
    uint32_t first = 0, id = 0;
    while (next_id(in, first, &id)) {
        struct st_mat block;
        if (!s->ready(s->ctx, op->weight, id))
            work(s, c);
        if (s->take(s->ctx, op->weight, id, &block, e))
            return e->code;
        for (uint32_t r = 0; r < in->n_row; r++)
            if (in->ids[r] >= id && in->ids[r] - id < block.n_out) {
                uint32_t row = in->ids[r] - id;
                st_embed(c, &block, &row, 1, out->p + (size_t)r * out->width);
            }
        s->give(s->ctx, op->weight, id);
        first = id + block.n_out;
    }
    return 0;
}

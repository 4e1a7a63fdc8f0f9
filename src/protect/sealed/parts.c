#include "protect/sealed/parts.h"
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

#define SLOTS_MIN 2
/* Of the budget for slots, unless that is more than they need: what stays saves decryption at every step. */
#define SLOT_SHARE 4

static size_t aligned(size_t n)
{
    return (n + ST_PARTS_ALIGN - 1) & ~(size_t)(ST_PARTS_ALIGN - 1);
}

static const struct st_container_entry *entry_of(const struct st_container *c, const struct st_plan *p, int weight)
{
    const struct st_container_entry *n = st_container_find(c, p->weights[weight].name);
    int tied = p->weights[weight].tied_to;
    return n || tied < 0 ? n : st_container_find(c, p->weights[tied].name);
}

/* The matrix of an entry, made when it is new. */
static int matrix_for(struct st_parts *p, const struct st_container_entry *n, const struct st_plan_weight *w,
                      struct st_err *e)
{
    uint64_t row_bytes = (uint64_t)w->n_in * st_dtype_size(n->tensor.dtype);
    for (int i = 0; i < p->n_matrix; i++)
        if (p->matrices[i].entry == n)
            return i;
    if (!row_bytes || n->segment_bytes < row_bytes || n->segment_bytes % row_bytes ||
        n->tensor.bytes != row_bytes * w->n_out) {
        st_fail(e, ST_INPUT, "%s: want segments of whole rows of %llu bytes, got %u bytes", w->name,
                (unsigned long long)row_bytes, n->segment_bytes);
        return -1;
    }
    p->matrices[p->n_matrix] = (struct st_part_matrix){.entry = n,
                                                       .dtype = n->tensor.dtype,
                                                       .n_in = w->n_in,
                                                       .row_bytes = (uint32_t)row_bytes,
                                                       .rows = (uint32_t)(n->segment_bytes / row_bytes),
                                                       .n = n->n_segment,
                                                       .expert = w->expert >= 0};
    return p->n_matrix++;
}

/* Finds the matrices that ops of this side read and that have no data. */
static int find_matrices(struct st_parts *p, const struct st_container *c, const struct st_model *m, struct st_err *e)
{
    const struct st_plan *plan = &m->plan;
    for (int i = 0; i < plan->n_weight; i++)
        p->matrix_of[i] = -1;
    for (int i = 0; i < plan->n_op; i++) {
        const struct st_plan_op *op = &plan->ops[i];
        int w = op->weight;
        if ((op->op != ST_OP_LINEAR && op->op != ST_OP_EMBED) || op->place != ST_PLACE_TRUSTED || m->mats[w].data)
            continue;
        const struct st_container_entry *n = entry_of(c, plan, w);
        if (!n || n->place != ST_CONTAINER_INSIDE)
            continue;
        int k = matrix_for(p, n, &plan->weights[w], e);
        if (k < 0)
            return e->code;
        p->matrix_of[w] = k;
        p->matrices[k].scanned = p->matrices[k].scanned || (op->op == ST_OP_LINEAR && op->expert < 0);
    }
    return 0;
}

static int make_parts(struct st_parts *p, struct st_err *e)
{
    uint64_t n = 0;
    for (int i = 0; i < p->n_matrix; i++) {
        p->matrices[i].first = (uint32_t)n;
        n += p->matrices[i].n;
    }
    if (n > INT32_MAX / 2)
        return st_fail(e, ST_UNSUPPORTED, "sealed matrices: %llu segments are too many", (unsigned long long)n);
    if (st_alloc(&p->parts, (size_t)n, sizeof *p->parts, "segments", e))
        return e->code;
    p->n_part = (int)n;
    for (int i = 0; i < p->n_matrix; i++) {
        const struct st_part_matrix *m = &p->matrices[i];
        for (uint32_t k = 0; k < m->n; k++) {
            uint32_t bytes = st_container_segment_bytes(m->entry, k);
            p->parts[m->first + k] = (struct st_part){
                .matrix = i, .k = k, .row = k * m->rows, .n_row = bytes / m->row_bytes, .bytes = bytes, .position = -1};
            p->bytes += aligned(bytes);
            p->slot = aligned(bytes) > p->slot ? aligned(bytes) : p->slot;
        }
    }
    return 0;
}

static int class_of(const struct st_part_matrix *m)
{
    return m->scanned ? 0 : m->expert ? 1 : 2;
}

/* Of the parts of one class a share that fits into `room`, spread evenly; what is left of the room. */
static uint64_t keep_class(struct st_parts *p, int class, uint64_t room)
{
    uint64_t total = 0, seen = 0, taken = 0;
    for (int i = 0; i < p->n_part; i++)
        if (class_of(&p->matrices[p->parts[i].matrix]) == class)
            total += aligned(p->parts[i].bytes);
    for (int i = 0; i < p->n_part; i++) {
        struct st_part *part = &p->parts[i];
        uint64_t n = aligned(part->bytes);
        if (class_of(&p->matrices[part->matrix]) != class)
            continue;
        seen += n;
        part->kept = room >= total || (double)(taken + n) <= (double)seen / (double)total * (double)room;
        taken += part->kept ? n : 0;
    }
    return room - taken;
}

static int choose(struct st_parts *p, uint64_t memory, struct st_err *e)
{
    uint64_t room = memory && memory < p->bytes ? memory : p->bytes;
    uint64_t least = SLOTS_MIN * (uint64_t)p->slot;
    least = least < p->bytes ? least : p->bytes;
    if (room < p->bytes) {
        uint64_t n = room / SLOT_SHARE / p->slot;
        if (room < least)
            return st_fail(e, ST_MEMORY, "--enclave-memory: want at least %lluK for this model, got %llu bytes",
                           (unsigned long long)(least + 1023) / 1024, (unsigned long long)memory);
        p->n_slot = n < SLOTS_MIN ? SLOTS_MIN : n > ST_PARTS_SLOTS_MAX ? ST_PARTS_SLOTS_MAX : (int)n;
        room -= (uint64_t)p->n_slot * p->slot;
    }
    for (int class = 0; class < 3; class ++)
        room = keep_class(p, class, room);
    for (int i = 0; i < p->n_part; i++) {
        struct st_part *part = &p->parts[i];
        bool follows = part->k > 0 && p->parts[i - 1].kept;
        if (!part->kept)
            continue;
        /* Neighbours lie together, so that they are computed with as one block. */
        p->kept = follows ? p->kept : aligned(p->kept);
        part->at = p->kept;
        p->kept += part->bytes;
    }
    p->kept = aligned(p->kept);
    return 0;
}

static int make_order(struct st_parts *p, const struct st_plan *plan, struct st_err *e)
{
    if (st_alloc(&p->order, (size_t)p->n_part, sizeof *p->order, "segments", e))
        return e->code;
    int section = -1;
    for (int i = 0; i < plan->n_op; i++) {
        const struct st_plan_op *op = &plan->ops[i];
        section += op->op == ST_OP_GATHER;
        int k = op->op == ST_OP_LINEAR ? p->matrix_of[op->weight] : -1;
        for (uint32_t j = 0; k >= 0 && j < p->matrices[k].n; j++) {
            struct st_part *part = &p->parts[p->matrices[k].first + j];
            if (part->kept || part->position >= 0)
                continue;
            part->position = p->n_order;
            p->order[p->n_order++] =
                (struct st_part_use){.part = p->matrices[k].first + j, .section = op->expert >= 0 ? section : -1};
        }
    }
    int next = -1;
    for (int i = 2 * p->n_order - 1; i >= 0; i--) {
        struct st_part_use *use = &p->order[i % p->n_order];
        use->next = next;
        next = use->section < 0 ? i % p->n_order : next;
    }
    return 0;
}

int st_parts_new(const struct st_container *c, const struct st_model *m, uint64_t memory, struct st_parts *out,
                 struct st_err *e)
{
    struct st_parts *p = out;
    size_t n = (size_t)m->plan.n_weight;
    *p = (struct st_parts){.n_weight = m->plan.n_weight};
    if (st_alloc(&p->matrix_of, n, sizeof *p->matrix_of, "sealed matrices", e) ||
        st_alloc(&p->matrices, n, sizeof *p->matrices, "sealed matrices", e) || find_matrices(p, c, m, e) ||
        make_parts(p, e) || choose(p, memory, e) || make_order(p, &m->plan, e)) {
        st_parts_free(p);
        return e->code;
    }
    return 0;
}

void st_parts_free(struct st_parts *p)
{
    free(p->matrix_of);
    free(p->matrices);
    free(p->parts);
    free(p->order);
    *p = (struct st_parts){0};
}

uint32_t st_parts_find(const struct st_parts *p, int weight, uint32_t row)
{
    const struct st_part_matrix *m = &p->matrices[p->matrix_of[weight]];
    return m->first + row / m->rows;
}

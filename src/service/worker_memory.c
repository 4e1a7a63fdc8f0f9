#include "service/worker_priv.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN 64
#define HEAD_KEPT 4096 /* heads are outside the budget: long ones go at once */

static size_t aligned(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

size_t st_worker_memory_need(size_t rows_len, size_t values_len)
{
    return aligned(rows_len) + aligned(values_len);
}

static void destroy(struct st_worker_memory *m, struct st_worker_request *r)
{
    m->total -= r->cap;
    free(r->memory);
    st_buf_free(&r->head);
    free(r);
}

/* Takes the smallest idle one that is large enough, but none that is far too large: it would keep the budget from
 * others. */
static struct st_worker_request *take_idle(struct st_worker_memory *m, size_t need)
{
    struct st_worker_request **best = NULL;
    for (struct st_worker_request **p = &m->idle; *p; p = &(*p)->next)
        if ((*p)->cap >= need && (*p)->cap <= 2 * need + 4096 && (!best || (*p)->cap < (*best)->cap))
            best = p;
    struct st_worker_request *r = best ? *best : NULL;
    if (r)
        *best = r->next;
    return r;
}

static int make(struct st_worker_memory *m, size_t need, struct st_worker_request **out, struct st_err *e)
{
    struct st_worker_request *r = NULL;
    while (m->idle && need > m->budget - m->total) {
        r = m->idle;
        m->idle = r->next;
        destroy(m, r);
    }
    if (need > m->budget - m->total)
        return 0;
    if (st_alloc(&r, 1, sizeof *r, "a request", e))
        return e->code;
    if (need && st_alloc(&r->memory, need, 1, "the rows of a request", e)) {
        free(r);
        return e->code;
    }
    r->cap = need;
    m->total += need;
    *out = r;
    return 0;
}

int st_worker_memory_take(struct st_worker_memory *m, size_t rows_len, size_t values_len,
                          struct st_worker_request **out, struct st_err *e)
{
    size_t need = st_worker_memory_need(rows_len, values_len);
    *out = take_idle(m, need);
    if (!*out && make(m, need, out, e))
        return e->code;
    struct st_worker_request *r = *out;
    if (!r)
        return 0;
    *r = (struct st_worker_request){.memory = r->memory, .cap = r->cap, .head = r->head};
    st_buf_clear(&r->head);
    r->rows = r->memory;
    r->rows_len = rows_len;
    r->values = r->memory ? (uint8_t *)r->memory + aligned(rows_len) : NULL;
    r->values_len = values_len;
    return 0;
}

void st_worker_memory_give(struct st_worker_memory *m, struct st_worker_request *r)
{
    if (m->wipe && r->memory)
        explicit_bzero(r->memory, r->cap);
    if (r->head.len > HEAD_KEPT)
        st_buf_free(&r->head);
    r->next = m->idle;
    m->idle = r;
}

void st_worker_memory_free(struct st_worker_memory *m)
{
    while (m->idle) {
        struct st_worker_request *r = m->idle;
        m->idle = r->next;
        destroy(m, r);
    }
}

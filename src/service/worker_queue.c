#include "base/hooks.h"
#include "field/product_transposed.h"
#include "service/worker_priv.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_BATCH 256 /* requests computed together */

struct st_worker_queue {
    const struct st_served *served;
    const struct st_backend *backend;
    void *device;
    uint32_t max_row;
    bool wipe; /* of a preparer: what stands in the buffers below is overwritten after each batch */
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t more;
    /* Under the lock. */
    struct st_worker_request *first, **last, *done, **done_last;
    struct st_worker_request *batch[MAX_BATCH];
    int n_batch;
    uint64_t turn;
    bool stop;
    int fd;
    /* Of the thread: rows and products of several requests side by side. */
    struct {
        void *p;
        size_t cap;
    } rows, values;
};

static bool same_work(const struct st_worker_request *a, const struct st_worker_request *b)
{
    if (a->what.format ==
        ST_WORKER_OUTPUTS) /* one product of all matrices, which is not laid out as those of a batch */
        return a == b;
    return a->what.format == b->what.format && a->what.n_weight == b->what.n_weight &&
           memcmp(a->what.weights, b->what.weights, a->what.n_weight * sizeof *a->what.weights) == 0;
}

/* With the transposed weights, from where they lie: a rare request, which no device is needed for. */
static void multiply_outputs(const struct st_worker_queue *q, const struct st_worker_multiply *m, const void *rows,
                             void *values)
{
    struct st_transposed_matrix of[ST_WORKER_MAX_GROUP];
    for (uint32_t i = 0; i < m->n_weight; i++) {
        const struct st_served_weight *w = &q->served->weights[m->weights[i]];
        of[i] = (struct st_transposed_matrix){w->w, w->n_out};
    }
    st_field_transposed(of, m->n_weight, q->served->weights[m->weights[0]].n_in, rows, m->n_row, values);
}

/* Whether r may be computed together with the one whose turn it is: that one itself, or rows for the same matrices. */
static bool goes_along(const struct st_worker_request *r, const struct st_worker_request *head, uint32_t room)
{
    if (r == head || r->pair.n_inner || head->pair.n_inner)
        return r == head;
    return same_work(r, head) && r->what.n_row <= room;
}

/* The oldest request of the client that has waited longest for a turn: one with many long requests does not keep
 * others waiting for more than one of them. */
static const struct st_worker_request *next_in_turn(struct st_worker_queue *q)
{
    const struct st_worker_request *best = NULL;
    q->turn++;
    for (const struct st_worker_request *r = q->first; r; r = r->next) {
        if (r->lane->passed_over == q->turn)
            continue;
        r->lane->passed_over = q->turn;
        if (!best || r->lane->served < best->lane->served)
            best = r;
    }
    return best;
}

/* The request whose turn it is and all others for the same matrices, as many as there are rows for. A client whose
 * earlier request stays behind is passed over: its requests keep their order. */
static void choose(struct st_worker_queue *q)
{
    const struct st_worker_request *head = next_in_turn(q);
    uint32_t n_row = 0;
    q->turn++;
    q->n_batch = 0;
    for (struct st_worker_request **p = &q->first; *p && q->n_batch < MAX_BATCH;) {
        struct st_worker_request *r = *p;
        if (r->lane->passed_over != q->turn && goes_along(r, head, q->max_row - n_row)) {
            n_row += r->pair.n_inner ? 0 : r->what.n_row;
            q->batch[q->n_batch++] = r;
            r->lane->served = q->turn;
            *p = r->next;
            r->next = NULL;
        } else {
            r->lane->passed_over = q->turn;
            p = &r->next;
        }
    }
    q->last = &q->first;
    while (*q->last)
        q->last = &(*q->last)->next;
}

static int reserve(void **p, size_t *cap, size_t len, struct st_err *e)
{
    if (len <= *cap)
        return 0;
    free(*p);
    *p = NULL;
    *cap = 0;
    if (st_alloc(p, len, 1, "a batch", e))
        return e->code;
    *cap = len;
    return 0;
}

static int multiply(struct st_worker_queue *q, const struct st_worker_multiply *m, const void *rows, uint32_t n_row,
                    uint8_t *values, struct st_err *e)
{
    struct st_backend_job jobs[ST_WORKER_MAX_GROUP];
    if (m->format == ST_WORKER_OUTPUTS) {
        multiply_outputs(q, m, rows, values);
        return 0;
    }
    for (uint32_t i = 0; i < m->n_weight; i++) {
        jobs[i] = (struct st_backend_job){m->weights[i], values};
        values += (size_t)n_row * q->served->weights[m->weights[i]].n_out * 4;
    }
    if (m->format == ST_WORKER_F32)
        return q->backend->multiply_f32(q->device, rows, n_row, jobs, (int)m->n_weight, e);
    return q->backend->multiply(q->device, rows, n_row, jobs, (int)m->n_weight, e);
}

static int multiply_one(struct st_worker_queue *q, const struct st_worker_request *r, struct st_err *e)
{
    const struct st_worker_pair *p = &r->pair;
    if (!p->n_inner)
        return multiply(q, &r->what, r->rows, r->what.n_row, r->values, e);
    q->backend->pair(q->device, &(struct st_backend_pair){.a = r->rows,
                                                          .b = r->rows + (size_t)p->n_a * p->n_inner,
                                                          .n_a = p->n_a,
                                                          .n_b = p->n_b,
                                                          .n_inner = p->n_inner,
                                                          .out = (uint32_t *)(void *)r->values});
    return 0;
}

/* Several requests: their rows side by side, and each its part of the products. */
static int multiply_batch(struct st_worker_queue *q, uint32_t n_row, struct st_err *e)
{
    const struct st_worker_multiply *m = &q->batch[0]->what;
    size_t rows_len = 0, values_len = 0;
    for (int i = 0; i < q->n_batch; i++) {
        rows_len += q->batch[i]->rows_len;
        values_len += q->batch[i]->values_len;
    }
    if (reserve(&q->rows.p, &q->rows.cap, rows_len, e) || reserve(&q->values.p, &q->values.cap, values_len, e))
        return e->code;
    uint8_t *to = q->rows.p;
    for (int i = 0; i < q->n_batch; i++) {
        memcpy(to, q->batch[i]->rows, q->batch[i]->rows_len);
        to += q->batch[i]->rows_len;
    }
    if (multiply(q, m, q->rows.p, n_row, q->values.p, e))
        return e->code;
    const uint8_t *from = q->values.p;
    size_t done[MAX_BATCH] = {0};
    for (uint32_t k = 0; k < m->n_weight; k++)
        for (int i = 0; i < q->n_batch; i++) {
            size_t len = (size_t)q->batch[i]->what.n_row * q->served->weights[m->weights[k]].n_out * 4;
            memcpy(q->batch[i]->values + done[i], from, len);
            done[i] += len;
            from += len;
        }
    return 0;
}

static void wipe_batch(struct st_worker_queue *q)
{
    if (q->rows.p)
        explicit_bzero(q->rows.p, q->rows.cap);
    if (q->values.p)
        explicit_bzero(q->values.p, q->values.cap);
}

static void compute(struct st_worker_queue *q)
{
    struct st_worker_request *first = q->batch[0];
    struct st_err e = {0};
    double start = st_now();
    uint32_t n_row = 0;
    for (int i = 0; i < q->n_batch; i++)
        n_row += q->batch[i]->what.n_row;
    int rc = q->n_batch == 1 ? multiply_one(q, first, &e) : multiply_batch(q, n_row, &e);
    if (q->wipe && q->n_batch > 1)
        wipe_batch(q);
    double us = (st_now() - start) * 1e6;
    for (int i = 0; i < q->n_batch; i++) {
        q->batch[i]->err.code = rc;
        if (rc)
            q->batch[i]->err = e;
        q->batch[i]->work_us = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
    }
    first->batch_rows = n_row;
}

/* With the lock: what was computed goes back. */
static void finish(struct st_worker_queue *q)
{
    for (int i = 0; i < q->n_batch; i++) {
        *q->done_last = q->batch[i];
        q->done_last = &q->batch[i]->next;
    }
    q->n_batch = 0;
    eventfd_write(q->fd, 1);
}

static void *device_thread(void *arg)
{
    struct st_worker_queue *q = arg;
    pthread_mutex_lock(&q->lock);
    for (;;) {
        while (!q->first && !q->stop)
            pthread_cond_wait(&q->more, &q->lock);
        if (q->stop)
            break;
        choose(q);
        pthread_mutex_unlock(&q->lock);
        compute(q);
        pthread_mutex_lock(&q->lock);
        finish(q);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

int st_worker_queue_new(const struct st_worker_opts *o, uint32_t max_row, struct st_worker_queue **out,
                        struct st_err *e)
{
    struct st_worker_queue *q = NULL;
    *out = NULL;
    if (st_alloc(&q, 1, sizeof *q, "the queue", e))
        return e->code;
    q->served = o->served;
    q->backend = o->backend;
    q->device = o->device;
    q->max_row = max_row;
    q->wipe = o->preparer;
    q->last = &q->first;
    q->done_last = &q->done;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->more, NULL);
    q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = q->fd < 0 ? st_fail(e, ST_IO, "eventfd: %s", strerror(errno)) : 0;
    int err = rc ? 0 : pthread_create(&q->thread, NULL, device_thread, q);
    if (err)
        rc = st_fail(e, ST_IO, "cannot start a thread: %s", strerror(err));
    q->started = !rc;
    if (rc)
        st_worker_queue_free(q);
    else
        *out = q;
    return rc;
}

struct st_worker_request *st_worker_queue_free(struct st_worker_queue *q)
{
    if (!q)
        return NULL;
    if (q->started) {
        pthread_mutex_lock(&q->lock);
        q->stop = true;
        pthread_cond_signal(&q->more);
        pthread_mutex_unlock(&q->lock);
        pthread_join(q->thread, NULL);
    }
    *q->done_last = q->first;
    struct st_worker_request *rest = q->done;
    if (q->fd >= 0)
        close(q->fd);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->more);
    free(q->rows.p);
    free(q->values.p);
    free(q);
    return rest;
}

int st_worker_queue_fd(const struct st_worker_queue *q)
{
    return q->fd;
}

void st_worker_queue_push(struct st_worker_queue *q, struct st_worker_request *r, bool here)
{
    r->next = NULL;
    pthread_mutex_lock(&q->lock);
    *q->last = r;
    q->last = &r->next;
    if (here && q->first == r && q->n_batch == 0) {
        choose(q);
        pthread_mutex_unlock(&q->lock);
        compute(q);
        pthread_mutex_lock(&q->lock);
        finish(q);
    } else
        pthread_cond_signal(&q->more);
    pthread_mutex_unlock(&q->lock);
}

struct st_worker_request *st_worker_queue_done(struct st_worker_queue *q)
{
    eventfd_t n;
    eventfd_read(q->fd, &n);
    pthread_mutex_lock(&q->lock);
    struct st_worker_request *done = q->done;
    q->done = NULL;
    q->done_last = &q->done;
    pthread_mutex_unlock(&q->lock);
    return done;
}

struct st_worker_request *st_worker_queue_forget(struct st_worker_queue *q, const struct st_worker_peer *c)
{
    struct st_worker_request *gone = NULL;
    pthread_mutex_lock(&q->lock);
    q->last = &q->first;
    while (*q->last) {
        struct st_worker_request *r = *q->last;
        if (r->conn == c) {
            *q->last = r->next;
            r->next = gone;
            gone = r;
        } else
            q->last = &r->next;
    }
    for (int i = 0; i < q->n_batch; i++)
        if (q->batch[i]->conn == c)
            q->batch[i]->conn = NULL;
    for (struct st_worker_request *r = q->done; r; r = r->next)
        if (r->conn == c)
            r->conn = NULL;
    pthread_mutex_unlock(&q->lock);
    return gone;
}

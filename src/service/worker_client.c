#include "service/worker_client.h"

#include "base/hooks.h"
#include "field/fq.h"
#include "field/kernels.h"
#include "net/address.h"
#include "service/worker_conn.h"

#include <math.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SLOTS 64
/* Replies of rows and values stand at 64 + (payload's own head of 16): values are aligned for vectors. */
#define PRODUCT_HEAD 16
#define COLUMNS_HEAD 12
#define BEFORE (64 - PRODUCT_HEAD)
/* Hints come in pieces of about so many bytes, so many of them asked for at a time. */
#define HINT_PIECE (1u << 20)
#define HINT_AHEAD 4
/* How often this side looks whether its machine is still what it proved to the worker. */
#define WATCH_S 2.0
/* After so long without an exchange the worker may have closed the connection, as it may: look before it is used. */
#define IDLE_S 0.05

enum slot_state {
    SLOT_FREE,
    SLOT_WAITING,
    SLOT_DONE,
    SLOT_FAILED,
    SLOT_LENT,     /* its reply is the caller's until the next complete */
    SLOT_FORGOTTEN /* nobody asks for its reply any more; it is taken and dropped */
};

/* One request and the memory of its reply, which is kept for later requests. */
struct slot {
    enum slot_state state;
    uint64_t wire;     /* id on the wire, never used twice by this process */
    uint64_t exchange; /* st_exchange.id; of hints 0 */
    enum st_worker_type type;
    struct st_worker_multiply asked; /* PRODUCT: without rows */
    struct st_worker_hint columns;   /* COLUMNS */
    size_t len;                      /* of the payload that must come */
    uint8_t *memory;                 /* the payload begins at memory + BEFORE */
    size_t cap;
    bool over; /* waiting has ended, one way or the other */
    struct st_err err;
    double start;
    int from; /* index of the address */
};

struct address {
    char *text;
    bool quarantined;
};

struct st_worker_client {
    struct address *addresses;
    int n_address;
    char *tls_ca;
    uint8_t digest[32];
    struct st_worker_terms terms;
    double timeout_s;
    int next;     /* where the next connection is tried first */
    int current;  /* of conn */
    int answered; /* gave the reply that was completed last, or -1 */
    bool refused; /* the current one did not do what it was asked for: another one is next, if there is one */
    struct st_worker_conn *conn;
    struct st_worker_list list;
    double used;    /* when conn was last of use */
    double watched; /* when this side's evidence was seen to hold last */
    struct slot slots[MAX_SLOTS];
    uint64_t next_wire;
    uint8_t failure[512]; /* payload of a FAILURE */
    struct st_buf head;
    struct st_transport transport;
    struct st_hint_source hints;
    const struct st_lwe_params *params; /* NULL: of a preparer, without hints */
    pthread_mutex_t lock;               /* of stats, which other threads may read */
    struct st_worker_client_stats stats;
};

static int blame(const struct st_worker_client *c, struct st_err *e)
{
    return st_err_prefix(e, "worker %s", c->addresses[c->current].text);
}

/* Replies hold products with secrets, and weights follow from them: none stays behind in memory given back. */
static void slot_wipe(struct slot *s)
{
    if (s->memory)
        OPENSSL_cleanse(s->memory, s->cap);
}

/* Ends the connection; what was outstanding on it has failed. */
static void disconnect(struct st_worker_client *c, const struct st_err *why)
{
    st_worker_conn_close(c->conn);
    c->conn = NULL;
    for (int i = 0; i < MAX_SLOTS; i++) {
        struct slot *s = &c->slots[i];
        if (s->state != SLOT_WAITING && s->state != SLOT_FORGOTTEN)
            continue;
        slot_wipe(s); /* a part of the reply may be there */
        if (s->state == SLOT_FORGOTTEN) {
            s->state = SLOT_FREE;
            continue;
        }
        s->state = SLOT_FAILED;
        s->over = true;
        s->err = *why;
    }
}

/* The connection has failed with *e: its worker is tried last from now on. */
static int fail_over(struct st_worker_client *c, struct st_err *e)
{
    blame(c, e);
    disconnect(c, e);
    c->next = (c->current + 1) % c->n_address;
    return e->code;
}

static struct slot *slot_of_wire(struct st_worker_client *c, uint64_t wire)
{
    for (int i = 0; i < MAX_SLOTS; i++)
        if ((c->slots[i].state == SLOT_WAITING || c->slots[i].state == SLOT_FORGOTTEN) && c->slots[i].wire == wire)
            return &c->slots[i];
    return NULL;
}

static int place(void *arg, const struct st_worker_head *h, void **payload, struct st_err *e)
{
    struct st_worker_client *c = arg;
    struct slot *s = slot_of_wire(c, h->id);
    if (h->type == ST_WORKER_FAILURE) {
        if (h->id != 0 && !s)
            return st_fail(e, ST_INPUT, "FAILURE of a request that is not outstanding");
        if (h->len > sizeof c->failure)
            return st_fail(e, ST_INPUT, "FAILURE of %llu bytes, want at most %zu", (unsigned long long)h->len,
                           sizeof c->failure);
        *payload = c->failure;
        return 0;
    }
    if (!s)
        return st_fail(e, ST_INPUT, "frame of type %d for a request that is not outstanding", (int)h->type);
    if (h->type != s->type)
        return st_fail(e, ST_INPUT, "reply of type %d, want %d", (int)h->type, (int)s->type);
    if (h->len != s->len)
        return st_fail(e, ST_INPUT, "reply of %llu bytes, want %zu", (unsigned long long)h->len, s->len);
    *payload = s->memory + BEFORE;
    return 0;
}

static int check_product(const struct slot *s, struct st_span payload, uint32_t *work_us, struct st_err *e)
{
    struct st_worker_product r;
    if (st_worker_product_parse(payload, &r, e))
        return e->code;
    if (r.format != s->asked.format || r.n_row != s->asked.n_row || r.n_weight != s->asked.n_weight)
        return st_fail(e, ST_INPUT, "PRODUCT of %u rows, %u matrices, format %d; want %u, %u, %d", r.n_row, r.n_weight,
                       (int)r.format, s->asked.n_row, s->asked.n_weight, (int)s->asked.format);
    *work_us = r.work_us;
    return 0;
}

/* Coefficients of a column of hints. */
static uint32_t columns_m(const struct st_worker_client *c)
{
    return c->params ? c->params->m : 0;
}

static int check_columns(const struct st_worker_client *c, const struct slot *s, struct st_span payload,
                         struct st_err *e)
{
    struct st_worker_hint r;
    struct st_span records;
    if (st_worker_columns_parse(payload, columns_m(c), &r, &records, e))
        return e->code;
    if (r.weight != s->columns.weight || r.first != s->columns.first || r.n != s->columns.n)
        return st_fail(e, ST_INPUT, "COLUMNS of other columns than were asked for");
    return 0;
}

static int arrived(void *arg, const struct st_worker_head *h, struct st_span payload, struct st_err *e)
{
    struct st_worker_client *c = arg;
    struct slot *s = slot_of_wire(c, h->id);
    uint32_t work_us = 0;
    if (h->type == ST_WORKER_FAILURE) {
        struct st_err said = {0};
        if (st_worker_says(payload, false, &said, e))
            return e->code;
        if (!s) { /* about the connection, which ends */
            *e = said;
            return e->code;
        }
        s->err = said;
        blame(c, &s->err);
        c->refused = true;
    } else if (s->type == ST_WORKER_PRODUCT ? check_product(s, payload, &work_us, e) : check_columns(c, s, payload, e))
        return e->code;
    double now = st_now(), wait = now - s->start, work = work_us * 1e-6;
    bool product = h->type == ST_WORKER_PRODUCT;
    c->used = now;
    s->over = true;
    s->from = c->current;
    s->state = s->state == SLOT_FORGOTTEN ? SLOT_FREE : h->type == ST_WORKER_FAILURE ? SLOT_FAILED : SLOT_DONE;
    pthread_mutex_lock(&c->lock);
    c->stats.bytes_down += ST_WORKER_HEAD + payload.len;
    c->stats.wait_s += product ? wait : 0;
    c->stats.work_s += work < wait ? work : wait; /* it may say what it likes */
    pthread_mutex_unlock(&c->lock);
    return 0;
}

/* Tries one address; it is the current one afterwards, connected or not. */
static int try_address(struct st_worker_client *c, int i, double deadline, struct st_err *e)
{
    struct st_worker_list list = {0};
    const struct st_worker_taker taker = {.place = place, .arrived = arrived, .arg = c};
    c->current = i;
    if (st_worker_conn_open(c->addresses[i].text, &c->terms, deadline, &taker, &c->conn, &list, e))
        return blame(c, e);
    st_worker_list_free(&c->list);
    c->list = list;
    c->next = i;
    c->used = c->watched = st_now();
    c->refused = false;
    pthread_mutex_lock(&c->lock);
    snprintf(c->stats.address, sizeof c->stats.address, "%s", c->addresses[i].text);
    pthread_mutex_unlock(&c->lock);
    return 0;
}

static bool waiting(const struct st_worker_client *c)
{
    for (int i = 0; i < MAX_SLOTS; i++)
        if (c->slots[i].state == SLOT_WAITING)
            return true;
    return false;
}

/* Whether this side still is what it proved on this connection; if not, *e says what changed. A new connection is then
 * refused by st_proof_make(). */
static bool holds(struct st_worker_client *c, struct st_err *e)
{
    double now = st_now();
    if (!(c->list.welcome.flags & ST_WORKER_FLAG_PROVE) || now - c->watched < WATCH_S)
        return true;
    c->watched = now;
    return st_collection_unchanged(c->terms.proof.collection, e) == 0;
}

/* A connection to use, by the deadline, whichever worker it is to. Each address that is left gets its share of the
 * time. */
static int connected(struct st_worker_client *c, double deadline, struct st_err *e)
{
    int left = 0;
    for (int i = 0; i < c->n_address; i++)
        left += !c->addresses[i].quarantined;
    if (c->conn && !holds(c, e)) /* what is outstanding fails, too */
        disconnect(c, e);
    if (c->conn && !waiting(c) && c->refused && left > 1) {
        c->next = (c->current + 1) % c->n_address;
        disconnect(c, e);
    } else if (c->conn && !waiting(c) && st_now() - c->used > IDLE_S && !st_worker_conn_quiet(c->conn))
        disconnect(c, e);
    *e = (struct st_err){0};
    if (c->conn)
        return 0;
    if (left == 0)
        return st_fail(e, ST_VERIFY, "no worker is left: %d of %d returned wrong results", c->n_address, c->n_address);
    struct st_buf all = {0};
    for (int i = 0, from = c->next; i < c->n_address; i++) {
        int at = (from + i) % c->n_address, before = e->code;
        double now = st_now();
        if (c->addresses[at].quarantined)
            continue;
        if (try_address(c, at, now + (deadline - now) / left--, e) == 0)
            break;
        st_buf_addf(&all, all.len ? "; %s" : "%s", e->msg);
        if (before && before != e->code)
            e->code = ST_IO;
    }
    if (!c->conn && all.p)
        st_fail(e, e->code, "%s", all.p);
    st_buf_free(&all);
    return c->conn ? 0 : e->code;
}

/* A slot whose memory holds len bytes of payload. The one that fits closest, so that memory is not taken again. */
static int slot_take(struct st_worker_client *c, size_t len, struct slot **out, struct st_err *e)
{
    struct slot *best = NULL;
    size_t need = BEFORE + len;
    for (int i = 0; i < MAX_SLOTS; i++) {
        struct slot *s = &c->slots[i];
        if (s->state != SLOT_FREE)
            continue;
        bool fits = s->cap >= need;
        if (!best || (fits ? best->cap < need || s->cap < best->cap : best->cap < need && s->cap > best->cap))
            best = s;
    }
    if (!best)
        return st_fail(e, ST_INTERNAL, "%d exchanges are outstanding already", MAX_SLOTS);
    if (best->cap < need) {
        slot_wipe(best);
        free(best->memory);
        best->memory = NULL;
        best->cap = 0;
        if (st_alloc(&best->memory, need, 1, "reply of a worker", e))
            return e->code;
        best->cap = need;
    }
    best->len = len;
    best->over = false;
    best->err = (struct st_err){0};
    best->wire = c->next_wire++;
    best->start = st_now();
    *out = best;
    return 0;
}

/* Sends what c->head begins; the slot waits then, or is free again. */
static int slot_send(struct st_worker_client *c, struct slot *s, struct st_span body, double deadline, struct st_err *e)
{
    struct st_span head = {(const uint8_t *)c->head.p, c->head.len};
    if (c->head.failed) {
        st_buf_free(&c->head);
        return st_fail(e, ST_MEMORY, "request to a worker: no memory");
    }
    s->state = SLOT_WAITING;
    if (st_worker_conn_send(c->conn, head, body, deadline, e)) {
        fail_over(c, e);
        s->state = SLOT_FREE;
        return e->code;
    }
    pthread_mutex_lock(&c->lock);
    c->stats.bytes_up += head.len + body.len;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

/* Until the slot's reply is there. FAILED slots are free afterwards. */
static int slot_wait(struct st_worker_client *c, struct slot *s, struct st_err *e)
{
    if (s->state == SLOT_WAITING && st_worker_conn_take(c->conn, &s->over, st_now() + c->timeout_s, e))
        fail_over(c, e);
    if (s->state == SLOT_DONE)
        return 0;
    *e = s->err;
    s->state = SLOT_FREE;
    return e->code;
}

/* Nobody asks for the reply any more. */
static void slot_forget(struct slot *s)
{
    if (s->state == SLOT_WAITING)
        s->state = SLOT_FORGOTTEN;
    else if (s->state != SLOT_FORGOTTEN)
        s->state = SLOT_FREE;
}

/* The matrix of one op: its name on the wire and its shape. */
static uint32_t find_matrix(const struct st_worker_client *c, const struct st_exchange *x, int i, uint32_t *n_out,
                            uint32_t *n_in, struct st_err *e)
{
    char name[ST_PLAN_NAME + 2];
    const struct st_plan_weight *w = &x->plan->weights[x->ops[i].weight];
    bool fetch = x->ops[i].op == ST_OP_EMBED; /* of a row of the embedding, by its transposed matrix */
    snprintf(name, sizeof name, fetch ? "%s^T" : "%s", w->name);
    *n_out = fetch ? w->n_in : w->n_out;
    *n_in = fetch ? w->n_out : w->n_in;
    int64_t id = st_worker_list_find(&c->list, name);
    if (id < 0) {
        st_fail(e, ST_INPUT, "worker %s: has no matrix %s", c->addresses[c->current].text, name);
        return 0;
    }
    const struct st_worker_weight *has = &c->list.welcome.weights[id];
    if (has->n_out != *n_out || has->n_in != *n_in)
        st_fail(e, ST_INPUT, "worker %s: %s: want [%u,%u], it has [%u,%u]", c->addresses[c->current].text, name, *n_out,
                *n_in, has->n_out, has->n_in);
    return (uint32_t)id;
}

/* Of a product of two matrices of this side's. */
static int describe_pair(const struct st_worker_client *c, const struct st_exchange *x, enum st_worker_format format,
                         size_t rows_len, struct st_worker_pair *p, size_t *len, struct st_err *e)
{
    const char *address = c->addresses[c->current].text;
    *p = (struct st_worker_pair){.n_a = x->pair.n_a, .n_b = x->pair.n_b, .n_inner = x->pair.n_inner};
    if (!st_worker_client_pairs(c))
        return st_fail(e, ST_INPUT, "worker %s: does not multiply pairs of matrices", address);
    if (format != ST_WORKER_FIELD || p->n_a < 1 || p->n_b < 1 || p->n_a > ST_WORKER_PAIR_ROWS ||
        p->n_b > ST_WORKER_PAIR_ROWS || p->n_inner > ST_WORKER_PAIR_INNER ||
        rows_len != 4 * (size_t)(p->n_a + p->n_b) * p->n_inner)
        return st_fail(e, ST_INTERNAL, "exchange of a pair [%u,%u] and [%u,%u] in %zu bytes", p->n_a, p->n_inner,
                       p->n_b, p->n_inner, rows_len);
    if (12 + rows_len > c->list.welcome.max_payload)
        return st_fail(e, ST_INPUT, "worker %s: takes requests of %llu bytes, want %zu", address,
                       (unsigned long long)c->list.welcome.max_payload, 12 + rows_len);
    *len = PRODUCT_HEAD + 4 * (size_t)p->n_a * p->n_b;
    return 0;
}

/* What to ask for with rows of rows_len bytes, and the length of the reply's payload. Nothing of it is the worker's
 * word: shapes are the plan's. */
static int describe(const struct st_worker_client *c, const struct st_exchange *x, enum st_worker_format format,
                    size_t rows_len, struct st_worker_multiply *m, size_t *len, struct st_err *e)
{
    const struct st_worker_welcome *w = &c->list.welcome;
    const char *address = c->addresses[c->current].text;
    uint64_t n_in = 0, n_out = 0;
    *e = (struct st_err){0};
    *m = (struct st_worker_multiply){.format = format, .n_row = x->n_row, .n_weight = (uint32_t)x->n_op};
    if (x->n_op < 1 || x->n_op > ST_WORKER_MAX_GROUP || x->n_row < 1)
        return st_fail(e, ST_INTERNAL, "exchange of %u rows and %d matrices", x->n_row, x->n_op);
    for (int i = 0; i < x->n_op; i++) {
        uint32_t out, in;
        m->weights[i] = find_matrix(c, x, i, &out, &in, e);
        if (e->code)
            return e->code;
        n_in = in;
        n_out += out;
    }
    if (format == ST_WORKER_OUTPUTS) {
        uint64_t turned = n_in;
        n_in = n_out;
        n_out = turned;
    }
    if (rows_len != x->n_row * n_in * 4)
        return st_fail(e, ST_INTERNAL, "exchange of %zu bytes, want %u rows of %llu values", rows_len, x->n_row,
                       (unsigned long long)n_in);
    if (x->n_row > w->max_row)
        return st_fail(e, ST_INPUT, "worker %s: takes %u rows at a time, want %u", address, w->max_row, x->n_row);
    uint64_t up = 12 + 4 * (uint64_t)m->n_weight + rows_len, down;
    if (up > w->max_payload)
        return st_fail(e, ST_INPUT, "worker %s: takes requests of %llu bytes, want %llu", address,
                       (unsigned long long)w->max_payload, (unsigned long long)up);
    if (__builtin_mul_overflow(n_out * 4, (uint64_t)x->n_row, &down) || down > ST_WORKER_MAX_PAYLOAD - PRODUCT_HEAD)
        return st_fail(e, ST_UNSUPPORTED, "exchange of %u rows: its reply is longer than %u bytes", x->n_row,
                       ST_WORKER_MAX_PAYLOAD);
    *len = PRODUCT_HEAD + (size_t)down;
    return 0;
}

static int failed(struct st_worker_client *c, struct st_err *e)
{
    pthread_mutex_lock(&c->lock);
    c->stats.n_failed++;
    pthread_mutex_unlock(&c->lock);
    return e->code;
}

static int submit_as(struct st_worker_client *c, const struct st_exchange *x, enum st_worker_format format,
                     struct st_span rows, struct st_err *e)
{
    struct st_worker_multiply m = {.format = ST_WORKER_FIELD, .n_row = x->pair.n_a, .n_weight = 1}; /* a pair's reply */
    struct st_worker_pair pair;
    struct slot *s = NULL;
    size_t len = 0;
    double deadline = st_now() + c->timeout_s;
    /* One of the same number that was never completed belongs to a step that has ended. */
    for (int i = 0; i < MAX_SLOTS; i++)
        if (c->slots[i].state != SLOT_FREE && c->slots[i].state != SLOT_LENT && c->slots[i].exchange == x->id &&
            c->slots[i].type == ST_WORKER_PRODUCT)
            slot_forget(&c->slots[i]);
    if (connected(c, deadline, e))
        return failed(c, e);
    if (x->pair.n_inner ? describe_pair(c, x, format, rows.len, &pair, &len, e)
                        : describe(c, x, format, rows.len, &m, &len, e)) {
        c->refused = e->code == ST_INPUT; /* what it says of itself has changed since it was chosen */
        return failed(c, e);
    }
    if (slot_take(c, len, &s, e))
        return failed(c, e);
    s->exchange = x->id;
    s->type = ST_WORKER_PRODUCT;
    s->asked = m;
    st_buf_clear(&c->head);
    if (x->pair.n_inner)
        st_worker_pair_add(&c->head, s->wire, &pair);
    else
        st_worker_multiply_add(&c->head, s->wire, &m, rows.len);
    if (slot_send(c, s, rows, deadline, e))
        return failed(c, e);
    return 0;
}

static int submit(void *ctx, const struct st_exchange *x, const struct st_exposed *rows, struct st_err *e)
{
    return submit_as(ctx, x, rows->format == ST_EXPOSED_F32 ? ST_WORKER_F32 : ST_WORKER_FIELD,
                     (struct st_span){rows->p, rows->len}, e);
}

static int complete(void *ctx, const struct st_exchange *x, struct st_exposed *reply, struct st_err *e)
{
    struct st_worker_client *c = ctx;
    struct slot *mine = NULL;
    for (int i = 0; i < MAX_SLOTS; i++) {
        struct slot *s = &c->slots[i];
        if (s->state == SLOT_LENT)
            s->state = SLOT_FREE;
        if ((s->state == SLOT_WAITING || s->state == SLOT_DONE || s->state == SLOT_FAILED) && s->exchange == x->id &&
            s->type == ST_WORKER_PRODUCT)
            mine = s;
    }
    if (!mine)
        return st_fail(e, ST_INTERNAL, "exchange %llu is not outstanding", (unsigned long long)x->id);
    if (slot_wait(c, mine, e))
        return failed(c, e);
    mine->state = SLOT_LENT;
    c->answered = mine->from;
    *reply = (struct st_exposed){.p = mine->memory + BEFORE + PRODUCT_HEAD,
                                 .len = mine->len - PRODUCT_HEAD,
                                 .format = mine->asked.format == ST_WORKER_F32 ? ST_EXPOSED_F32 : ST_EXPOSED_FIELD};
    pthread_mutex_lock(&c->lock);
    c->stats.n_exchange++;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

int st_worker_client_product(struct st_worker_client *c, struct st_exchange *x, enum st_worker_format format,
                             const uint32_t *rows, size_t n_value, uint32_t *out, size_t n_out, struct st_err *e)
{
    struct st_exposed reply;
    x->id = c->next_wire; /* no other is outstanding */
    if (submit_as(c, x, format, (struct st_span){(const uint8_t *)rows, n_value * 4}, e) || complete(c, x, &reply, e))
        return e->code;
    int rc = 0;
    if (reply.len != n_out * 4)
        rc = st_fail(e, ST_INTERNAL, "product of %zu values, want %zu", reply.len / 4, n_out);
    else if (st_field_kernels()->most(reply.p, n_out) >= ST_FQ)
        rc = st_fail(e, ST_VERIFY, "worker %s: a value of its product is no residue", c->addresses[c->current].text);
    else
        memcpy(out, reply.p, reply.len);
    OPENSSL_cleanse(reply.p, reply.len);
    return rc;
}

/* Asks for the next columns of a matrix. */
static int ask_columns(struct st_worker_client *c, const struct st_worker_hint *h, struct slot **out, struct st_err *e)
{
    struct slot *s;
    if (slot_take(c, COLUMNS_HEAD + h->n * (size_t)ST_WORKER_COLUMN(columns_m(c)), &s, e))
        return e->code;
    s->exchange = 0;
    s->type = ST_WORKER_COLUMNS;
    s->columns = *h;
    st_buf_clear(&c->head);
    st_worker_hint_add(&c->head, s->wire, h);
    if (slot_send(c, s, (struct st_span){0}, st_now() + c->timeout_s, e))
        return e->code;
    *out = s;
    return 0;
}

/* Columns as a sink takes them. */
struct columns {
    float *scale, *norm; /* [n] */
    uint32_t *h;         /* [n][m] */
};

static void columns_free(struct columns *k)
{
    free(k->scale);
    free(k->norm);
    free(k->h);
}

static int columns_init(struct columns *k, uint32_t n, uint32_t m, struct st_err *e)
{
    *k = (struct columns){0};
    if (st_alloc(&k->scale, n, 4, "hints", e) || st_alloc(&k->norm, n, 4, "hints", e) ||
        st_alloc(&k->h, n, 4 * (size_t)m, "hints", e)) {
        columns_free(k);
        return e->code;
    }
    return 0;
}

/* Takes the records of a slot to pieces. Residues are canonical and numbers finite, or it is refused. */
static int unpack(const struct slot *s, uint32_t m, const char *name, struct columns *k, struct st_err *e)
{
    const uint8_t *p = s->memory + BEFORE + COLUMNS_HEAD;
    for (uint32_t i = 0; i < s->columns.n; i++, p += ST_WORKER_COLUMN(m)) {
        uint32_t *h = k->h + (size_t)i * m, largest = 0;
        memcpy(&k->scale[i], p, 4);
        memcpy(&k->norm[i], p + 4, 4);
        memcpy(h, p + 8, 4 * (size_t)m);
        for (uint32_t j = 0; j < m; j++)
            largest = h[j] > largest ? h[j] : largest;
        if (largest >= ST_FQ || !isfinite(k->scale[i]) || !isfinite(k->norm[i]) || k->scale[i] < 0 || k->norm[i] < 0)
            return st_fail(e, ST_INPUT, "%s: hints of column %u: want residues below %u and finite numbers", name,
                           s->columns.first + i, ST_FQ);
    }
    return 0;
}

typedef int hint_sink(void *arg, const struct st_hint_columns *c, struct st_err *e);

/* All columns of one matrix, `per` at a time, several pieces asked for ahead of the one that is given on. */
static int read_columns(struct st_worker_client *c, uint32_t id, uint32_t per, struct columns *k, hint_sink *sink,
                        void *arg, struct st_err *e)
{
    const struct st_worker_weight w = c->list.welcome.weights[id]; /* a copy: the list goes with the connection */
    uint32_t m = columns_m(c), asked = 0, given = 0, n_asked = 0, n_given = 0;
    struct slot *ahead[HINT_AHEAD];
    int rc = 0;
    while (!rc && given < w.n_out) {
        if (asked < w.n_out && n_asked - n_given < HINT_AHEAD) {
            uint32_t n = w.n_out - asked < per ? w.n_out - asked : per;
            rc = ask_columns(c, &(struct st_worker_hint){id, asked, n}, &ahead[n_asked % HINT_AHEAD], e);
            if (!rc)
                n_asked++;
            asked += n;
            continue;
        }
        struct slot *s = ahead[n_given++ % HINT_AHEAD];
        rc = slot_wait(c, s, e);
        if (rc)
            break;
        rc = unpack(s, m, w.name, k, e);
        struct st_hint_columns piece = {s->columns.first, s->columns.n, m, k->scale, k->norm, k->h};
        s->state = SLOT_FREE;
        if (!rc)
            rc = sink(arg, &piece, e);
        given += piece.n;
    }
    while (n_given < n_asked)
        slot_forget(ahead[n_given++ % HINT_AHEAD]);
    return rc;
}

static int read_hints(void *ctx, const char *name, uint32_t n_out, uint32_t n_in, hint_sink *sink, void *arg,
                      struct st_err *e)
{
    struct st_worker_client *c = ctx;
    struct columns k;
    if (connected(c, st_now() + c->timeout_s, e))
        return e->code;
    const char *address = c->addresses[c->current].text;
    int64_t id = st_worker_list_find(&c->list, name);
    if (c->params && strcmp(c->list.welcome.params, c->params->name) != 0)
        return st_fail(e, ST_USAGE, "worker %s: its hints are of parameter set `%s`, want `%s`", address,
                       c->list.welcome.params, c->params->name);
    if (!st_worker_client_has(c, name, n_out, n_in))
        return st_fail(e, ST_INPUT, "worker %s: has no matrix %s [%u,%u]", address, name, n_out, n_in);
    size_t per = columns_m(c) ? HINT_PIECE / ST_WORKER_COLUMN(columns_m(c)) + 1 : ST_WORKER_SCALES;
    if (per > n_out)
        per = n_out;
    if (columns_init(&k, (uint32_t)per, columns_m(c), e))
        return e->code;
    int rc = read_columns(c, (uint32_t)id, (uint32_t)per, &k, sink, arg, e);
    columns_free(&k);
    return rc;
}

int st_worker_client_new(const struct st_worker_client_opts *o, struct st_worker_client **out, struct st_err *e)
{
    struct st_worker_client *c;
    *out = NULL;
    if (o->n_address < 1)
        return st_fail(e, ST_USAGE, "no worker: want the address of one");
    if (st_alloc(&c, 1, sizeof *c, "worker's client", e))
        return e->code;
    pthread_mutex_init(&c->lock, NULL);
    c->transport = (struct st_transport){.submit = submit, .complete = complete, .ctx = c};
    memcpy(c->digest, o->digest, sizeof c->digest);
    c->timeout_s = o->timeout_s > 0 ? o->timeout_s : 30;
    c->answered = -1;
    c->next_wire = 1; /* 0 speaks of the connection */
    if (st_alloc(&c->addresses, (size_t)o->n_address, sizeof *c->addresses, "addresses of workers", e))
        goto fail;
    c->n_address = o->n_address;
    for (int i = 0; i < c->n_address; i++) {
        struct st_address parsed;
        if (st_address_parse(o->addresses[i], ST_WORKER_PORT, &parsed, e))
            goto fail;
        c->addresses[i].text = strdup(o->addresses[i]);
        if (!c->addresses[i].text)
            goto no_memory;
    }
    if (o->tls_ca && !(c->tls_ca = strdup(o->tls_ca)))
        goto no_memory;
    c->terms = (struct st_worker_terms){.tls_ca = c->tls_ca,
                                        .digest = c->digest,
                                        .proof = o->proof,
                                        .private_weights = o->private_weights,
                                        .preparer = o->preparer};
    if (connected(c, st_now() + c->timeout_s, e))
        goto fail;
    *out = c;
    return 0;
no_memory:
    st_fail(e, ST_MEMORY, "worker's client: no memory");
fail:
    st_worker_client_free(c);
    return e->code;
}

void st_worker_client_free(struct st_worker_client *c)
{
    if (!c)
        return;
    st_worker_conn_close(c->conn);
    st_worker_list_free(&c->list);
    for (int i = 0; i < MAX_SLOTS; i++) {
        slot_wipe(&c->slots[i]);
        free(c->slots[i].memory);
    }
    for (int i = 0; i < c->n_address; i++)
        free(c->addresses[i].text);
    free(c->addresses);
    free(c->tls_ca);
    st_buf_free(&c->head);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

const struct st_transport *st_worker_client_transport(const struct st_worker_client *c)
{
    return &c->transport;
}

int st_worker_client_hints(struct st_worker_client *c, const struct st_hint_source **out, struct st_err *e)
{
    if (connected(c, st_now() + c->timeout_s, e))
        return e->code;
    if (c->list.welcome.params[0] == 0) {
        st_fail(
            e, ST_INPUT,
            "missing hints: it was started without them; name them there or here (--hints FILE), or use --scheme otp");
        return blame(c, e);
    }
    if (st_lwe_params_find(c->list.welcome.params, &c->params, e))
        return blame(c, e);
    c->hints = (struct st_hint_source){.digest = c->digest, .params = c->params->name, .read = read_hints, .ctx = c};
    *out = &c->hints;
    return 0;
}

const struct st_hint_source *st_worker_client_scales(struct st_worker_client *c)
{
    c->hints = (struct st_hint_source){.digest = c->digest, .params = "", .read = read_hints, .ctx = c};
    return &c->hints;
}

bool st_worker_client_pairs(const struct st_worker_client *c)
{
    return c->list.welcome.flags & ST_WORKER_FLAG_PAIR;
}

bool st_worker_client_has(const struct st_worker_client *c, const char *name, uint32_t n_out, uint32_t n_in)
{
    int64_t id = st_worker_list_find(&c->list, name);
    const struct st_worker_weight *w = id < 0 ? NULL : &c->list.welcome.weights[id];
    return w && w->n_out == n_out && w->n_in == n_in;
}

bool st_worker_client_ready(struct st_worker_client *c, double seconds)
{
    struct st_err e = {0};
    return connected(c, st_now() + seconds, &e) == 0;
}

uint32_t st_worker_client_max_row(const struct st_worker_client *c)
{
    return c->list.welcome.max_row;
}

void st_worker_client_quarantine(struct st_worker_client *c)
{
    if (c->answered < 0)
        return;
    const char *text = c->addresses[c->answered].text;
    int n = 0;
    for (int i = 0; i < c->n_address; i++) {
        c->addresses[i].quarantined = c->addresses[i].quarantined || strcmp(c->addresses[i].text, text) == 0;
        n += c->addresses[i].quarantined;
    }
    if (c->conn && c->addresses[c->current].quarantined) {
        struct st_err e = {0};
        st_fail(&e, ST_VERIFY, "returned a wrong result and is not used any more");
        fail_over(c, &e);
    }
    pthread_mutex_lock(&c->lock);
    c->stats.n_quarantined = n;
    pthread_mutex_unlock(&c->lock);
}

void st_worker_client_stats(const struct st_worker_client *c, struct st_worker_client_stats *out)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&c->lock;
    pthread_mutex_lock(lock);
    *out = c->stats;
    pthread_mutex_unlock(lock);
}

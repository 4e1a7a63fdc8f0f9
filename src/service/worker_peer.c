#include "base/hooks.h"
#include "base/log.h"
#include "field/fq.h"
#include "field/kernels.h"
#include "service/worker_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    STAGE = 16 << 10,     /* bytes received at once; the rest of long rows goes straight into their request */
    PART = 128,           /* the longest payload that is no rows, or what stands before them */
    TURN = 8,             /* frames of one client before others have their turn */
    MIN_RATE = 64 << 10,  /* bytes per second that a frame may take longer for its length */
    HURRY_RATE = 4 << 20, /* the same while others wait for the memory that it holds */
    MAX_UNPROVED = 16,    /* connections from one address before they have proved what they must */
    LEAVING = 64,         /* connections beyond the limit that only hear why, or finish */
};
#define HELLO_S 10.0
#define EVIDENCE_S 5.0 /* others wait for its place */
#define EVIDENCE_RATE (256 << 10)
#define PROVE_S 60.0 /* a platform may take its time */
#define LINGER_S 2.0

enum state {
    GREETING, /* before HELLO */
    PROVING,  /* before the client's evidence was good */
    OPEN,
    CLOSING,  /* reads nothing more, sends what is due */
    LINGERING /* all is sent */
};
enum input { IN_HEAD, IN_PART, IN_MEMORY, IN_ROWS, IN_SKIP, IN_PLACE, IN_EVIDENCE, IN_VERDICT };

struct st_worker_peer {
    struct st_worker *worker;
    struct st_worker_peer *prev, *next, *next_waiting;
    struct st_accepted *stream;
    struct event *on_read, *on_write, *on_wake;
    bool watch_read, watch_write;
    enum state state;
    struct st_worker_lane lane;
    struct st_worker_proving proving;

    enum input input;
    uint8_t stage[STAGE];
    size_t stage_at, stage_len;
    uint8_t part[PART]; /* a head, or the beginning of a payload */
    size_t part_len, part_want;
    struct st_worker_head head;
    struct st_worker_multiply what;
    struct st_worker_pair pair;        /* as of a request */
    struct st_worker_request *filling; /* its rows arrive */
    size_t have;
    uint64_t skip; /* rows of a refused request that still come */

    struct st_worker_request *out, **out_last; /* replies in the order of their sending */
    uint32_t n_out, n_pending;                 /* pending: asked and not sent, out included */
    double active, frame_until, send_until;    /* 0 = no frame, nothing to send */
};

/* Memory and its queue -------------------------------------------------------------------------------------------- */

/* By an event of its own: libevent does not watch a descriptor whose event is added while it is active. */
static void wake(struct st_worker_peer *c)
{
    event_active(c->on_wake, EV_TIMEOUT, 0);
}

void st_worker_peer_retry(struct st_worker_peer *c)
{
    wake(c);
}

static void give(struct st_worker *w, struct st_worker_request *r)
{
    st_worker_memory_give(&w->memory, r);
    if (w->waiting)
        wake(w->waiting);
}

static void stop_waiting(struct st_worker_peer *c)
{
    struct st_worker *w = c->worker;
    for (struct st_worker_peer **p = &w->waiting; *p; p = &(*p)->next_waiting)
        if (*p == c) {
            *p = c->next_waiting;
            c->next_waiting = NULL;
            break;
        }
    if (w->waiting)
        wake(w->waiting);
}

static void start_waiting(struct st_worker_peer *c)
{
    struct st_worker_peer **p = &c->worker->waiting;
    while (*p && *p != c)
        p = &(*p)->next_waiting;
    *p = c;
}

/* Sending --------------------------------------------------------------------------------------------------------- */

static double time_for(double seconds, uint64_t len)
{
    return st_now() + seconds + (double)len / MIN_RATE;
}

static void expect_sent(struct st_worker_peer *c)
{
    c->send_until = c->out ? time_for(c->worker->o.send_s, c->out->head.len + c->out->body.len) : 0;
}

/* The reply is in r->head and r->body. */
static void put(struct st_worker_peer *c, struct st_worker_request *r)
{
    r->next = NULL;
    r->sent = 0;
    *c->out_last = r;
    c->out_last = &r->next;
    c->n_out++;
    if (c->n_out == 1)
        expect_sent(c);
}

/* A reply without rows of its own. NULL: no memory for it. */
static struct st_worker_request *small_reply(struct st_worker_peer *c)
{
    struct st_err e;
    struct st_worker_request *r = NULL;
    if (st_worker_memory_take(&c->worker->memory, 0, 0, &r, &e) || !r)
        return NULL;
    r->conn = c;
    c->n_pending++;
    return r;
}

static int put_failure(struct st_worker_peer *c, uint64_t id, const struct st_err *why)
{
    struct st_worker_request *r = small_reply(c);
    c->worker->n.failures++;
    if (!r)
        return ST_MEMORY;
    st_worker_failure_add(&r->head, id, why->code, why->msg);
    put(c, r);
    return 0;
}

static int send_some(struct st_worker_peer *c, bool *moved, struct st_err *e)
{
    while (c->out) {
        struct st_worker_request *r = c->out;
        struct iovec v[2];
        int n_v = 0;
        size_t n, from = r->sent < r->head.len ? 0 : r->sent - r->head.len;
        if (r->head.failed)
            return st_fail(e, ST_MEMORY, "no memory for a reply");
        if (r->sent < r->head.len)
            v[n_v++] = (struct iovec){r->head.p + r->sent, r->head.len - r->sent};
        if (from < r->body.len)
            v[n_v++] = (struct iovec){(uint8_t *)(uintptr_t)r->body.p + from, r->body.len - from};
        if (st_accepted_write(c->stream, v, n_v, &n, e))
            return e->code;
        if (!n)
            return 0;
        *moved = true;
        r->sent += n;
        c->worker->n.bytes_out += n;
        if (r->sent < r->head.len + r->body.len)
            continue;
        c->out = r->next;
        if (!c->out)
            c->out_last = &c->out;
        c->n_out--;
        c->n_pending--;
        c->active = st_now();
        expect_sent(c);
        give(c->worker, r);
    }
    return 0;
}

/* The client's requests are not wanted any more; replies that are on their way stay. */
static void abandon(struct st_worker_peer *c)
{
    struct st_worker *w = c->worker;
    stop_waiting(c);
    st_worker_proofs_forget(w, &c->proving);
    if (c->filling)
        give(w, c->filling);
    c->filling = NULL;
    for (struct st_worker_request *r = st_worker_queue_forget(w->queue, c), *next; r; r = next) {
        next = r->next;
        give(w, r);
    }
    c->n_pending = c->n_out;
    c->frame_until = 0;
}

/* The client broke the protocol: it hears why, then the connection ends. */
static int break_off(struct st_worker_peer *c, const struct st_err *why)
{
    st_log(ST_LOG_DEBUG, "a client is let go: %s", why->msg);
    abandon(c);
    c->state = CLOSING;
    return put_failure(c, 0, why);
}

void st_worker_peer_reply(struct st_worker_peer *c, struct st_worker_request *r)
{
    const struct st_worker_product p = {r->what.format, r->what.n_row, r->what.n_weight, r->work_us, {0}};
    if (r->err.code) {
        c->worker->n.failures++;
        st_worker_failure_add(&r->head, r->id, r->err.code, r->err.msg);
    } else {
        st_worker_product_add(&r->head, r->id, &p, r->values_len);
        r->body = (struct st_span){r->values, r->values_len};
    }
    put(c, r);
    wake(c); /* later: the caller still has replies for this client */
}

/* Receiving ------------------------------------------------------------------------------------------------------- */

static int receive(struct st_worker_peer *c, void *p, size_t len, size_t *n, struct st_err *e)
{
    if (st_accepted_read(c->stream, p, len, n, e))
        return e->code;
    c->worker->n.bytes_in += *n;
    return 0;
}

/* Moves received bytes to p; *n 0 = nothing now. Long pieces come without a stop at the stage. */
static int take(struct st_worker_peer *c, void *p, size_t len, size_t *n, struct st_err *e)
{
    if (c->stage_at == c->stage_len) {
        if (len >= STAGE)
            return receive(c, p, len, n, e);
        c->stage_at = c->stage_len = 0;
        if (receive(c, c->stage, STAGE, &c->stage_len, e))
            return e->code;
    }
    *n = c->stage_len - c->stage_at < len ? c->stage_len - c->stage_at : len;
    memcpy(p, c->stage + c->stage_at, *n);
    if (c->worker->memory.wipe)
        explicit_bzero(c->stage + c->stage_at, *n);
    c->stage_at += *n;
    return 0;
}

static void next_frame(struct st_worker_peer *c)
{
    c->input = IN_HEAD;
    c->part_len = 0;
    c->part_want = ST_WORKER_HEAD;
    c->frame_until = c->state == PROVING ? c->proving.until : 0;
    c->active = st_now();
}

static int greet(struct st_worker_peer *c, struct st_err *e)
{
    static const uint8_t any[32];
    const struct st_worker *w = c->worker;
    uint8_t digest[32];
    if (st_worker_hello_parse((struct st_span){c->part, c->part_len}, digest, e))
        return e->code;
    if (memcmp(digest, any, 32) != 0 && memcmp(digest, w->o.digest, 32) != 0)
        return st_fail(
            e, ST_VERIFY, "another model: asked for %02x%02x%02x%02x..., this worker serves %02x%02x%02x%02x...",
            digest[0], digest[1], digest[2], digest[3], w->o.digest[0], w->o.digest[1], w->o.digest[2], w->o.digest[3]);
    if (w->o.proof.policy && st_worker_proofs_challenge(&c->proving, e))
        return e->code;
    struct st_worker_request *r = small_reply(c);
    if (!r)
        return st_fail(e, ST_MEMORY, "no memory for a reply");
    r->body = (struct st_span){(const uint8_t *)w->welcome.p, w->welcome.len};
    put(c, r);
    c->state = OPEN;
    if (w->o.proof.policy) {
        if (!(r = small_reply(c)))
            return st_fail(e, ST_MEMORY, "no memory for a reply");
        st_worker_challenge_add(&r->head, c->proving.nonce);
        put(c, r);
        c->proving.until = st_now() + PROVE_S;
        c->state = PROVING;
    }
    next_frame(c);
    return 0;
}

/* Proofs ----------------------------------------------------------------------------------------------------------- */

static int take_challenge(struct st_worker_peer *c, struct st_err *e)
{
    if (st_worker_challenge_parse((struct st_span){c->part, c->part_len}, c->proving.theirs, e))
        return e->code;
    c->proving.has_asked = true;
    c->n_pending++;
    next_frame(c);
    st_worker_proofs_ask(c->worker, &c->proving);
    return 0;
}

void st_worker_peer_proved(struct st_worker_peer *c, const struct st_buf *evidence)
{
    struct st_err why;
    c->n_pending--;
    struct st_worker_request *r = evidence ? small_reply(c) : NULL;
    if (r) {
        st_worker_evidence_add(&r->head, (struct st_span){(const uint8_t *)evidence->p, evidence->len});
        put(c, r);
    } else {
        st_fail(&why, ST_IO, "this worker cannot prove what it runs; the log here says why");
        (void)break_off(c, &why); /* without memory for that line it closes without it */
    }
    wake(c);
}

/* The head of EVIDENCE is in. */
static int admit_evidence(struct st_worker_peer *c, bool *moved, struct st_err *e)
{
    bool there;
    if (c->head.len < 1 || c->head.len > ST_WORKER_MAX_EVIDENCE)
        return st_fail(e, ST_INPUT, "EVIDENCE: want 1..%u bytes, got %" PRIu64, ST_WORKER_MAX_EVIDENCE, c->head.len);
    if (st_worker_proofs_place(c->worker, &c->proving, (size_t)c->head.len, &there, e))
        return e->code;
    *moved = there;
    c->input = there ? IN_EVIDENCE : IN_PLACE;
    c->have = 0;
    double until = st_now() + EVIDENCE_S + (double)c->head.len / EVIDENCE_RATE;
    c->frame_until = there && until < c->proving.until ? until : c->proving.until;
    return 0;
}

static int take_evidence(struct st_worker_peer *c, bool *moved, struct st_err *e)
{
    size_t n;
    if (take(c, c->proving.evidence + c->have, c->proving.evidence_len - c->have, &n, e))
        return e->code;
    *moved = n > 0;
    c->have += n;
    if (c->have < c->proving.evidence_len)
        return 0;
    c->input = IN_VERDICT;
    c->frame_until = 0;
    c->n_pending++;
    st_worker_proofs_judge(c->worker, &c->proving);
    return 0;
}

void st_worker_peer_judged(struct st_worker_peer *c, bool good)
{
    struct st_err why;
    c->n_pending--;
    struct st_worker_request *r = good && c->state == PROVING ? small_reply(c) : NULL;
    if (r) {
        st_worker_admitted_add(&r->head);
        put(c, r);
        c->state = OPEN;
        next_frame(c);
    } else if (c->state == PROVING) {
        /* One line whatever it was: who asks learns nothing of the policy. */
        st_fail(&why, ST_VERIFY, "your evidence was not accepted; the log here says why");
        (void)break_off(c, &why); /* without memory for that line it closes without it */
    }
    wake(c);
}

/* Hints ------------------------------------------------------------------------------------------------------------ */

static int check_hint(struct st_worker_peer *c, const struct st_worker_hint *h, struct st_span *records,
                      struct st_err *e)
{
    const struct st_worker *w = c->worker;
    const void *p;
    if (!w->o.hints && !w->o.preparer)
        return st_fail(e, ST_INPUT, "missing hints: this worker was started without --hints");
    if (h->weight >= w->o.served->n)
        return st_fail(e, ST_INPUT, "HINT weight: want 0..%" PRIu32 ", got %" PRIu32, w->o.served->n - 1, h->weight);
    const struct st_served_weight *m = &w->o.served->weights[h->weight];
    if (h->first >= m->n_out || h->n > m->n_out - h->first)
        return st_fail(e, ST_INPUT, "HINT columns: %s has %" PRIu32 ", got %" PRIu32 " from %" PRIu32 " on", m->name,
                       m->n_out, h->n, h->first);
    if (w->o.preparer) {
        if (h->n > ST_WORKER_SCALES)
            return st_fail(e, ST_INPUT, "HINT columns: want at most %u of a preparer at a time, got %" PRIu32,
                           ST_WORKER_SCALES, h->n);
        *records = (struct st_span){NULL, h->n * (size_t)ST_WORKER_COLUMN(0)};
        return 0;
    }
    /* What the file says of itself is not for clients: it names its path. */
    if (st_hints_columns(w->o.hints, m->name, h->first, h->n, &p, &records->len, e))
        return st_fail(e, ST_INPUT, "%s: this worker has no hints of it", m->name);
    if (records->len > ST_WORKER_MAX_PAYLOAD - 12)
        return st_fail(e, ST_INPUT, "HINT columns: %" PRIu32 " are too many for one frame", h->n);
    records->p = p;
    return 0;
}

/* A preparer's columns: scale and norm, from the weights. */
static void add_columns(const struct st_worker *w, const struct st_worker_hint *h, struct st_buf *out)
{
    for (uint32_t j = h->first; j < h->first + h->n; j++) {
        st_buf_add(out, &w->o.served->weights[h->weight].scale[j], 4);
        st_buf_add(out, &w->norms[h->weight][j], 4);
    }
}

static int answer_hint(struct st_worker_peer *c, struct st_err *e)
{
    struct st_worker_hint h;
    struct st_span records;
    struct st_err why;
    if (st_worker_hint_parse((struct st_span){c->part, c->part_len}, &h, e))
        return e->code;
    c->worker->n.hints++;
    next_frame(c);
    if (check_hint(c, &h, &records, &why))
        return put_failure(c, c->head.id, &why) ? st_fail(e, ST_MEMORY, "no memory for a reply") : 0;
    struct st_worker_request *r = small_reply(c);
    if (!r)
        return st_fail(e, ST_MEMORY, "no memory for a reply");
    st_worker_columns_add(&r->head, c->head.id, &h, records.len);
    if (c->worker->o.preparer)
        add_columns(c->worker, &h, &r->head);
    else
        r->body = records;
    put(c, r);
    return 0;
}

/* Which frames a client may send now. */
static int expect_type(const struct st_worker_peer *c, enum st_worker_type t, struct st_err *e)
{
    bool proves = c->worker->o.proof.collection && !c->proving.has_asked && t == ST_WORKER_CHALLENGE;
    bool asks = t == ST_WORKER_MULTIPLY || t == ST_WORKER_PAIR || t == ST_WORKER_HINT;
    if (c->state == GREETING ? t == ST_WORKER_HELLO : proves || (c->state == PROVING ? t == ST_WORKER_EVIDENCE : asks))
        return 0;
    if (c->state == PROVING && asks)
        return st_fail(e, ST_UNSUPPORTED,
                       "this worker serves only sides that prove what they run (--private-weights, --evidence)");
    return st_fail(e, ST_INPUT, "frame of type %d where %s is expected", (int)t,
                   c->state == GREETING  ? "HELLO"
                   : c->state == PROVING ? "EVIDENCE"
                                         : "MULTIPLY, PAIR or HINT");
}

/* Whether this request can be served; the length of its reply. */
static int check_multiply(const struct st_worker *w, const struct st_worker_multiply *m, size_t *values_len,
                          struct st_err *e)
{
    const struct st_served *s = w->o.served;
    uint64_t per_row = 0, over = 0;
    bool outputs = m->format == ST_WORKER_OUTPUTS;
    if (outputs && !w->o.preparer)
        return st_fail(e, ST_INPUT, "MULTIPLY format: rows over outputs are for a preparer, which this worker is not");
    for (uint32_t i = 0; i < m->n_weight; i++) {
        if (m->weights[i] >= s->n)
            return st_fail(e, ST_INPUT, "MULTIPLY weight: want 0..%" PRIu32 ", got %" PRIu32, s->n - 1, m->weights[i]);
        for (uint32_t k = 0; k < i; k++)
            if (m->weights[k] == m->weights[i])
                return st_fail(e, ST_INPUT, "MULTIPLY weight: %" PRIu32 " stands there twice", m->weights[i]);
        if (s->weights[m->weights[i]].n_in != s->weights[m->weights[0]].n_in)
            return st_fail(e, ST_INPUT, "MULTIPLY weights: want one n_in, got %" PRIu32 " and %" PRIu32,
                           s->weights[m->weights[0]].n_in, s->weights[m->weights[i]].n_in);
        over += s->weights[m->weights[i]].n_out;
    }
    if (m->n_row > w->o.max_row)
        return st_fail(e, ST_INPUT, "MULTIPLY rows: want at most %" PRIu32 ", got %" PRIu32, w->o.max_row, m->n_row);
    uint32_t n_in = s->weights[m->weights[0]].n_in;
    uint64_t want = outputs ? over : n_in;
    per_row = 4 * (outputs ? n_in : over);
    if (m->rows.len != m->n_row * want * 4 || (outputs && over >= 1u << 24))
        return st_fail(e, ST_INPUT, "MULTIPLY rows: %s has %" PRIu64 " %s, got rows of %zu",
                       s->weights[m->weights[0]].name, want, outputs ? "outputs with its group" : "inputs",
                       m->rows.len / 4 / m->n_row);
    if (per_row * m->n_row > ST_WORKER_MAX_PAYLOAD - 16 ||
        st_worker_memory_need(m->rows.len, per_row * m->n_row) > w->memory.budget)
        return st_fail(e, ST_INPUT, "MULTIPLY rows: a reply of %" PRIu64 " bytes is too long; ask for fewer rows",
                       per_row * m->n_row);
    *values_len = (size_t)(per_row * m->n_row);
    return 0;
}

/* The same of a product that needs nothing of the model. */
static int check_pair(const struct st_worker *w, const struct st_worker_pair *p, size_t *values_len, struct st_err *e)
{
    if (!w->o.pairs)
        return st_fail(e, ST_UNSUPPORTED, "PAIR: this worker was started without --pairs");
    *values_len = 4 * (size_t)p->n_a * p->n_b; /* at most 16 MiB */
    if (st_worker_memory_need(p->rows.len, *values_len) > w->memory.budget)
        return st_fail(e, ST_INPUT, "PAIR: %zu bytes of rows and a reply of %zu are too long; ask for fewer rows",
                       p->rows.len, *values_len);
    return 0;
}

/* All before the rows is in: memory for them and for the reply, in turn with others that wait for it. */
static int admit(struct st_worker_peer *c, bool *moved, struct st_err *e)
{
    struct st_worker *w = c->worker;
    struct st_err why;
    size_t values_len = 0;
    if (c->pair.n_inner ? check_pair(w, &c->pair, &values_len, &why) : check_multiply(w, &c->what, &values_len, &why)) {
        c->skip = c->what.rows.len;
        c->input = IN_SKIP;
        return put_failure(c, c->head.id, &why) ? st_fail(e, ST_MEMORY, "no memory for a reply") : 0;
    }
    if (!w->waiting || w->waiting == c) {
        if (st_worker_memory_take(&w->memory, c->what.rows.len, values_len, &c->filling, e))
            return e->code;
    }
    if (!c->filling) {
        c->input = IN_MEMORY;
        c->frame_until = 0;
        start_waiting(c);
        *moved = false;
        return 0;
    }
    stop_waiting(c);
    c->filling->conn = c;
    c->filling->lane = &c->lane;
    c->filling->id = c->head.id;
    c->filling->what = c->what;
    c->filling->pair = c->pair;
    c->n_pending++;
    c->have = 0;
    c->input = IN_ROWS;
    c->frame_until = time_for(w->o.receive_s, c->what.rows.len);
    return 0;
}

/* The head of a frame is in. */
static int begin_frame(struct st_worker_peer *c, struct st_err *e)
{
    uint64_t max = c->worker->max_payload;
    if (c->state == PROVING && max < ST_WORKER_MAX_EVIDENCE)
        max = ST_WORKER_MAX_EVIDENCE;
    if (st_worker_head_parse(c->part, max, &c->head, e))
        return e->code;
    enum st_worker_type t = c->head.type;
    if (expect_type(c, t, e))
        return e->code;
    bool rows = t == ST_WORKER_MULTIPLY || t == ST_WORKER_PAIR;
    if ((rows || t == ST_WORKER_HINT) && c->head.id == 0)
        return st_fail(e, ST_INPUT, "frame id: want another one than 0");
    if (!rows && t != ST_WORKER_EVIDENCE && c->head.len > PART)
        return st_fail(e, ST_INPUT, "oversized frame: %" PRIu64 " bytes, at most %d", c->head.len, PART);
    c->pair = (struct st_worker_pair){0};
    if (t == ST_WORKER_EVIDENCE) {
        bool moved;
        return admit_evidence(c, &moved, e);
    }
    c->input = IN_PART;
    c->part_len = 0;
    c->part_want = rows && c->head.len > 12 ? 12 : (size_t)c->head.len;
    c->frame_until = time_for(c->worker->o.receive_s, c->head.len);
    return 0;
}

static void end_rows(struct st_worker_peer *c)
{
    struct st_worker_request *r = c->filling;
    c->filling = NULL;
    c->worker->n.requests++;
    next_frame(c);
    if (r->what.format != ST_WORKER_F32 && st_field_kernels()->most(r->rows, r->rows_len / 4) >= ST_FQ) {
        st_fail(&r->err, ST_INPUT, "%s rows: a value is no residue, want less than %u",
                r->pair.n_inner ? "PAIR" : "MULTIPLY", ST_FQ);
        st_worker_peer_reply(c, r);
    } else
        /* A PAIR may take seconds: the event thread is not for it. */
        st_worker_queue_push(c->worker->queue, r, c->worker->n_conn == 1 && !r->pair.n_inner);
}

static int begin_pair(struct st_worker_peer *c, struct st_err *e)
{
    bool moved;
    if (st_worker_pair_begin((struct st_span){c->part, c->part_len}, c->head.len, &c->pair, e))
        return e->code;
    c->what = (struct st_worker_multiply){
        .format = ST_WORKER_FIELD, .n_row = c->pair.n_a, .n_weight = 1, .rows = c->pair.rows};
    return admit(c, &moved, e);
}

static int end_part(struct st_worker_peer *c, struct st_err *e)
{
    if (c->head.type == ST_WORKER_HELLO)
        return greet(c, e);
    if (c->head.type == ST_WORKER_HINT)
        return answer_hint(c, e);
    if (c->head.type == ST_WORKER_CHALLENGE)
        return take_challenge(c, e);
    if (c->head.type == ST_WORKER_PAIR)
        return begin_pair(c, e);
    size_t need;
    if (st_worker_multiply_begin((struct st_span){c->part, c->part_len}, c->head.len, &c->what, &need, e))
        return e->code;
    c->part_want = need;
    if (c->part_len < need)
        return 0;
    bool moved;
    return admit(c, &moved, e);
}

/* One piece of input. *moved false: nothing to do now. */
static int step(struct st_worker_peer *c, bool *moved, struct st_err *e)
{
    size_t n = 0;
    *moved = true;
    switch (c->input) {
    case IN_MEMORY:
        return admit(c, moved, e);
    case IN_PLACE:
        return admit_evidence(c, moved, e);
    case IN_EVIDENCE:
        return take_evidence(c, moved, e);
    case IN_ROWS:
        if (take(c, (uint8_t *)c->filling->rows + c->have, c->filling->rows_len - c->have, &n, e))
            return e->code;
        *moved = n > 0;
        c->have += n;
        if (c->have == c->filling->rows_len)
            end_rows(c);
        return 0;
    case IN_SKIP: {
        uint8_t waste[STAGE];
        if (take(c, waste, c->skip < sizeof waste ? (size_t)c->skip : sizeof waste, &n, e))
            return e->code;
        *moved = n > 0;
        c->skip -= n;
        if (!c->skip)
            next_frame(c);
        return 0;
    }
    default:
        if (c->part_len < c->part_want) {
            if (take(c, c->part + c->part_len, c->part_want - c->part_len, &n, e))
                return e->code;
            *moved = n > 0;
            if (n && c->input == IN_HEAD && !c->part_len && c->state == OPEN)
                c->frame_until = time_for(c->worker->o.receive_s, 0);
            c->part_len += n;
        }
        if (c->part_len < c->part_want)
            return 0;
        *moved = true;
        return c->input == IN_HEAD ? begin_frame(c, e) : end_part(c, e);
    }
}

/* What can go on without anything from the client. */
static bool is_waiting(const struct st_worker_peer *c)
{
    return c->state <= OPEN && (c->input == IN_MEMORY || c->input == IN_PLACE);
}

/* Between frames a client with too many requests is not read. */
static bool is_reading(const struct st_worker_peer *c)
{
    bool between = c->input == IN_HEAD && c->part_len == 0;
    return c->state <= OPEN && !is_waiting(c) && c->input != IN_VERDICT &&
           (!between || c->n_pending < c->worker->o.max_pending);
}

/* Up to one frame. Errors of the stream are returned, those of the protocol answered. */
static int receive_some(struct st_worker_peer *c, bool *any, struct st_err *e)
{
    bool moved = true;
    while (moved && (is_reading(c) || is_waiting(c))) {
        bool in_frame = c->input != IN_HEAD;
        if (step(c, &moved, e)) {
            if (e->code == ST_IO)
                return e->code;
            *any = true;
            return break_off(c, e);
        }
        *any |= moved;
        if (in_frame && c->input == IN_HEAD)
            return 0;
    }
    return 0;
}

/* The connection's life ------------------------------------------------------------------------------------------- */

void st_worker_peer_free(struct st_worker_peer *c)
{
    struct st_worker *w = c->worker;
    abandon(c);
    while (c->out) {
        struct st_worker_request *r = c->out;
        c->out = r->next;
        give(w, r);
    }
    *(c->prev ? &c->prev->next : &w->conns) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    w->n_conn--;
    if (c->on_wake)
        event_free(c->on_wake);
    if (c->on_read)
        event_free(c->on_read);
    if (c->on_write)
        event_free(c->on_write);
    st_accepted_free(c->stream);
    if (w->memory.wipe)
        explicit_bzero(c->stage, STAGE);
    free(c);
}

static void watch(struct event *ev, bool *is, bool want)
{
    if (*is == want)
        return;
    if (want)
        event_add(ev, NULL);
    else
        event_del(ev);
    *is = want;
}

/* Reads over what still comes; true when that has ended. */
static bool linger(struct st_worker_peer *c)
{
    struct st_err e;
    size_t n = 1;
    for (int i = 0; i < TURN && n; i++)
        if (st_accepted_read(c->stream, c->stage, STAGE, &n, &e))
            return true;
    return false;
}

static bool is_finished(struct st_worker_peer *c)
{
    if (c->state == CLOSING && !c->n_pending) {
        if (!st_accepted_finish(c->stream))
            return true;
        c->state = LINGERING;
        c->send_until = st_now() + LINGER_S;
    }
    return c->state == LINGERING && linger(c);
}

static void turn(struct st_worker_peer *c)
{
    struct st_err e;
    bool moved = true;
    st_accepted_wake(c->stream);
    int rc = st_accepted_gone(c->stream) ? ST_IO : 0;
    for (int i = 0; i < TURN && moved && !rc && c->state != LINGERING; i++) {
        moved = false;
        if ((rc = receive_some(c, &moved, &e)) == 0)
            rc = send_some(c, &moved, &e);
    }
    if (rc || is_finished(c)) {
        st_worker_peer_free(c);
        return;
    }
    bool read, write;
    if (st_accepted_arm(c->stream, is_reading(c) || c->state == LINGERING, c->out != NULL, &read, &write) || moved)
        wake(c);
    watch(c->on_read, &c->watch_read, read);
    watch(c->on_write, &c->watch_write, write);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    turn(arg);
}

/* Whether there is room for one more. The oldest client that has not said HELLO gives way;
 * without one, the oldest that has not proved what it must. */
static bool has_room(struct st_worker *w)
{
    struct st_worker_peer *old = NULL;
    uint32_t n = 0;
    for (struct st_worker_peer *c = w->conns; c; c = c->next) {
        n += c->state <= OPEN;
        if (c->state < OPEN && (!old || c->state <= old->state))
            old = c;
    }
    if (n < w->o.max_conn)
        return true;
    if (old)
        st_worker_peer_free(old);
    return old != NULL;
}

/* Nobody is to hold all that is there for those who have yet to prove something. */
static bool is_crowded(const struct st_worker *w, uint64_t source)
{
    int n = 0;
    for (const struct st_worker_peer *c = w->conns; c; c = c->next)
        n += c->state < OPEN && c->proving.source == source;
    return w->o.proof.policy && n >= MAX_UNPROVED;
}

void st_worker_peer_new(struct st_worker *w, struct st_accepted *s, uint64_t source)
{
    struct st_worker_peer *c = NULL;
    struct st_err e, full;
    bool crowded = is_crowded(w, source), refused = crowded || !has_room(w);
    if (w->n_conn >= w->o.max_conn + LEAVING || st_alloc(&c, 1, sizeof *c, "a connection", &e)) {
        st_accepted_free(s);
        return;
    }
    c->worker = w;
    c->stream = s;
    c->proving.conn = c;
    c->proving.stream = s;
    c->proving.source = source;
    c->out_last = &c->out;
    next_frame(c);
    c->frame_until = c->active + HELLO_S;
    c->next = w->conns;
    if (w->conns)
        w->conns->prev = c;
    w->conns = c;
    w->n_conn++;
    w->n.connections_total++;
    c->on_wake = event_new(w->base, -1, 0, on_event, c);
    c->on_read = event_new(w->base, st_accepted_fd(s), EV_READ | EV_PERSIST, on_event, c);
    c->on_write = event_new(w->base, st_accepted_fd(s), EV_WRITE | EV_PERSIST, on_event, c);
    if (crowded)
        st_fail(&full, ST_IO, "%d connections from your address have proved nothing yet; try again later",
                MAX_UNPROVED);
    else
        st_fail(&full, ST_IO, "this worker has its %" PRIu32 " connections; try again later", w->o.max_conn);
    if (!c->on_wake || !c->on_read || !c->on_write || (refused && break_off(c, &full)))
        st_worker_peer_free(c);
    else
        wake(c);
}

static void drain(struct st_worker_peer *c)
{
    if (c->state > OPEN)
        return;
    if (c->filling) {
        give(c->worker, c->filling);
        c->filling = NULL;
        c->n_pending--;
    }
    if (c->input == IN_PLACE || c->input == IN_EVIDENCE)
        st_worker_proofs_leave(c->worker, &c->proving);
    stop_waiting(c);
    c->frame_until = 0;
    c->state = CLOSING;
    wake(c);
}

void st_worker_peer_drain(struct st_worker *w)
{
    for (struct st_worker_peer *c = w->conns; c; c = c->next)
        drain(c);
}

/* A slow client must not keep everybody from the memory of its long rows or replies. */
static bool is_late(const struct st_worker_peer *c, double until, uint64_t len, double now)
{
    const struct st_worker_peer *other = c->worker->waiting;
    if (other == c)
        other = c->next_waiting;
    if (other)
        until -= (double)len / MIN_RATE - (double)len / HURRY_RATE;
    return now > until;
}

static bool sends_late(const struct st_worker_peer *c, double now)
{
    uint64_t len = c->out ? c->out->head.len + c->out->body.len : 0;
    return c->send_until > 0 && is_late(c, c->send_until, len, now);
}

static bool receives_late(const struct st_worker_peer *c, double now)
{
    uint64_t len = c->input == IN_ROWS ? c->what.rows.len : 0;
    return c->frame_until > 0 && is_late(c, c->frame_until, len, now);
}

void st_worker_peer_sweep(struct st_worker *w)
{
    double now = st_now();
    struct st_err late;
    for (struct st_worker_peer *c = w->conns, *next; c; c = next) {
        next = c->next;
        bool idle = c->state == OPEN && !c->n_pending && !c->frame_until && c->input == IN_HEAD;
        if (sends_late(c, now) || (idle && now > c->active + w->o.idle_s))
            st_worker_peer_free(c);
        else if (receives_late(c, now)) {
            st_fail(&late, ST_IO, "timed out: a frame has not arrived whole");
            if (break_off(c, &late))
                st_worker_peer_free(c);
            else
                wake(c);
        }
    }
}

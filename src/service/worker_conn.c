#include "service/worker_conn.h"

#include "base/hooks.h"

#include <stdlib.h>
#include <string.h>

/* Of a list of matrices: 20 times that of the largest model there is. */
#define MAX_WELCOME (64u << 20)
#define SAYS "it says: "

struct st_worker_conn {
    struct st_link *link;
    struct st_worker_taker taker;
    uint8_t head[ST_WORKER_HEAD]; /* of the frame that is being received */
    size_t n_head;
    struct st_worker_head now; /* once n_head is whole */
    uint8_t *payload;
    size_t n_payload;
};

static int by_name(const void *a, const void *b, void *weights)
{
    const struct st_worker_weight *w = weights;
    return strcmp(w[*(const uint32_t *)a].name, w[*(const uint32_t *)b].name);
}

int st_worker_list_init(struct st_worker_list *l, struct st_worker_welcome *w, struct st_err *e)
{
    l->welcome = *w;
    w->weights = NULL;
    l->sorted = NULL;
    if (st_alloc(&l->sorted, l->welcome.n, sizeof *l->sorted, "the worker's list of matrices", e))
        return e->code;
    for (uint32_t i = 0; i < l->welcome.n; i++)
        l->sorted[i] = i;
    qsort_r(l->sorted, l->welcome.n, sizeof *l->sorted, by_name, l->welcome.weights);
    for (uint32_t i = 1; i < l->welcome.n; i++) {
        const struct st_worker_weight *a = &l->welcome.weights[l->sorted[i - 1]];
        if (strcmp(a->name, l->welcome.weights[l->sorted[i]].name) == 0)
            return st_fail(e, ST_INPUT, "it lists %s twice", a->name);
    }
    return 0;
}

void st_worker_list_free(struct st_worker_list *l)
{
    free(l->welcome.weights);
    free(l->sorted);
    *l = (struct st_worker_list){0};
}

int64_t st_worker_list_find(const struct st_worker_list *l, const char *name)
{
    uint32_t low = 0, high = l->welcome.n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2, id = l->sorted[mid];
        int order = strcmp(name, l->welcome.weights[id].name);
        if (order == 0)
            return id;
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return -1;
}

int st_worker_says(struct st_span payload, bool greeting, struct st_err *said, struct st_err *e)
{
    struct st_worker_failure f;
    if (st_worker_failure_parse(payload, &f, e))
        return e->code;
    /* A worker cannot make one of this side's own verdicts, nor its faults. */
    bool may = f.code == ST_INPUT || f.code == ST_IO || f.code == ST_UNSUPPORTED || f.code == ST_MEMORY ||
               (greeting && f.code == ST_VERIFY);
    st_fail(said, may ? f.code : ST_IO, SAYS "%s", f.text);
    return 0;
}

/* Receives what is there of [p + *have, p + len). */
static int receive(struct st_worker_conn *c, uint8_t *p, size_t len, size_t *have, struct st_err *e)
{
    size_t got;
    if (*have > len)
        return st_fail(e, ST_INTERNAL, "%zu bytes of a frame of %zu", *have, len);
    if (*have == len)
        return 0;
    if (st_link_recv(c->link, p + *have, len - *have, &got, e))
        return e->code;
    *have += got;
    return 0;
}

static int receive_all(struct st_worker_conn *c, uint8_t *p, size_t len, double deadline, struct st_err *e)
{
    for (size_t have = 0;;) {
        if (receive(c, p, len, &have, e))
            return e->code;
        if (have == len)
            return 0;
        if (st_now() >= deadline)
            return st_fail(e, ST_IO, "timed out");
        if (st_link_wait(c->link, true, false, deadline, e))
            return e->code;
    }
}

static void hex8(const uint8_t digest[32], char out[17])
{
    for (int i = 0; i < 8; i++) {
        out[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    out[16] = 0;
}

static const char *name_of(enum st_worker_type t)
{
    switch (t) {
    case ST_WORKER_WELCOME:
        return "WELCOME";
    case ST_WORKER_CHALLENGE:
        return "CHALLENGE";
    case ST_WORKER_EVIDENCE:
        return "EVIDENCE";
    default:
        return "ADMITTED";
    }
}

/* The next frame whole, of that type; a FAILURE in its place is what the worker says. *payload is the caller's. */
static int receive_frame(struct st_worker_conn *c, enum st_worker_type want, uint64_t max, double deadline,
                         uint8_t **payload, struct st_err *e)
{
    struct st_err said = {0};
    *payload = NULL;
    if (st_worker_head_parse(c->head, max, &c->now, e) ||
        st_alloc(payload, (size_t)c->now.len + 1, 1, "a frame of the worker", e) ||
        receive_all(c, *payload, (size_t)c->now.len, deadline, e))
        return e->code;
    if (c->now.type == want)
        return 0;
    if (c->now.type != ST_WORKER_FAILURE)
        return st_fail(e, ST_INPUT, "frame of type %d instead of a %s", (int)c->now.type, name_of(want));
    if (st_worker_says((struct st_span){*payload, (size_t)c->now.len}, true, &said, e))
        return e->code;
    *e = said;
    return e->code;
}

static int receive_next(struct st_worker_conn *c, enum st_worker_type want, uint64_t max, double deadline,
                        uint8_t **payload, struct st_err *e)
{
    *payload = NULL;
    if (receive_all(c, c->head, ST_WORKER_HEAD, deadline, e))
        return e->code;
    return receive_frame(c, want, max, deadline, payload, e);
}

/* Sends what goes now; *left: how much does not. */
static int send_some(struct st_worker_conn *c, struct iovec v[2], size_t *left, struct st_err *e)
{
    size_t sent;
    if (st_link_send(c->link, v, 2, &sent, e))
        return e->code;
    for (int i = 0; i < 2; i++) {
        size_t some = sent < v[i].iov_len ? sent : v[i].iov_len;
        v[i].iov_base = (uint8_t *)v[i].iov_base + some;
        v[i].iov_len -= some;
        sent -= some;
    }
    *left = v[0].iov_len + v[1].iov_len;
    return 0;
}

/* A frame of the greeting. Nothing is received meanwhile: what comes then is no reply, and no frame may be half taken
 * when the answer to this one is. Both sides take turns, so the worker has to read it. When the connection ends under
 * it, the worker may have said why: whoever receives next hears that, or the end. */
static int send_buf(struct st_worker_conn *c, struct st_buf *b, double deadline, struct st_err *e)
{
    struct iovec v[2] = {{b->p, b->len}, {NULL, 0}};
    size_t left = 1;
    int rc = b->failed ? st_fail(e, ST_MEMORY, "greeting: no memory") : 0;
    while (!rc && left) {
        rc = send_some(c, v, &left, e);
        if (rc == ST_IO) {
            *e = (struct st_err){0};
            rc = left = 0;
        }
        if (!rc && left && st_now() >= deadline)
            rc = st_fail(e, ST_IO, "timed out");
        if (!rc && left)
            rc = st_link_wait(c->link, false, true, deadline, e);
    }
    st_buf_free(b);
    return rc;
}

/* Proofs: the worker's first, so that this side says nothing of itself to one that is not what it should be. */

struct proving {
    struct st_worker_conn *conn;
    const struct st_worker_terms *terms;
    const struct st_worker_welcome *welcome;
    double deadline;
    struct st_proof about; /* the exporter and the digest of the model */
};

static int check_flags(const struct proving *p, struct st_err *e)
{
    const struct st_worker_terms *t = p->terms;
    uint32_t flags = p->welcome->flags;
    if (t->preparer && !(flags & ST_WORKER_FLAG_PREPARES))
        return st_fail(e, ST_INPUT, "is no preparer (sotto-worker --preparer)");
    if (t->proof.policy && !(flags & ST_WORKER_FLAG_PROVES))
        return st_fail(e, ST_POLICY, "does not prove what it runs (sotto-worker --evidence)");
    if (t->private_weights && !(flags & ST_WORKER_FLAG_PROVE))
        return st_fail(
            e, ST_POLICY,
            "does not ask what this side runs: its weights are not private (sotto-worker --private-weights)");
    if ((flags & ST_WORKER_FLAG_PROVE) && !t->proof.collection)
        return st_fail(e, ST_POLICY,
                       "serves only sides that prove what they run (--private-weights, --evidence KINDS)");
    return 0;
}

static int judge_worker(struct proving *p, struct st_err *e)
{
    struct st_proof proof = p->about;
    struct st_buf frame = {0};
    uint8_t *evidence = NULL;
    proof.role = p->terms->preparer ? ST_PROOF_PREPARER : ST_PROOF_WORKER;
    proof.asked = st_unix_time();
    if (st_random(proof.nonce, sizeof proof.nonce, e))
        return e->code;
    st_worker_challenge_add(&frame, proof.nonce);
    int rc = send_buf(p->conn, &frame, p->deadline, e);
    if (!rc)
        rc = receive_next(p->conn, ST_WORKER_EVIDENCE, ST_WORKER_MAX_EVIDENCE, p->deadline, &evidence, e);
    if (!rc &&
        (rc = st_proof_judge(p->terms->proof.policy, &proof, (struct st_span){evidence, (size_t)p->conn->now.len}, e)))
        st_err_prefix(e, "its evidence");
    free(evidence);
    return rc;
}

static int prove_ourselves(struct proving *p, const uint8_t nonce[ST_WORKER_NONCE], struct st_err *e)
{
    struct st_proof proof = p->about;
    struct st_buf bundle = {0}, frame = {0};
    uint8_t *none = NULL;
    proof.role = ST_PROOF_CLIENT;
    proof.kit = p->terms->proof.kit;
    memcpy(proof.nonce, nonce, sizeof proof.nonce);
    int rc = st_proof_make(p->terms->proof.collection, &proof, &bundle, e);
    if (rc)
        st_err_prefix(e, "evidence of this side");
    else {
        st_worker_evidence_add(&frame, (struct st_span){(const uint8_t *)bundle.p, bundle.len});
        rc = send_buf(p->conn, &frame, p->deadline, e);
    }
    if (!rc)
        rc = receive_next(p->conn, ST_WORKER_ADMITTED, 0x1000, p->deadline, &none, e);
    if (!rc)
        rc = st_worker_admitted_parse((struct st_span){none, (size_t)p->conn->now.len}, e);
    free(none);
    st_buf_free(&bundle);
    return rc;
}

static int prove(struct proving *p, struct st_err *e)
{
    bool asked = p->welcome->flags & ST_WORKER_FLAG_PROVE;
    uint8_t nonce[ST_WORKER_NONCE], *challenge = NULL;
    if (check_flags(p, e))
        return e->code;
    if (!asked && !p->terms->proof.policy)
        return 0;
    memcpy(p->about.digest, p->welcome->digest, sizeof p->about.digest);
    int rc = st_link_exporter(p->conn->link, ST_PROOF_EXPORTER, p->about.exporter, e);
    if (!rc && asked) {
        rc = receive_next(p->conn, ST_WORKER_CHALLENGE, ST_WORKER_NONCE + 0x1000, p->deadline, &challenge, e);
        if (!rc)
            rc = st_worker_challenge_parse((struct st_span){challenge, (size_t)p->conn->now.len}, nonce, e);
        free(challenge);
    }
    if (!rc && p->terms->proof.policy)
        rc = judge_worker(p, e);
    return !rc && asked ? prove_ourselves(p, nonce, e) : rc;
}

static int greet(struct st_worker_conn *c, const struct st_worker_terms *t, double deadline,
                 struct st_worker_list *list, struct st_err *e)
{
    struct st_buf hello = {0};
    struct st_worker_welcome w = {0};
    uint8_t *payload = NULL;
    static const uint8_t any[32];
    char want[17], has[17];
    st_worker_hello_add(&hello, t->digest);
    int rc = send_buf(c, &hello, deadline, e);
    if (!rc && (rc = receive_all(c, c->head, ST_WORKER_HEAD, deadline, e)) == ST_IO && st_now() < deadline) {
        const struct st_err why = *e;
        st_fail(e, ST_IO, "%s instead of a greeting (no sotto-worker, or one that wants tls:// or shm:)", why.msg);
    }
    if (!rc)
        rc = receive_frame(c, ST_WORKER_WELCOME, MAX_WELCOME, deadline, &payload, e);
    if (!rc)
        rc = st_worker_welcome_parse((struct st_span){payload, (size_t)c->now.len}, &w, e);
    if (!rc && memcmp(t->digest, any, 32) != 0 && memcmp(w.digest, t->digest, 32) != 0) {
        hex8(t->digest, want);
        hex8(w.digest, has);
        rc = st_fail(e, ST_VERIFY, "it serves another model: want digest %s..., got %s...", want, has);
    }
    if (!rc)
        rc = prove(&(struct proving){.conn = c, .terms = t, .welcome = &w, .deadline = deadline}, e);
    if (!rc)
        rc = st_worker_list_init(list, &w, e);
    free(w.weights);
    free(payload);
    return rc;
}

int st_worker_conn_open(const char *address, const struct st_worker_terms *terms, double deadline,
                        const struct st_worker_taker *taker, struct st_worker_conn **out, struct st_worker_list *list,
                        struct st_err *e)
{
    struct st_worker_conn *c;
    *out = NULL;
    *list = (struct st_worker_list){0};
    *e = (struct st_err){0};
    if (st_alloc(&c, 1, sizeof *c, "connection", e))
        return e->code;
    c->taker = *taker;
    if (st_link_open(address, terms->tls_ca, deadline, &c->link, e) || greet(c, terms, deadline, list, e)) {
        st_worker_list_free(list);
        st_worker_conn_close(c);
        return e->code;
    }
    *out = c;
    return 0;
}

void st_worker_conn_close(struct st_worker_conn *c)
{
    if (!c)
        return;
    st_link_close(c->link);
    free(c);
}

/* Goes on with the frame that is being received as far as bytes are there. *moved: some were. */
static int take_some(struct st_worker_conn *c, bool *moved, struct st_err *e)
{
    size_t before = c->n_head + c->n_payload;
    if (c->n_head < ST_WORKER_HEAD) {
        if (receive(c, c->head, ST_WORKER_HEAD, &c->n_head, e))
            return e->code;
        *moved = c->n_head + c->n_payload != before;
        if (c->n_head < ST_WORKER_HEAD)
            return 0;
        void *payload = NULL;
        if (st_worker_head_parse(c->head, ST_WORKER_MAX_PAYLOAD, &c->now, e) ||
            c->taker.place(c->taker.arg, &c->now, &payload, e))
            return e->code;
        c->payload = payload;
    }
    if (receive(c, c->payload, (size_t)c->now.len, &c->n_payload, e))
        return e->code;
    *moved = c->n_head + c->n_payload != before;
    if (c->n_payload < c->now.len)
        return 0;
    c->n_head = c->n_payload = 0;
    return c->taker.arrived(c->taker.arg, &c->now, (struct st_span){c->payload, (size_t)c->now.len}, e);
}

/* The worker may have said why before it closed: that is the better reason. */
static int last_words(struct st_worker_conn *c, struct st_err *e)
{
    struct st_err why = {0};
    bool moved = true;
    while (moved && !why.code) {
        moved = false;
        if (take_some(c, &moved, &why) && strncmp(why.msg, SAYS, strlen(SAYS)) == 0)
            *e = why;
    }
    return e->code;
}

int st_worker_conn_send(struct st_worker_conn *c, struct st_span head, struct st_span body, double deadline,
                        struct st_err *e)
{
    struct iovec v[2] = {{(void *)(uintptr_t)head.p, head.len}, {(void *)(uintptr_t)body.p, body.len}};
    for (;;) {
        size_t left = 0;
        bool moved = false;
        if (send_some(c, v, &left, e))
            return last_words(c, e);
        if (!left)
            return 0;
        if (st_now() >= deadline)
            return st_fail(e, ST_IO, "timed out");
        if (st_link_wait(c->link, true, true, deadline, e) || take_some(c, &moved, e))
            return e->code;
    }
}

int st_worker_conn_take(struct st_worker_conn *c, const bool *stop, double deadline, struct st_err *e)
{
    while (!*stop) {
        bool moved = false;
        if (take_some(c, &moved, e))
            return e->code;
        if (*stop)
            return 0;
        if (st_now() >= deadline)
            return st_fail(e, ST_IO, "timed out");
        if (!moved && st_link_wait(c->link, true, false, deadline, e))
            return e->code;
    }
    return 0;
}

bool st_worker_conn_quiet(struct st_worker_conn *c)
{
    return c->n_head == 0 && st_link_quiet(c->link);
}

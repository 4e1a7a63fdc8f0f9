/* Proofs of the worker's connections. Threads collect its own and judge those of clients, one after the other, since a
 * platform may take long and whoever connects may send anything. Who asks has proved nothing yet: addresses have their
 * turn one after the other, and what arrives of clients has its own small memory. */
#include "base/hooks.h"
#include "base/log.h"
#include "service/background.h"
#include "service/worker_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SAY_S 1.0
enum { PLACES = 4, N_SOURCE = 64 };

/* When addresses had their turn last; those that are not in it, never. */
struct turns {
    struct {
        uint64_t source, turn;
    } last[N_SOURCE];
    uint64_t turn;
};

struct st_worker_proofs {
    struct st_worker *worker;
    struct st_background *collect, *judge, *check;
    struct st_worker_wait *waiting; /* for this side's evidence, the longest first */
    struct st_worker_wait *outside; /* for a place for their own */
    struct st_worker_wait *arrived; /* for the verdict on it; they have a place */
    struct turns collected, placed;
    uint32_t n_place;                    /* taken, by those who send and by those who are judged */
    struct st_worker_proving *now;       /* whose is being collected; NULL: has left meanwhile, or none is */
    struct st_worker_proving *defendant; /* who is being judged, likewise */
    double said;                         /* when a refusal was logged last */
    uint64_t unsaid;
    /* The thread's, while it is busy. */
    struct st_proof asked;
    struct st_buf result;
    struct st_err why;
    /* The judging thread's, while it is busy. */
    struct st_proof claim;
    struct st_span evidence; /* owned */
    struct st_err verdict;   /* code 0: good */
    /* The checking thread's, while it is busy. */
    struct st_err changed;
};

static void append(struct st_worker_wait **list, struct st_worker_wait *w, struct st_worker_proving *of)
{
    while (*list)
        list = &(*list)->next;
    *w = (struct st_worker_wait){.of = of};
    *list = w;
}

static bool unlink_from(struct st_worker_wait **list, const struct st_worker_wait *w)
{
    for (; *list; list = &(*list)->next)
        if (*list == w) {
            *list = w->next;
            return true;
        }
    return false;
}

static uint64_t last_turn(const struct turns *t, uint64_t source)
{
    for (int i = 0; i < N_SOURCE; i++)
        if (t->last[i].turn && t->last[i].source == source)
            return t->last[i].turn;
    return 0;
}

static void mark_turn(struct turns *t, uint64_t source)
{
    int at = 0;
    for (int i = 0; i < N_SOURCE; i++) {
        if (t->last[i].turn && t->last[i].source == source) {
            at = i;
            break;
        }
        if (t->last[i].turn < t->last[at].turn)
            at = i;
    }
    t->last[at].source = source;
    t->last[at].turn = ++t->turn;
}

/* The one who waits longest, of the address that had no turn for longest. The list is not empty. */
static struct st_worker_proving *take_next(struct turns *t, struct st_worker_wait **list)
{
    struct st_worker_wait *best = *list;
    uint64_t oldest = last_turn(t, best->of->source);
    for (struct st_worker_wait *w = best->next; w; w = w->next) {
        uint64_t turn = last_turn(t, w->of->source);
        if (turn < oldest) {
            best = w;
            oldest = turn;
        }
    }
    unlink_from(list, best);
    mark_turn(t, best->of->source);
    return best->of;
}

/* Clients ---------------------------------------------------------------------------------------------------------- */

static void say(struct st_worker_proofs *p, const struct st_err *why)
{
    if (p->said > 0 && st_now() - p->said < SAY_S) {
        p->unsaid++;
        return;
    }
    if (p->unsaid)
        st_log(ST_LOG_WARN, "clients refused: %" PRIu64 " more meanwhile", p->unsaid);
    st_log(ST_LOG_WARN, "client refused: %s", why->msg);
    p->said = st_now();
    p->unsaid = 0;
}

int st_worker_proofs_challenge(struct st_worker_proving *c, struct st_err *e)
{
    c->asked = st_unix_time();
    return st_random(c->nonce, sizeof c->nonce, e);
}

/* Places for evidence that arrives. */
static void hand_out(struct st_worker_proofs *p)
{
    while (p->outside && p->n_place < PLACES) {
        struct st_worker_proving *c = take_next(&p->placed, &p->outside);
        c->has_place = true;
        p->n_place++;
        st_worker_peer_retry(c->conn);
    }
}

static void free_place(struct st_worker_proofs *p)
{
    p->n_place--;
    hand_out(p);
}

int st_worker_proofs_place(struct st_worker *w, struct st_worker_proving *c, size_t len, bool *there, struct st_err *e)
{
    struct st_worker_proofs *p = w->proofs;
    if (!c->has_place && !c->waits) {
        c->waits = true;
        append(&p->outside, &c->place, c);
        hand_out(p);
    }
    *there = c->has_place;
    if (!*there)
        return 0;
    c->waits = false;
    c->evidence_len = len;
    return st_alloc(&c->evidence, len, 1, "evidence", e);
}

void st_worker_proofs_leave(struct st_worker *w, struct st_worker_proving *c)
{
    struct st_worker_proofs *p = w->proofs;
    unlink_from(&p->outside, &c->place);
    unlink_from(&p->arrived, &c->place);
    free(c->evidence);
    c->evidence = NULL;
    c->waits = false;
    if (c->has_place) {
        c->has_place = false;
        free_place(p);
    }
}

static void judge(void *arg)
{
    struct st_worker_proofs *p = arg;
    struct st_err why = {.code = ST_VERIFY};
    if (p->verdict.code) /* of the connection */
        return;
    p->verdict.code = ST_VERIFY;
    if (st_worker_evidence_parse(p->evidence, &why) ||
        st_proof_judge(p->worker->o.proof.policy, &p->claim, p->evidence, &why))
        p->verdict = why;
    else
        p->verdict.code = 0;
}

static void start_judging(struct st_worker_proofs *p)
{
    if (!p->arrived || st_background_busy(p->judge))
        return;
    struct st_worker_proving *c = p->arrived->of;
    p->arrived = p->arrived->next;
    p->defendant = c;
    p->claim = (struct st_proof){.role = ST_PROOF_CLIENT, .asked = c->asked};
    memcpy(p->claim.nonce, c->nonce, sizeof p->claim.nonce);
    memcpy(p->claim.digest, p->worker->o.digest, sizeof p->claim.digest);
    p->verdict = (struct st_err){0};
    if (st_accepted_exporter(c->stream, ST_PROOF_EXPORTER, p->claim.exporter, &p->verdict))
        p->verdict.code = ST_VERIFY;
    p->evidence = (struct st_span){c->evidence, c->evidence_len};
    c->evidence = NULL; /* it and its place are the thread's */
    c->has_place = false;
    (void)st_background_run(p->judge);
}

static void judged(void *arg)
{
    struct st_worker_proofs *p = arg;
    struct st_worker_proving *c = p->defendant;
    const bool good = p->verdict.code == 0;
    p->defendant = NULL;
    free((void *)(uintptr_t)p->evidence.p);
    p->evidence = (struct st_span){0};
    if (good)
        p->worker->n.admitted++;
    else {
        p->worker->n.refused++;
        say(p, &p->verdict);
    }
    if (c)
        st_worker_peer_judged(c->conn, good);
    free_place(p);
    start_judging(p);
}

void st_worker_proofs_judge(struct st_worker *w, struct st_worker_proving *c)
{
    append(&w->proofs->arrived, &c->place, c);
    start_judging(w->proofs);
}

/* The worker ------------------------------------------------------------------------------------------------------- */

static void collect(void *arg)
{
    struct st_worker_proofs *p = arg;
    p->why = (struct st_err){0};
    st_buf_clear(&p->result);
    if (st_proof_make(p->worker->o.proof.collection, &p->asked, &p->result, &p->why))
        st_buf_clear(&p->result);
}

static void start(struct st_worker_proofs *p)
{
    while (p->waiting && !st_background_busy(p->collect)) {
        struct st_worker_proving *c = take_next(&p->collected, &p->waiting);
        struct st_err e;
        p->asked = (struct st_proof){.role = p->worker->o.preparer ? ST_PROOF_PREPARER : ST_PROOF_WORKER};
        memcpy(p->asked.nonce, c->theirs, sizeof p->asked.nonce);
        memcpy(p->asked.digest, p->worker->o.digest, sizeof p->asked.digest);
        if (st_accepted_exporter(c->stream, ST_PROOF_EXPORTER, p->asked.exporter, &e)) {
            st_worker_peer_proved(c->conn, NULL);
            continue;
        }
        p->now = c;
        (void)st_background_run(p->collect);
    }
}

static void collected(void *arg)
{
    struct st_worker_proofs *p = arg;
    struct st_worker_proving *c = p->now;
    p->now = NULL;
    if (p->why.code)
        st_log(ST_LOG_WARN, "evidence: %s", p->why.msg);
    if (c)
        st_worker_peer_proved(c->conn, p->result.len ? &p->result : NULL);
    start(p);
}

void st_worker_proofs_ask(struct st_worker *w, struct st_worker_proving *c)
{
    append(&w->proofs->waiting, &c->collecting, c);
    start(w->proofs);
}

void st_worker_proofs_forget(struct st_worker *w, struct st_worker_proving *c)
{
    struct st_worker_proofs *p = w->proofs;
    if (!p)
        return;
    if (p->now == c)
        p->now = NULL;
    if (p->defendant == c)
        p->defendant = NULL;
    unlink_from(&p->waiting, &c->collecting);
    st_worker_proofs_leave(w, c);
}

static void check(void *arg)
{
    struct st_worker_proofs *p = arg;
    p->changed = (struct st_err){0};
    if (st_collection_unchanged(p->worker->o.proof.collection, &p->changed) == 0)
        p->changed.code = 0;
}

static void checked(void *arg)
{
    struct st_worker_proofs *p = arg;
    p->worker->lost = p->changed;
    if (p->changed.code)
        event_base_loopbreak(p->worker->base);
}

void st_worker_proofs_watch(struct st_worker *w)
{
    if (w->proofs && w->proofs->check)
        (void)st_background_run(w->proofs->check);
}

int st_worker_proofs_new(struct st_worker *w, struct st_err *e)
{
    if (!w->o.proof.policy && !w->o.proof.collection)
        return 0;
    if (st_alloc(&w->proofs, 1, sizeof *w->proofs, "proofs", e))
        return e->code;
    w->proofs->worker = w;
    const struct st_background_opts o = {.work = collect, .done = collected, .arg = w->proofs};
    const struct st_background_opts court = {.work = judge, .done = judged, .arg = w->proofs};
    const struct st_background_opts watch = {.work = check, .done = checked, .arg = w->proofs};
    if (w->o.proof.policy && st_background_new(w->base, &court, &w->proofs->judge, e))
        return e->code;
    if (!w->o.proof.collection)
        return 0;
    return st_background_new(w->base, &o, &w->proofs->collect, e) ||
                   st_background_new(w->base, &watch, &w->proofs->check, e)
               ? e->code
               : 0;
}

void st_worker_proofs_free(struct st_worker_proofs *p)
{
    if (!p)
        return;
    st_background_free(p->check);
    st_background_free(p->collect);
    st_background_free(p->judge);
    free((void *)(uintptr_t)p->evidence.p);
    st_buf_free(&p->result);
    free(p);
}

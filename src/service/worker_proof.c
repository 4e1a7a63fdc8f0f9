/* Proofs of the worker's connections: those of clients are judged on the event thread, some milliseconds each; the
 * worker's own are collected by a thread, one after the other, since a platform may take long. */
#include "base/hooks.h"
#include "base/log.h"
#include "service/background.h"
#include "service/worker_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SAY_S 1.0

struct st_worker_proofs {
    struct st_worker *worker;
    struct st_background *collect, *check;
    struct st_worker_proving *waiting; /* for their evidence, the longest first */
    struct st_worker_proving *now;     /* whose is being collected; NULL: has left meanwhile, or none is */
    double said;                       /* when a refusal was logged last */
    uint64_t unsaid;
    /* The thread's, while it is busy. */
    struct st_proof asked;
    struct st_buf result;
    struct st_err why;
    /* The checking thread's, while it is busy. */
    struct st_err changed;
};

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

static int judge(const struct st_worker *w, const struct st_worker_proving *c, struct st_span evidence,
                 struct st_err *e)
{
    struct st_proof p = {.role = ST_PROOF_CLIENT, .asked = c->asked};
    memcpy(p.nonce, c->nonce, sizeof p.nonce);
    memcpy(p.digest, w->o.digest, sizeof p.digest);
    if (st_worker_evidence_parse(evidence, e) || st_accepted_exporter(c->stream, ST_PROOF_EXPORTER, p.exporter, e))
        return e->code;
    return st_proof_judge(w->o.proof.policy, &p, evidence, e);
}

int st_worker_proofs_judge(struct st_worker *w, const struct st_worker_proving *c, struct st_span evidence,
                           struct st_err *e)
{
    struct st_err why = {.code = ST_VERIFY};
    if (judge(w, c, evidence, &why) == 0) {
        w->n.admitted++;
        return 0;
    }
    w->n.refused++;
    say(w->proofs, &why);
    /* One line whatever it was: who asks learns nothing of the policy. */
    return st_fail(e, ST_VERIFY, "your evidence was not accepted; the log here says why");
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
        struct st_worker_proving *c = p->waiting;
        struct st_err e;
        p->waiting = c->next;
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
    struct st_worker_proving **at = &w->proofs->waiting;
    while (*at)
        at = &(*at)->next;
    c->next = NULL;
    *at = c;
    start(w->proofs);
}

void st_worker_proofs_forget(struct st_worker *w, const struct st_worker_proving *c)
{
    struct st_worker_proofs *p = w->proofs;
    if (!p)
        return;
    if (p->now == c)
        p->now = NULL;
    for (struct st_worker_proving **at = &p->waiting; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            return;
        }
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
    const struct st_background_opts watch = {.work = check, .done = checked, .arg = w->proofs};
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
    st_buf_free(&p->result);
    free(p);
}

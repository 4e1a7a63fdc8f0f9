#include "audit/audit.h"

#include "base/buf.h"
#include "base/hooks.h"
#include "text/json.h"

#include <cblas.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define LANES 4                        /* attacks at once */
#define LANE_BYTES ((uint64_t)1 << 30) /* of the budget, at least, for each */
#define SMALL ((uint64_t)64 << 20)     /* matrices of a model that so little is enough for */

void st_findings_free(struct st_findings *f)
{
    st_rows_free(&f->rows);
    free(f->not_run);
    free(f->spent);
    *f = (struct st_findings){0};
}

/* Room for one more of `size` bytes behind n; *cap grows. */
static int room(void **at, size_t n, size_t *cap, size_t size, struct st_err *e)
{
    if (n < *cap)
        return 0;
    size_t more = *cap ? 2 * *cap : 32;
    void *p = realloc(*at, more * size);
    if (!p)
        return st_fail(e, ST_MEMORY, "no memory for the findings of an audit");
    *at = p;
    *cap = more;
    return 0;
}

static int not_run(struct st_findings *f, const char *attack, const char *label, int code, const char *why,
                   struct st_err *e)
{
    void *at = f->not_run;
    if (room(&at, f->n_not_run, &f->cap_not_run, sizeof *f->not_run, e))
        return e->code;
    f->not_run = at;
    struct st_not_run *n = &f->not_run[f->n_not_run++];
    n->attack = attack;
    n->code = code;
    snprintf(n->label, sizeof n->label, "%s", label);
    snprintf(n->why, sizeof n->why, "%s", why);
    return 0;
}

/* The entry of the attack that begins. */
static int add_spent(struct st_findings *f, const struct st_attack *a, const char *label, struct st_err *e)
{
    void *at = f->spent;
    if (room(&at, f->n_spent, &f->cap_spent, sizeof *f->spent, e))
        return e->code;
    f->spent = at;
    struct st_spent *s = &f->spent[f->n_spent++];
    *s = (struct st_spent){.attack = a->name};
    snprintf(s->label, sizeof s->label, "%s", label);
    return 0;
}

/* What the frame knows of rows that an attack has just added. */
static void complete(struct st_row *r, const struct st_attack *a, const struct st_target *t, uint64_t seed)
{
    if (!r->attack)
        r->attack = a->name;
    if (!r->adversary)
        r->adversary = st_adversary_name(a->adversary);
    if (!r->metric)
        r->metric = a->metric;
    r->traffic = r->traffic || a->traffic;
    if (!r->seed)
        r->seed = seed;
    snprintf(r->target, sizeof r->target, "%s", t->label);
    if (*t->label) {
        char own[sizeof r->variant - ST_TARGET_LABEL - 2];
        snprintf(own, sizeof own, "%.60s", r->variant);
        snprintf(r->variant, sizeof r->variant, "%s%s%s", t->label, *own ? ", " : "", own);
    }
    if (r->sweep)
        return;
    r->cost = t->cost;
    if (t->x_name) {
        r->sweep = true;
        r->x_name = t->x_name;
        r->x = t->x;
    }
}

/* A score of nothing, or that is no number, says nothing: it is listed with what was not run. So is what an attack left
 * out, and one that ends without a row. */
static int keep_scores(struct st_findings *f, size_t from, const struct st_attack *a, const char *label,
                       struct st_err *e)
{
    size_t n = from;
    int rc = f->rows.n > from ? 0 : not_run(f, a->name, label, ST_UNSUPPORTED, "it ended without a score", e);
    for (size_t i = from; !rc && i < f->rows.n; i++) {
        const struct st_row *r = &f->rows.at[i];
        char why[sizeof r->variant + sizeof r->note + 2];
        if (!r->left_out && r->n && isfinite(r->score) && isfinite(r->low) && isfinite(r->high)) {
            f->rows.at[n++] = *r;
            continue;
        }
        snprintf(why, sizeof why, "%s%s%s", r->variant, *r->variant ? ": " : "",
                 r->left_out ? r->note : "there was nothing to score");
        rc = not_run(f, a->name, label, r->left_out ? r->left_out : ST_UNSUPPORTED, why, e);
    }
    f->rows.n = n;
    return rc;
}

/* ---- one attack on one target ---- */

struct job {
    size_t turn; /* of the attack among those that were picked */
    const struct st_attack *attack;
    const struct st_target *target;
    struct st_findings out;
    struct st_err err; /* that ends the audit; code 0: it ended, or was not begun */
};

/* One attack that could not be run costs no other its rows. */
static int could_not(struct st_findings *out, const char *attack, const char *label, struct st_err *e)
{
    int code = e->code;
    if (code == ST_UNSUPPORTED || code == ST_MEMORY)
        return not_run(out, attack, label, code, e->msg, e);
    struct st_err why = *e;
    st_err_prefix(&why, "failed");
    st_err_prefix(e, "%s", attack);
    out->failed = *e;
    return not_run(out, attack, label, code, why.msg, e);
}

static int run_job(const struct st_audit *opts, struct job *j, struct st_err *e)
{
    const struct st_attack *a = j->attack;
    const char *label = j->target->label;
    struct st_findings *out = &j->out;
    if (opts->cancel && *opts->cancel)
        return st_fail(e, ST_IO, "cancelled");
    if (add_spent(out, a, label, e))
        return e->code;
    double start = st_now(), cpu = st_cpu_time();
    int rc = a->run(opts, &out->rows, e);
    out->spent[0].seconds = st_now() - start;
    out->spent[0].cpu = st_cpu_time() - cpu;
    if (rc || (opts->cancel && *opts->cancel)) /* what was left undone shows in the rows */
        out->rows.n = 0;
    if (opts->cancel && *opts->cancel)
        return st_fail(e, ST_IO, "cancelled");
    if (rc)
        return could_not(out, a->name, label, e);
    if (keep_scores(out, 0, a, label, e))
        return e->code;
    for (size_t i = 0; i < out->rows.n; i++)
        complete(&out->rows.at[i], a, j->target, opts->seed);
    return 0;
}

/* ---- several at once ---- */

/* All jobs of an audit, taken one after the other by the lanes. Attacks on a small model leave CPUs idle where one step
 * waits for the last, and another attack uses them; what an attack finds depends on no other. */
struct jobs {
    const struct st_audit_run *r;
    struct job *at;
    size_t n;
    atomic_size_t next;
    atomic_bool stop; /* cancelled, or no memory for findings: no other is begun */
    pthread_mutex_t lock;
    double done; /* jobs, with parts of those that run */
};

struct lane {
    struct jobs *jobs;
    struct job *job;
    double part; /* of it */
    struct st_pool *pool;
    struct st_audit opts;
    pthread_t id;
    bool started;
};

/* progress of struct st_audit */
static void on_progress(void *arg, const char *attack, double part)
{
    struct lane *l = arg;
    struct jobs *jobs = l->jobs;
    (void)attack;
    part = part < l->part ? l->part : part > 1 ? 1 : part;
    pthread_mutex_lock(&jobs->lock);
    jobs->done += part - l->part;
    l->part = part;
    if (jobs->r->told)
        jobs->r->told(jobs->r->arg, l->job->attack, l->job->target, jobs->done / (double)jobs->n);
    pthread_mutex_unlock(&jobs->lock);
}

static void *lane_main(void *arg)
{
    struct lane *l = arg;
    struct jobs *jobs = l->jobs;
    for (size_t i; !atomic_load(&jobs->stop) && (i = atomic_fetch_add(&jobs->next, 1)) < jobs->n;) {
        l->job = &jobs->at[i];
        l->part = 0;
        l->opts.target = l->job->target;
        on_progress(l, l->job->attack->name, 0);
        if (run_job(&l->opts, l->job, &l->job->err))
            atomic_store(&jobs->stop, true);
        else
            l->job->err.code = 0;
        on_progress(l, l->job->attack->name, 1);
    }
    return NULL;
}

/* Of a large model one attack at a time gets all threads and all memory: results depend on the budget there, and must
 * not on the number of threads. */
static size_t n_lane(const struct st_audit_run *r)
{
    size_t n = r->opts.pool ? (size_t)st_pool_size(r->opts.pool) : 1, fit = r->opts.memory / LANE_BYTES;
    if (st_subject_plain(r->subject)->base->matrix_bytes > SMALL)
        return 1;
    n = n < LANES ? n : LANES;
    n = n < fit ? n : fit;
    return n ? n : 1;
}

static int open_lanes(struct jobs *jobs, struct lane *lanes, size_t n, struct st_err *e)
{
    const struct st_audit_run *r = jobs->r;
    for (size_t i = 0; i < n; i++) {
        size_t lo = 0, hi = 0;
        lanes[i] = (struct lane){.jobs = jobs, .opts = r->opts};
        if (n > 1) {
            st_pool_part((size_t)st_pool_size(r->opts.pool), 1, (int)i, (int)n, &lo, &hi);
            if (st_pool_new((int)(hi - lo), &lanes[i].pool, e))
                return e->code;
            lanes[i].opts.pool = lanes[i].pool;
        }
        lanes[i].opts.memory = r->opts.memory / n;
        lanes[i].opts.progress = on_progress;
        lanes[i].opts.arg = &lanes[i];
        st_pool_cancel_by(lanes[i].opts.pool, r->opts.cancel);
    }
    return 0;
}

static int run_jobs(struct jobs *jobs, size_t n, struct st_err *e)
{
    struct lane lanes[LANES] = {{.jobs = NULL}};
    openblas_set_num_threads(1); /* for all that call it; not while several do */
    int rc = open_lanes(jobs, lanes, n, e);
    /* Where there are no more threads to be had, the lanes that run do the jobs of the others. */
    for (size_t i = 1; !rc && i < n; i++)
        lanes[i].started = pthread_create(&lanes[i].id, NULL, lane_main, &lanes[i]) == 0;
    if (!rc)
        lane_main(&lanes[0]);
    for (size_t i = 0; i < n; i++) {
        if (lanes[i].started)
            pthread_join(lanes[i].id, NULL);
        st_pool_free(lanes[i].pool);
    }
    st_pool_cancel_by(jobs->r->opts.pool, NULL);
    return rc;
}

/* ---- an audit ---- */

static bool fits(const struct st_audit_run *r, const struct st_attack *a)
{
    return r->adversary < 0 || (int)a->adversary == r->adversary;
}

static bool has(const struct st_subject *s, size_t k, const struct st_attack *a)
{
    return (st_subject_at(s, k)->kinds & a->needs) == a->needs;
}

/* The jobs of one attack: once when it needs nothing of a target. */
static size_t add_jobs(const struct st_audit_run *r, size_t turn, struct job *out)
{
    const struct st_subject *s = r->subject;
    const struct st_attack *a = r->attacks[turn];
    size_t n = 0;
    if (!a->needs)
        out[n++] = (struct job){turn, a, .target = st_subject_plain(s)};
    for (size_t k = 0; a->needs && k < st_subject_count(s); k++)
        if (has(s, k, a))
            out[n++] = (struct job){turn, a, .target = st_subject_at(s, k)};
    return n;
}

static const char *missing(const struct st_attack *a)
{
    switch (a->needs) {
    case ST_TARGET_PAIR:
        return "needs an obfuscated checkpoint and its key";
    case ST_TARGET_RECORD:
        return "needs a recording of what a worker saw (--record)";
    case ST_TARGET_SEALED:
        return "needs a sealed file";
    default:
        return "needs the traffic of a running set-up (target demo)";
    }
}

static int append(void **to, size_t *n, size_t *cap, size_t size, const void *from, size_t n_from, struct st_err *e)
{
    for (size_t i = 0; i < n_from; i++) {
        if (room(to, *n, cap, size, e))
            return e->code;
        memcpy((char *)*to + (*n)++ * size, (const char *)from + i * size, size);
    }
    return 0;
}

static int take(struct st_findings *to, const struct st_findings *from, struct st_err *e)
{
    void *not_run = to->not_run, *spent = to->spent;
    int rc = append(&not_run, &to->n_not_run, &to->cap_not_run, sizeof *to->not_run, from->not_run, from->n_not_run, e);
    if (!rc)
        rc = append(&spent, &to->n_spent, &to->cap_spent, sizeof *to->spent, from->spent, from->n_spent, e);
    to->not_run = not_run;
    to->spent = spent;
    if (!to->failed.code)
        to->failed = from->failed;
    for (size_t i = 0; !rc && i < from->rows.n; i++)
        rc = st_rows_add(&to->rows, &from->rows.at[i], e);
    return rc;
}

/* In the order of the attacks, whenever each ended. */
static int take_all(const struct st_audit_run *r, const struct jobs *jobs, struct st_findings *out, struct st_err *e)
{
    const struct job *j = jobs->at, *end = jobs->at + jobs->n;
    const struct st_err *ended = NULL;
    for (size_t i = 0; i < r->n_attack; i++) {
        const struct st_attack *a = r->attacks[i];
        if (!fits(r, a))
            continue;
        if ((j == end || j->turn != i) && not_run(out, a->name, "", ST_UNSUPPORTED, missing(a), e))
            return e->code;
        for (; j < end && j->turn == i; j++) {
            if (take(out, &j->out, e))
                return e->code;
            ended = !ended && j->err.code ? &j->err : ended;
        }
    }
    for (size_t k = 0; k < st_subject_count(r->subject); k++) {
        const struct st_target *t = st_subject_at(r->subject, k);
        if (*t->unmade && not_run(out, "all", t->label, ST_UNSUPPORTED, t->unmade, e))
            return e->code;
    }
    if (ended)
        *e = *ended;
    return ended ? e->code : 0;
}

int st_audit_run(const struct st_audit_run *r, struct st_findings *out, struct st_err *e)
{
    struct jobs jobs = {.r = r, .lock = PTHREAD_MUTEX_INITIALIZER};
    double start = st_now(), cpu = st_cpu_time();
    *out = (struct st_findings){.n_lane = n_lane(r)};
    int rc = st_alloc(&jobs.at, r->n_attack * (st_subject_count(r->subject) + 1) + 1, sizeof *jobs.at, "an audit", e);
    for (size_t i = 0; !rc && i < r->n_attack; i++)
        if (fits(r, r->attacks[i]))
            jobs.n += add_jobs(r, i, &jobs.at[jobs.n]);
    if (!rc)
        rc = run_jobs(&jobs, out->n_lane, e);
    if (!rc)
        rc = take_all(r, &jobs, out, e);
    for (size_t i = 0; i < jobs.n; i++)
        st_findings_free(&jobs.at[i].out);
    free(jobs.at);
    out->seconds = st_now() - start;
    out->cpu = st_cpu_time() - cpu;
    for (size_t i = 0; out->n_lane > 1 && i < out->n_spent; i++)
        out->spent[i].cpu = NAN; /* what was counted is of all that ran meanwhile */
    return rc;
}

/* ---- JSON ---- */

static void put_str(struct st_buf *b, const char *name, const char *s)
{
    st_buf_addf(b, "\"%s\": ", name);
    st_json_quote(b, s, strlen(s));
    st_buf_add_str(b, ", ");
}

static void put_real(struct st_buf *b, const char *name, double v)
{
    if (isfinite(v))
        st_buf_addf(b, "\"%s\": %.6g, ", name, v);
    else
        st_buf_addf(b, "\"%s\": null, ", name);
}

static void put_row(struct st_buf *b, const struct st_row *r)
{
    st_buf_add_str(b, "{");
    put_str(b, "attack", r->attack);
    put_str(b, "target", r->target);
    put_str(b, "variant", r->variant);
    put_str(b, "adversary", r->adversary);
    put_real(b, "score", r->score);
    put_real(b, "chance", r->chance);
    put_real(b, "unprotected", r->unprotected);
    if (isfinite(r->unprotected))
        put_str(b, "unprotected_is", r->in_clear ? "read off" : "measured");
    if (r->sweep) {
        put_str(b, "x_name", r->x_name ? r->x_name : "");
        put_real(b, "x", r->x);
    }
    if (r->sweep || isfinite(r->cost))
        put_real(b, "cost", r->cost);
    st_buf_addf(b, "\"about\": \"%s\", ", r->others ? "others" : r->traffic ? "traffic" : "content");
    put_str(b, "metric", r->metric);
    put_str(b, "note", r->note);
    st_buf_addf(b, "\"ci\": [%.6g, %.6g], \"n\": %" PRIu64 ", \"seed\": %" PRIu64 "}", r->low, r->high, r->n, r->seed);
}

void st_findings_json(const struct st_findings *f, const char *target, uint64_t seed, struct st_buf *out)
{
    st_buf_add_str(out, "{");
    put_str(out, "target", target);
    st_buf_addf(out, "\"seed\": %" PRIu64 ", \"seconds\": %.3f, \"cpu\": %.3f, \"at_once\": %zu, \"rows\": [", seed,
                f->seconds, f->cpu, f->n_lane);
    for (size_t i = 0; i < f->rows.n; i++) {
        st_buf_add_str(out, i ? ",\n" : "\n");
        put_row(out, &f->rows.at[i]);
    }
    st_buf_add_str(out, "],\n\"not_run\": [");
    for (size_t i = 0; i < f->n_not_run; i++) {
        const struct st_not_run *n = &f->not_run[i];
        st_buf_add_str(out, i ? ",\n{" : "\n{");
        put_str(out, "attack", n->attack);
        put_str(out, "target", n->label);
        put_str(out, "code", st_code_word(n->code));
        st_buf_add_str(out, "\"why\": ");
        st_json_quote(out, n->why, strlen(n->why));
        st_buf_add_str(out, "}");
    }
    st_buf_add_str(out, "],\n\"times\": [");
    for (size_t i = 0; i < f->n_spent; i++) {
        const struct st_spent *t = &f->spent[i];
        st_buf_add_str(out, i ? ",\n{" : "\n{");
        put_str(out, "attack", t->attack);
        put_str(out, "target", t->label);
        put_real(out, "cpu", t->cpu);
        st_buf_addf(out, "\"seconds\": %.3f}", t->seconds);
    }
    st_buf_add_str(out, "]}\n");
}

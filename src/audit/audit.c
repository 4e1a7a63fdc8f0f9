#include "audit/audit.h"

#include "base/hooks.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

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

static int not_run(struct st_findings *f, const struct st_attack *a, const char *label, const char *why,
                   struct st_err *e)
{
    void *at = f->not_run;
    if (room(&at, f->n_not_run, &f->cap_not_run, sizeof *f->not_run, e))
        return e->code;
    f->not_run = at;
    struct st_not_run *n = &f->not_run[f->n_not_run++];
    n->attack = a->name;
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
    if (t->x_name && !r->sweep) {
        r->sweep = true;
        r->x_name = t->x_name;
        r->x = t->x;
        r->cost = t->cost;
    } else if (!r->sweep) {
        r->cost = NAN;
    }
}

static bool fits(const struct st_audit_run *r, const struct st_attack *a)
{
    return r->adversary < 0 || (int)a->adversary == r->adversary;
}

/* How often an attack is asked: once when it needs nothing of a target. */
static size_t n_turn(const struct st_subject *s, const struct st_attack *a)
{
    return a->needs ? st_subject_count(s) : 1;
}

static bool has(const struct st_subject *s, size_t k, const struct st_attack *a)
{
    return !a->needs || (st_subject_at(s, k)->kinds & a->needs) == a->needs;
}

/* A score of nothing, or that is no number, says nothing: it is listed with what was not run. So is an attack that ends
 * without a row. */
static int keep_scores(struct st_findings *f, size_t from, const struct st_attack *a, const char *label,
                       struct st_err *e)
{
    size_t n = from;
    int rc = f->rows.n > from ? 0 : not_run(f, a, label, "it ended without a score", e);
    for (size_t i = from; !rc && i < f->rows.n; i++) {
        const struct st_row *r = &f->rows.at[i];
        char why[sizeof r->variant + 40];
        if (r->n && isfinite(r->score) && isfinite(r->low) && isfinite(r->high)) {
            f->rows.at[n++] = *r;
            continue;
        }
        snprintf(why, sizeof why, "%s%sthere was nothing to score", r->variant, *r->variant ? ": " : "");
        rc = not_run(f, a, label, why, e);
    }
    f->rows.n = n;
    return rc;
}

static int run_one(const struct st_audit_run *r, const struct st_attack *a, const struct st_target *t,
                   struct st_findings *out, struct st_err *e)
{
    struct st_audit opts = r->opts;
    size_t from = out->rows.n;
    opts.target = t;
    if (opts.cancel && *opts.cancel)
        return st_fail(e, ST_IO, "cancelled");
    int rc = add_spent(out, a, t->label, e);
    if (rc)
        return rc;
    double start = st_now(), cpu = st_cpu_time();
    rc = a->run(&opts, &out->rows, e);
    out->spent[out->n_spent - 1].seconds = st_now() - start;
    out->spent[out->n_spent - 1].cpu = st_cpu_time() - cpu;
    if (opts.cancel && *opts.cancel) { /* what was left undone shows in the rows */
        out->rows.n = from;
        return st_fail(e, ST_IO, "cancelled");
    }
    if (rc == ST_UNSUPPORTED || rc == ST_MEMORY) { /* one attack that does not fit costs no other its rows */
        out->rows.n = from;
        return not_run(out, a, t->label, e->msg, e);
    }
    if (rc) {
        out->rows.n = from;
        return st_err_prefix(e, "%s", a->name);
    }
    if (keep_scores(out, from, a, t->label, e))
        return e->code;
    for (size_t i = from; i < out->rows.n; i++)
        complete(&out->rows.at[i], a, t, opts.seed);
    return 0;
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

int st_audit_run(const struct st_audit_run *r, struct st_findings *out, struct st_err *e)
{
    size_t total = 0, done = 0;
    double start = st_now();
    int rc = 0;
    *out = (struct st_findings){0};
    st_pool_cancel_by(r->opts.pool, r->opts.cancel);
    for (size_t i = 0; i < r->n_attack; i++)
        for (size_t k = 0; fits(r, r->attacks[i]) && k < n_turn(r->subject, r->attacks[i]); k++)
            total += has(r->subject, k, r->attacks[i]);
    for (size_t i = 0; !rc && i < r->n_attack; i++) {
        const struct st_attack *a = r->attacks[i];
        bool any = false;
        for (size_t k = 0; !rc && fits(r, a) && k < n_turn(r->subject, a); k++) {
            if (!has(r->subject, k, a))
                continue;
            const struct st_target *t = a->needs ? st_subject_at(r->subject, k) : st_subject_plain(r->subject);
            any = true;
            if (r->begin)
                r->begin(r->opts.arg, a, t, done, total);
            rc = run_one(r, a, t, out, e);
            done++;
        }
        if (!rc && !any && fits(r, a))
            rc = not_run(out, a, "", missing(a), e);
    }
    st_pool_cancel_by(r->opts.pool, NULL);
    out->seconds = st_now() - start;
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
    if (r->sweep) {
        put_str(b, "x_name", r->x_name ? r->x_name : "");
        put_real(b, "x", r->x);
        put_real(b, "cost", r->cost);
    }
    st_buf_addf(b, "\"about\": \"%s\", ", r->others ? "others" : r->traffic ? "traffic" : "content");
    put_str(b, "metric", r->metric);
    put_str(b, "note", r->note);
    st_buf_addf(b, "\"ci\": [%.6g, %.6g], \"n\": %" PRIu64 ", \"seed\": %" PRIu64 "}", r->low, r->high, r->n, r->seed);
}

void st_findings_json(const struct st_findings *f, const char *target, uint64_t seed, struct st_buf *out)
{
    st_buf_add_str(out, "{");
    put_str(out, "target", target);
    st_buf_addf(out, "\"seed\": %" PRIu64 ", \"seconds\": %.3f, \"rows\": [", seed, f->seconds);
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
        st_buf_addf(out, "\"seconds\": %.3f, \"cpu\": %.3f}", t->seconds, t->cpu);
    }
    st_buf_add_str(out, "]}\n");
}

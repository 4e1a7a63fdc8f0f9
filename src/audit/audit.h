/* One audit: attacks run one after the other on every target that has what they need; their rows, and what was not run
 * and why. Attacks that a target cannot be asked for are not errors: they are listed. */
#ifndef ST_AUDIT_AUDIT_H
#define ST_AUDIT_AUDIT_H

#include "audit/attack.h"

struct st_not_run {
    const char *attack;
    char label[ST_TARGET_LABEL]; /* of the target; "" = of all */
    char why[200];
};

/* What one attack on one target took: on the clock, and of all CPUs together. */
struct st_spent {
    const char *attack;
    char label[ST_TARGET_LABEL];
    double seconds, cpu;
};

struct st_findings {
    struct st_rows rows;
    struct st_not_run *not_run;
    size_t n_not_run, cap_not_run;
    struct st_spent *spent; /* in the order in which they ran, those of not_run with them */
    size_t n_spent, cap_spent;
    double seconds;
};
void st_findings_free(struct st_findings *f);

struct st_audit_run {
    const struct st_subject *subject;
    const struct st_attack *const *attacks;
    size_t n_attack;
    int adversary;        /* of enum st_adversary alone; -1 = all */
    struct st_audit opts; /* target is set by the run */
    /* Before each attack; may be NULL. done of total. */
    void (*begin)(void *arg, const struct st_attack *a, const struct st_target *t, size_t done, size_t total);
};
/* Rows get the target's label before their variant, the attack's name, adversary, metric and seed, and the target's
 * point of a series. Errors other than UNSUPPORTED end the audit, named by the attack; what was found until then
 * stays in *out. IO: cancelled. */
int st_audit_run(const struct st_audit_run *r, struct st_findings *out, struct st_err *e) ST_MUST_CHECK;

/* The machine-readable form: {"rows": [...], "not_run": [...], "times": [...], "seconds": S}, fields as in
 * docs/audit.md. */
void st_findings_json(const struct st_findings *f, const char *target, uint64_t seed, struct st_buf *out);

#endif

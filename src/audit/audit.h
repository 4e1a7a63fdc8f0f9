/* One audit: attacks run on every target that has what they need; their rows, and what was not run and why. Attacks
 * that a target cannot be asked for are not errors: they are listed. Nor does an attack that fails end the others: it
 * is listed too, and the audit says at its end that it failed.
 *
 * On a small model several attacks run at once, each on its share of the threads and of the memory: many have steps
 * that wait for the one before. Rows and what is listed stand in the order of the attacks all the same, and none
 * depends on how many ran at once: whatever of a target is about time was recorded before. */
#ifndef ST_AUDIT_AUDIT_H
#define ST_AUDIT_AUDIT_H

#include "audit/attack.h"

struct st_not_run {
    const char *attack;          /* "all": of a target that could not be made */
    char label[ST_TARGET_LABEL]; /* of the target; "" = of all */
    int code;                    /* UNSUPPORTED: nothing to attack there; MEMORY: too little; else it failed */
    char why[512];
};

/* What one attack on one target took: on the clock, and of all CPUs together (NAN where several ran at once). */
struct st_spent {
    const char *attack;
    char label[ST_TARGET_LABEL];
    double seconds, cpu;
};

struct st_findings {
    struct st_rows rows;
    struct st_not_run *not_run;
    size_t n_not_run, cap_not_run;
    struct st_spent *spent; /* in the order of the attacks, those of not_run with them */
    size_t n_spent, cap_spent;
    double seconds, cpu;  /* of the whole run */
    size_t n_lane;        /* attacks at once */
    struct st_err failed; /* of the first attack that failed; code 0 = none */
};
void st_findings_free(struct st_findings *f);

struct st_audit_run {
    const struct st_subject *subject;
    const struct st_attack *const *attacks;
    size_t n_attack;
    int adversary;        /* of enum st_adversary alone; -1 = all */
    struct st_audit opts; /* target, progress and arg are set by the run */
    /* As the attacks go on, one call at a time, on any thread; may be NULL. done: of all of them, 0 to 1. */
    void (*told)(void *arg, const struct st_attack *a, const struct st_target *t, double done);
    void *arg;
};
/* Rows get the target's label before their variant, the attack's name, adversary, metric and seed, and the target's
 * point of a series. What an attack could not do is listed; the first that failed (neither UNSUPPORTED nor MEMORY)
 * is in out->failed too, and whoever prints the rows has to say so behind them. IO: cancelled; what was found until
 * then stays in *out. MEMORY: none for the findings. */
int st_audit_run(const struct st_audit_run *r, struct st_findings *out, struct st_err *e) ST_MUST_CHECK;

/* The machine-readable form: {"rows": [...], "not_run": [...], "times": [...], "seconds": S}, fields as in
 * docs/audit.md. */
void st_findings_json(const struct st_findings *f, const char *target, uint64_t seed, struct st_buf *out);

#endif

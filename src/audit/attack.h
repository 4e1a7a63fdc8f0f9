/* An attack: what somebody who takes part can do with what he sees. One file each (atk_*.c), one row in attacks.def.
 * It gets a target (audit/target.h), tries, and adds rows of score, chance and unprotected score. An attack knows the
 * method and its parameters, never a key; the truth is used for scoring only.
 *
 * Rules for all: the same seed gives the same rows whatever the number of threads; memory stays within the budget; an
 * attack stops soon after `cancel`; it reports what it could not do as a refusal (UNSUPPORTED: the target has not what
 * it needs), never as a score of 0. Sources and steps stand at the head of each file. */
#ifndef ST_AUDIT_ATTACK_H
#define ST_AUDIT_ATTACK_H

#include "audit/rows.h"
#include "audit/target.h"
#include "base/pool.h"

#include <signal.h>

/* Who attacks, and with what he sees. */
#define ST_ADVERSARIES(X)                                                                                              \
    X(SERVER, "server", "runs the obfuscated checkpoint; has the base weights; sees all ids")                          \
    X(OBSERVER, "observer", "sees the ids of requests and replies, no weights")                                        \
    X(WORKER, "worker", "computes masked rows; has the weights it serves")                                             \
    X(DEVICE, "device", "owns accelerator and disk of a sealed model")                                                 \
    X(CLIENT, "client", "asks the model through its API")                                                              \
    X(USER, "user", "another unprivileged user, or another process of the same user")                                  \
    X(RELAY, "relay", "carries sealed requests and sees who sends them")                                               \
    X(GATEWAY, "gateway", "spends tokens and picks nodes; sees sealed requests")                                       \
    X(ISSUER, "issuer", "sells tokens")
enum st_adversary {
#define X(id, name, what) ST_ADVERSARY_##id,
    ST_ADVERSARIES(X)
#undef X
        ST_ADVERSARY_COUNT
};
const char *st_adversary_name(enum st_adversary a); /* "server" */
const char *st_adversary_what(enum st_adversary a);
/* USAGE lists them. */
int st_adversary_find(const char *name, enum st_adversary *out, struct st_err *e) ST_MUST_CHECK;

struct st_audit {
    const struct st_target *target;
    struct st_pool *pool;
    uint64_t seed;
    uint64_t memory; /* bytes an attack may take beside the target */
    bool thorough;   /* every variant and longer training; else what the default audit has time for */
    const volatile sig_atomic_t *cancel;
    const char *program; /* sotto itself, for attacks on a process of it; NULL: none was asked for, they are not run */
    const char *dir;     /* of the audit alone, for files; whoever made it removes what is left. With program */
    /* May be NULL. done of total steps of this attack. */
    void (*progress)(void *arg, const char *attack, double done);
    void *arg;
};

struct st_attack {
    const char *name;   /* "vma-row-sort" */
    const char *title;  /* "Row sort with layer voting" */
    const char *metric; /* what the score counts: "share of the text's tokens recovered" */
    const char *source; /* "arXiv 2505.18332; 2603.01499 app. F.1" */
    enum st_adversary adversary;
    /* Of st_target_kind. 0: only base, tokenizer and text: it is run once in an audit, and its rows stand under no
     * target's label (a scheme that we do not ship, on data of its own). */
    unsigned needs;
    bool traffic; /* its rows are about lengths, counts and times, not about content */
    /* Adds at least one row. Errors: UNSUPPORTED (the target lacks what it needs: says what), MEMORY, IO, cancelled
     * (IO). */
    int (*run)(const struct st_audit *a, struct st_rows *rows, struct st_err *e);
};

#define ST_ATTACK(name) extern const struct st_attack name;
#include "audit/attacks.def"
#undef ST_ATTACK
extern const struct st_attack *const st_attacks[]; /* ended by NULL */
#define ST_ATTACKS_MAX 128
/* "all", or names separated by commas. USAGE names the one that is unknown and lists all. */
int st_attacks_pick(const char *list, const struct st_attack **out, size_t max, size_t *n,
                    struct st_err *e) ST_MUST_CHECK;

#endif

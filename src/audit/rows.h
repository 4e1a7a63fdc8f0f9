/* What an audit found: one row per attack and variant, each score beside what guessing gets (chance) and what the same
 * attack gets when nothing protects (unprotected). Scores are shares of 0 to 1 unless the metric says otherwise; a
 * higher one is better for the attacker. */
#ifndef ST_AUDIT_ROWS_H
#define ST_AUDIT_ROWS_H

#include "base/buf.h"

#include <stdbool.h>

struct st_row {
    const char *attack; /* names of st_attack, static */
    const char *adversary, *metric;
    char target[48];                   /* label of the target; the frame's */
    char variant[112];                 /* "layer 0, m 32", "prior: same text"; "" = the only one */
    double score, chance, unprotected; /* unprotected NAN: the question makes no sense */
    double low, high;                  /* 95 % interval of the score */
    bool in_clear; /* unprotected was not measured: what is sought then lies in the open and is read off, so it is 1 */
    uint64_t n;    /* things counted */
    uint64_t seed;
    char note[200]; /* a sentence for people, or "" */
    bool traffic;   /* about lengths, counts and times, which content's protection does not hide */
    bool others;    /* about a published scheme that is not part of Sotto */
    int left_out; /* not 0: no score, a variant that could not be run for the reason in the note, UNSUPPORTED or MEMORY;
                     the frame lists it */
    bool sweep;   /* one point of a series: x is where */
    double x;
    const char *x_name; /* static: "alpha_e"; NULL = none */
    double cost;        /* accuracy that the protected model lost; NAN = not measured. The frame's, but of own series */
};

struct st_rows {
    struct st_row *at;
    size_t n, cap;
};
/* What stands in the variant behind the target's label; "" = nothing. */
const char *st_row_own_variant(const struct st_row *r);
/* v as the row's metric counts it, for people: "6.45 %" of shares and chances, "0.51" of the rest, "-" of NAN. */
void st_row_figure(const struct st_row *r, double v, struct st_buf *out);
/* Score and interval: "98.2 % (97 to 98.9)". */
void st_row_score(const struct st_row *r, struct st_buf *out);
/* Without protection: "98 %", "100 % (read off)" of what is in the clear, "-". */
void st_row_unprotected(const struct st_row *r, struct st_buf *out);
/* A share or a chance of 0 to 1, and no cosine or BLEU. */
bool st_row_is_share(const struct st_row *r);
/* Accuracy lost: "+2.1 %" of perplexity, "-" when it was not measured. */
void st_row_cost(const struct st_row *r, struct st_buf *out);

int st_rows_add(struct st_rows *r, const struct st_row *row, struct st_err *e) ST_MUST_CHECK;
/* A row that is left_out: MEMORY when e, which is what `why` comes from, says so; else UNSUPPORTED. */
int st_rows_leave_out(struct st_rows *r, const char *variant, const char *why, struct st_err *e) ST_MUST_CHECK;
void st_rows_free(struct st_rows *r);

/* Pointers to the rows that want() chooses; the caller frees. NULL: no memory. */
const struct st_row **st_rows_pick(const struct st_rows *r, bool (*want)(const struct st_row *row, const char *arg),
                                   const char *arg, size_t *n);
/* For want(): points of the series that arg names; rows of a target. */
bool st_row_in_series(const struct st_row *row, const char *arg);
bool st_row_of_target(const struct st_row *row, const char *arg);
#define ST_ROWS_SERIES 16
/* Names of the series that there are; at most ST_ROWS_SERIES. */
size_t st_rows_series(const struct st_rows *r, const char *names[ST_ROWS_SERIES]);

/* hits of n: the share and its 95 % interval (Wilson). */
void st_row_share(struct st_row *row, uint64_t hits, uint64_t n);
/* The same where some of the n are right or wrong together: `m` independent ones would tell as much. */
void st_row_share_of(struct st_row *row, uint64_t hits, uint64_t n, double m);
/* hits of n, and these n are all that there are (fixed cases, each tried once): the interval is the score itself. */
void st_row_all(struct st_row *row, uint64_t hits, uint64_t n);
/* The same of n_group groups (documents, clients) whose members are right or wrong together: group g has hits[g] of
 * n[g]. As many independent ones as have the variance that is seen between groups, by leaving out each (jackknife),
 * less what Student's t takes for few groups; where no group differs, as many as there are groups. */
void st_row_groups(struct st_row *row, const double *hits, const double *n, size_t n_group);
/* One attempt beside n others that differ in luck alone and can find nothing: their mean is the chance, the interval is
 * their spread about the score. */
void st_row_beside(struct st_row *row, double score, const double *luck, size_t n);
/* The mean of n attempts and its interval (Student). */
void st_row_attempts(struct st_row *row, const double *values, size_t n);
/* Mean of values and its interval by a seeded bootstrap of 1,000 draws; by Wilson when all are 0, or all 1. */
void st_row_mean(struct st_row *row, const double *values, size_t n, uint64_t seed);

#endif

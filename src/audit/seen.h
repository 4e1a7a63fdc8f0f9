/* What a worker has of a recording: the rows of one layer as numbers, beside what it knows anyway, the embedding. And
 * the truth beside them, for scoring.
 *
 * Row i of a layer's first group belongs to id i of the text: documents were asked one after the other, prompts alone.
 * Norms are folded into the served matrices, so that a row of layer 0 has the direction of its token's embedding; the
 * trusted side brings rows to deviation 1 (floats) or to a length that is the same for all rows (residues).
 *
 * INPUT names the file and what is wrong with it: cut short, full, a layer without rows, fewer rows than ids, another
 * width than the model's. */
#ifndef ST_AUDIT_SEEN_H
#define ST_AUDIT_SEEN_H

#include "audit/attack.h"
#include "audit/dense.h"

/* Exchanges from this id on carry no text: ReMO asks for M_pub W with them (protect/masked/scheme_remo.c). */
#define ST_SEEN_ASKED ((uint64_t)1 << 62)

struct st_seen {
    size_t d;       /* values of a row */
    size_t n;       /* rows of text, at most those asked for */
    size_t n_asked; /* rows of exchanges that carry no text */
    bool field;     /* residues, here centred: -q/2 to q/2; else floats */
    double *rows;   /* [n][d] */
    double *asked;  /* [n_asked][d] */
};
/* At most max_row rows of the first group of `layer`. MEMORY when they take more than `memory` bytes. */
int st_seen_read(const char *path, int layer, size_t max_row, uint64_t memory, struct st_seen *out,
                 struct st_err *e) ST_MUST_CHECK;
void st_seen_free(struct st_seen *s);

/* The model's embedding, each row at deviation 1 [n_vocab][d_model]. */
int st_seen_table(const struct st_model *m, struct st_dense *out, struct st_err *e) ST_MUST_CHECK;

/* The rows of the audit's recording, one for each id of the text, and the embedding. UNSUPPORTED without recording. */
struct st_seen_text {
    struct st_seen seen;
    struct st_dense table;
};
int st_seen_open(const struct st_audit *a, int layer, struct st_seen_text *out, struct st_err *e) ST_MUST_CHECK;
void st_seen_close(struct st_seen_text *s);

/* Matches the rows from number `from` on against the embedding in the directions rest [k][d], and adds the rows of the
 * result: tokens recovered and, of a whole text, personal items. Fills in score, interval, chance (the best single
 * guess) and unprotected (the same match on rows without masks); the rest of *row is the caller's. */
int st_seen_score(const struct st_audit *a, const struct st_seen_text *s, size_t from, const double *rest, size_t k,
                  struct st_row *row, struct st_rows *rows, struct st_err *e) ST_MUST_CHECK;
/* The share of the commonest of n ids. MEMORY as NAN. */
double st_seen_chance(const uint32_t *ids, size_t n, uint32_t n_vocab);

#endif

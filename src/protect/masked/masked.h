/* Masked outsourcing: linear layers run on an untrusted worker that sees masked rows only (Talaria, arXiv 2603.00196,
 * and masks that hold). The trusted side keeps embedding, norms, rotary positions, attention, the key/value cache,
 * activations, residuals, routing and sampling.
 *
 * One object per engine: it places ops of the plan outside, and gives the hooks of the boundary. For each exchange it
 * takes fresh pads, quantises rows to the field (rows.h), adds the masks; while the worker computes, it forms what the
 * check will expect and brings near what the reply will be unmasked with; of the reply it checks length, canonical
 * residues and Freivalds' equation with one joint verdict, unmasks, and wipes the pads, whatever happened.
 *
 * The worker sees: which matrices, numbers of rows, times, masked rows. docs/masked.md says what follows. */
#ifndef ST_PROTECT_MASKED_MASKED_H
#define ST_PROTECT_MASKED_MASKED_H

#include "protect/masked/pads.h"

enum st_masked_experts { ST_MASKED_EXPERTS_LOCAL, ST_MASKED_EXPERTS_ALL };
enum st_masked_offload { ST_MASKED_OFFLOAD_AUTO, ST_MASKED_OFFLOAD_ALL };

/* What decides which ops leave. */
struct st_masked_place {
    bool embedding;                 /* fetch rows of the embedding from the worker as well */
    enum st_masked_experts experts; /* LOCAL: their weights must be here; ALL: every expert sees every row */
    bool no_weights;                /* this side has none: nothing can be kept here */
    bool attention;                 /* its products leave, too (attention_packed.h): a worker then reads prompts */
};
/* Marks ops of the plan UNTRUSTED. POLICY: routed experts whose weights are not here, when only the chosen ones would
 * be asked for (the worker would read the routing). */
int st_masked_place(struct st_plan *plan, const struct st_masked_place *o, struct st_err *e) ST_MUST_CHECK;
/* Of it the attention alone, for plans that are placed otherwise. UNSUPPORTED: keys and values are made of one latent
 * vector (DeepSeek). */
int st_masked_place_attention(struct st_plan *plan, struct st_err *e) ST_MUST_CHECK;

struct st_masked_opts {
    const struct st_scheme *scheme;
    struct st_scheme_opts scheme_opts; /* served, digest, params, hints, transport, ...; groups are filled in here */
    bool no_integrity;                 /* do not check replies; without it and without weights: POLICY */
    enum st_masked_offload offload;
    uint32_t keep_rows;       /* AUTO: exchanges of so many rows run here; 0 = measured (planner.h); remo: 32 */
    int n_threads;            /* that compute what runs here, for measuring; 0 = all */
    struct st_pads_opts pads; /* memory, threads, wait; the rest is filled in here */
    /* A reply did not pass: the transport must not use this worker again. May be NULL. */
    void (*quarantine)(void *ctx);
    void *quarantine_ctx;
};

struct st_masked;
/* model's plan must be placed; model and what the options point to are borrowed until free (the pool is used again when
 * a reply did not pass: by the thread that runs the hooks). The hooks are one thread's; memory of a reply must be out
 * of the worker's reach. */
int st_masked_new(const struct st_model *model, const struct st_masked_opts *o, struct st_masked **out,
                  struct st_err *e) ST_MUST_CHECK;
void st_masked_free(struct st_masked *m);
const struct st_protection_hooks *st_masked_hooks(const struct st_masked *m);

struct st_masked_stats {
    struct st_pads_stats pads;
    uint64_t n_exchange, n_row, n_reject; /* replies that did not pass */
    uint64_t n_redraw;                    /* times that the secrets of the check were drawn anew */
    uint64_t n_kept;                      /* groups that the planner ran here */
    uint64_t n_pair;                      /* products of attention that left */
    double mask_s, check_s, unmask_s;     /* seconds of the trusted side; wiping of pads is in mask and unmask */
    double meanwhile_s;                   /* what is done of it while the worker computes */
};
void st_masked_stats(struct st_masked *m, struct st_masked_stats *out);
/* "lwe-1280-12.8: hidden under Module-LWE (140 bits classical); integrity checked", for banners, headers, status. */
const char *st_masked_describe(const struct st_masked *m);
/* What the planner chose and why, lines of text. */
const char *st_masked_plan_text(const struct st_masked *m);

/* The integer reference: the same quantised rows times the same int8 weights in 64-bit integers on this side, without
 * masks, transport or worker. What exact schemes must equal bit by bit (--reference masked-int). */
struct st_masked_reference;
int st_masked_reference_new(const struct st_model *model, const struct st_served *served,
                            struct st_masked_reference **out, struct st_err *e) ST_MUST_CHECK;
void st_masked_reference_free(struct st_masked_reference *r);
const struct st_protection_hooks *st_masked_reference_hooks(const struct st_masked_reference *r);
const struct st_transport *st_masked_reference_transport(const struct st_masked_reference *r);

#endif

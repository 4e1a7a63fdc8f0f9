/* The stage for attacks on a sealed file: a source, what `sotto seal` makes of it under a policy, and the target. */
#ifndef ST_TESTS_SEALED_STAGE_H
#define ST_TESTS_SEALED_STAGE_H

#include "audit/attack.h"
#include "seal_make.h"

struct sealed_stage {
    struct seal_rig rig;
    struct st_model *base;
    struct st_container *c;
    struct st_target target;
    struct st_pool *pool;
    struct st_audit audit;
    struct st_rows rows;
};

/* source: a model's path; NULL = a tiny one. */
static inline void sealed_set_up(struct sealed_stage *s, const char *source, const char *policy)
{
    const struct tiny t = {.seed = 9, .n_layer = 2};
    const struct st_model_opts f32 = {.dtype = ST_LOAD_F32, .n_threads = 2};
    struct st_err e;
    *s = (struct sealed_stage){.base = NULL};
    seal_rig_open(&s->rig, source ? NULL : &t);
    if (source)
        snprintf(s->rig.src, sizeof s->rig.src, "%s", source);
    s->rig.o.policy = policy;
    seal_it(&s->rig, s->rig.dst);
    assert_ok(st_model_open(s->rig.src, &f32, &s->base, &e), &e);
    assert_ok(st_container_open(s->rig.dst, &s->c, &e), &e);
    assert_ok(st_pool_new(2, &s->pool, &e), &e);
    s->target = (struct st_target){
        .kinds = ST_TARGET_SEALED, .base = s->base, .container = s->c, .sealed = s->rig.dst, .cost = NAN};
    s->audit = (struct st_audit){.target = &s->target, .pool = s->pool, .seed = 1, .memory = 1 << 30};
}

static inline void sealed_tear_down(struct sealed_stage *s)
{
    st_rows_free(&s->rows);
    st_pool_free(s->pool);
    st_container_close(s->c);
    st_model_close(s->base);
    seal_rig_close(&s->rig);
}

static inline void sealed_attack(struct sealed_stage *s, const struct st_attack *a)
{
    struct st_err e;
    st_rows_free(&s->rows);
    assert_ok(a->run(&s->audit, &s->rows, &e), &e);
    for (size_t i = 0; i < s->rows.n; i++) {
        const struct st_row *r = &s->rows.at[i];
        print_message("  %s, %s: %.4f [%.4f, %.4f], chance %.4f, unprotected %.3f, n %zu\n", a->name, r->variant,
                      r->score, r->low, r->high, r->chance, r->unprotected, (size_t)r->n);
    }
}

static inline const struct st_row *sealed_row(const struct sealed_stage *s, const char *variant)
{
    for (size_t i = 0; i < s->rows.n; i++)
        if (strcmp(s->rows.at[i].variant, variant) == 0)
            return &s->rows.at[i];
    return NULL;
}

#endif

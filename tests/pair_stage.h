/* The stage for attacks on covariant checkpoints: a base, what `sotto obfuscate` makes of it under a key, the truth,
 * and a text to score on. */
#ifndef ST_TESTS_PAIR_STAGE_H
#define ST_TESTS_PAIR_STAGE_H

#include "audit/attack.h"
#include "audit/text.h"
#include "cov_make.h"

static char model_path[512], tokenizer_path[512], text_path[512];

static inline bool there(void)
{
    const char *shared = getenv("SOTTO_SHARED");
    snprintf(model_path, sizeof model_path, "%s/data/models/stories260K.bin", shared ? shared : "../shared");
    snprintf(tokenizer_path, sizeof tokenizer_path, "%s/data/models/tok512.bin", shared ? shared : "../shared");
    snprintf(text_path, sizeof text_path, "%s/data/eval/tinystories_sample.txt", shared ? shared : "../shared");
    return access(model_path, R_OK) == 0 && access(text_path, R_OK) == 0;
}

struct stage {
    struct st_model *base, *seen;
    struct st_tokenizer *tok;
    struct st_text_made text;
    uint32_t *every; /* of the demo model: a text in which each id stands once */
    size_t n_every;
    struct st_cov_cipher cipher;
    struct st_target target;
    struct st_pool *pool;
    struct st_rows rows;
};

static inline void set_up_of(struct stage *s, const char *src, struct st_cov_opts o, uint8_t seed)
{
    struct st_err e;
    struct st_cov_key key = key_of(seed);
    struct st_model_opts f32 = {.dtype = ST_LOAD_F32, .n_threads = 2};
    char dst[128];
    memset(s, 0, sizeof *s);
    snprintf(dst, sizeof dst, "%s/seen%u-%g", work, seed, o.alpha_e);
    o.n_threads = 2;
    o.dtype = ST_COV_STORE_F32;
    assert_ok(st_cov_obfuscate(src, dst, &key, &o, &e), &e);
    assert_ok(st_model_open(src, &f32, &s->base, &e), &e);
    assert_ok(st_model_open(dst, &f32, &s->seen, &e), &e);
    assert_ok(st_cov_cipher_open(src, &key, &s->cipher, &e), &e);
    assert_ok(st_pool_new(2, &s->pool, &e), &e);
    s->target = (struct st_target){.kinds = ST_TARGET_PAIR,
                                   .base = s->base,
                                   .pair = {.base = s->base,
                                            .seen = s->seen,
                                            .truth = s->cipher.from,
                                            .noise = {.embed = o.alpha_e, .head = o.alpha_h, .all = o.noise_all},
                                            .preset = st_cov_preset_name(o.preset)}};
    st_secret_wipe(&key.seed);
}

/* stories260K with the text that its figures were scored on. */
static inline void set_up(struct stage *s, double embed, double head, uint8_t seed)
{
    struct st_err e;
    set_up_of(s, model_path, (struct st_cov_opts){.alpha_e = embed, .alpha_h = head}, seed);
    assert_ok(st_tokenizer_open(tokenizer_path, &s->tok, &e), &e);
    assert_ok(st_text_read(text_path, s->base, s->tok, 256, &s->text, &e), &e);
    s->target.text = s->text.view;
    s->target.tokenizer = s->tok;
}

static inline void set_up_demo(struct stage *s, struct st_cov_opts o, uint8_t seed)
{
    set_up_of(s, "models/demo", o, seed);
    s->n_every = s->base->config.n_vocab;
    s->every = malloc(s->n_every * sizeof *s->every);
    assert_non_null(s->every);
    for (uint32_t i = 0; i < s->n_every; i++)
        s->every[i] = i;
    s->target.text = (struct st_texts_ids){.ids = s->every, .ends = &s->n_every, .n = 1};
}

static inline void tear_down(struct stage *s)
{
    st_model_close(s->base);
    st_model_close(s->seen);
    st_cov_cipher_wipe(&s->cipher);
    free(s->every);
    st_tokenizer_free(s->tok);
    st_text_free(&s->text);
    st_pool_free(s->pool);
    st_rows_free(&s->rows);
}

static inline void attack(struct stage *s, const struct st_attack *k)
{
    struct st_err e;
    struct st_audit a = {.target = &s->target, .pool = s->pool, .seed = 1, .memory = 1 << 30};
    st_rows_free(&s->rows);
    assert_ok(k->run(&a, &s->rows, &e), &e);
}

static inline double score(const struct stage *s, const char *variant)
{
    for (size_t i = 0; i < s->rows.n; i++)
        if (strcmp(s->rows.at[i].variant, variant) == 0)
            return s->rows.at[i].score;
    fail_msg("no row '%s'", variant);
    return 0;
}

/* Weights drawn anew in the shape of a model: nothing is left to compare. */
static inline float **other_weights(struct st_model *m)
{
    struct st_rng rng;
    float **p = calloc((size_t)m->plan.n_weight, sizeof *p);
    assert_non_null(p);
    st_rng_seed(&rng, 5);
    for (int i = 0; i < m->plan.n_weight; i++) {
        struct st_mat *mat = &m->mats[i];
        size_t n = (size_t)mat->n_out * mat->n_in;
        p[i] = malloc(n * sizeof **p);
        assert_non_null(p[i]);
        for (size_t k = 0; k < n; k++)
            p[i][k] = mat->n_in == 1 ? 1 : (float)(.2 * (st_rng_unit(&rng) + st_rng_unit(&rng) - 1));
        mat->data = p[i];
        mat->dtype = ST_DTYPE_F32;
    }
    return p;
}

static inline void free_weights(const struct st_model *m, float **p)
{
    for (int i = 0; i < m->plan.n_weight; i++)
        free(p[i]);
    free(p);
}

static inline void need(void)
{
    if (there())
        return;
    print_message("stories260K is not here (SOTTO_SHARED): skipped\n");
    skip();
}

#endif

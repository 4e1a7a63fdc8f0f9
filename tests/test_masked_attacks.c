/* What a worker can do with the rows that it receives: the attacks that break low-rank masks, run against every scheme.
 * They read every token from `remo`, which is why it is called breakable, and get no more than chance from the others.
 * That they fail is a regression check and no proof. */
#include "masked_setup.h"

#include "audit/atk_pad_reuse.h"
#include "audit/subspace.h"
#include "field/mask_kernels.h"
#include "field/sampler.h"
#include "protect/masked/groups.h"
#include "protect/masked/rows.h"

enum { D = 64, VOCAB = 500, ROWS = 64, MANY = 2048 };

static const char *const schemes[] = {"remo", "otp", "lwe"};
/* Tokens of ROWS that a guesser at random gets: 0.13 on average, and 5 or more once in a million runs. */
enum { CHANCE = 4 };

/* The public embedding, and the rows of some tokens. */
struct victim {
    struct setup s;
    float table[VOCAB][D];
    uint32_t tokens[MANY];
    double (*sent)[D]; /* [MANY] what the worker saw of them */
    double (*pub)[D];  /* remo: M_pub as the worker saw it */
};

static void vocabulary(float (*table)[D], uint32_t *tokens, uint64_t seed)
{
    struct st_rng rng;
    st_rng_seed(&rng, seed);
    for (int t = 0; t < VOCAB; t++)
        for (int k = 0; k < D; k++)
            table[t][k] = (float)(st_rng_unit(&rng) + st_rng_unit(&rng) + st_rng_unit(&rng) - 1.5);
    for (int r = 0; r < MANY; r++)
        tokens[r] = (uint32_t)(st_rng_next(&rng) % VOCAB);
}

static double word(const struct setup *s, uint32_t x)
{
    float f;
    if (strcmp(s->scheme, "remo") != 0)
        return st_fq_centre(x);
    memcpy(&f, &x, sizeof f);
    return f;
}

/* Sends the tokens' rows through the first layer, and keeps what the worker received. */
static struct victim *attack(const char *scheme, uint32_t rank)
{
    struct victim *v = calloc(1, sizeof *v);
    struct st_err e;
    plant(&v->s, &(struct tiny){.seed = 20, .n_layer = 1}, &(struct st_masked_place){0});
    struct st_masked_opts o = options(&v->s, scheme);
    o.scheme_opts.rank = rank;
    v->s.worker.record = true;
    mask(&v->s, &o);
    if (v->s.worker.n_seen)
        v->pub = calloc(rank, sizeof *v->pub);
    for (uint32_t r = 0; v->pub && r < rank * D; r++)
        v->pub[r / D][r % D] = word(&v->s, v->s.worker.words[r]);
    size_t from = v->s.worker.n_word;
    vocabulary(v->table, v->tokens, 21);
    for (int at = 0; at < MANY; at += ROWS) {
        struct rows r;
        rows_make(&r, &v->s, 0, ROWS, 1);
        for (int i = 0; i < ROWS; i++)
            memcpy(r.in.p + (size_t)i * D, v->table[v->tokens[at + i]], sizeof v->table[0]);
        assert_ok(send(&v->s, &v->s.b, &r, r.outs, &e), &e);
        rows_free(&r);
    }
    assert_int_equal(v->s.worker.n_word - from, MANY * D);
    v->sent = calloc(MANY, sizeof *v->sent);
    for (size_t i = 0; i < (size_t)MANY * D; i++)
        v->sent[i / D][i % D] = word(&v->s, v->s.worker.words[from + i]);
    return v;
}

static void victim_free(struct victim *v)
{
    tear_down(&v->s);
    free(v->sent);
    free(v->pub);
    free(v);
}

/* Tokens of the first ROWS rows whose direction is nearest that of their own embedding, outside the m directions in
 * which `masks` [n] are strongest. */
static int matched(const struct victim *v, double (*masks)[D], uint32_t n, uint32_t m)
{
    static double rest[D * D];
    struct st_dense table;
    struct st_pool *pool;
    struct st_err e;
    uint32_t got[ROWS];
    int hits = 0;
    assert_ok(st_dense_new(&table, VOCAB, D, "test", &e), &e);
    memcpy(table.p, v->table, sizeof v->table);
    assert_ok(st_pool_new(1, &pool, &e), &e);
    assert_ok(st_subspace_rest(masks[0], n, D, m, rest, &e), &e);
    assert_ok(st_subspace_match(pool, v->sent[0], ROWS, &table, rest, D - m, true, got, &e), &e);
    for (int r = 0; r < ROWS; r++)
        hits += got[r] == v->tokens[r];
    st_pool_free(pool);
    st_dense_free(&table);
    return hits;
}

static void score(const char *attack_name, const char *scheme, uint32_t rank, int hits)
{
    bool broken = strcmp(scheme, "remo") == 0;
    if (broken ? hits < ROWS * 95 / 100 : hits > CHANCE)
        fail_msg("%s: %s, rank %u: %d of %d tokens", attack_name, scheme, rank, hits, ROWS);
}

static void projecting_out_the_public_factor_reads_every_token_of_low_rank_masks(void **state)
{
    (void)state;
    static const uint32_t ranks[] = {16, 32, 48, 56};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < (i ? 1 : 4); k++) {
            struct victim *v = attack(schemes[i], ranks[k]);
            /* Nobody sees a token without it. */
            assert_true(matched(v, v->sent, MANY, 0) <= ROWS / 4);
            assert_int_equal(v->pub != NULL, i == 0);
            /* Where there is none the worker takes other rows for it. */
            score("projection", schemes[i], ranks[k],
                  matched(v, v->pub ? v->pub : v->sent + MANY - ranks[k], ranks[k], ranks[k]));
            victim_free(v);
        }
}

static void the_strongest_directions_of_traffic_give_the_factor_away(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        for (uint32_t rank = 16; rank <= 48; rank += 16) {
            struct victim *v = attack(schemes[i], rank);
            score("principal directions", schemes[i], rank, matched(v, v->sent, MANY, rank));
            victim_free(v);
        }
}

/* With more values in a row than in a secret, LWE masks have a public factor as well: whoever knows B removes c B, and
 * is left with e, which is what hides the row. */
enum { WIDE = 320, M = 256, REST = WIDE - M };

/* B = [B1 B2] to B1^-1 B2 [M][REST] mod q. */
static void eliminate(uint32_t (*b)[WIDE], uint32_t (*p)[REST])
{
    for (int i = 0; i < M; i++) {
        int pivot = i;
        while (b[pivot][i] == 0)
            pivot++;
        for (int k = 0; k < WIDE; k++) {
            uint32_t t = b[i][k];
            b[i][k] = b[pivot][k];
            b[pivot][k] = t;
        }
        uint32_t inverse = st_fq_inverse(b[i][i]);
        for (int k = i; k < WIDE; k++)
            b[i][k] = st_fq_mul(b[i][k], inverse);
        for (int r = 0; r < M; r++) {
            uint32_t f = b[r][i];
            if (r == i || f == 0)
                continue;
            for (int k = i; k < WIDE; k++)
                b[r][k] = st_fq_sub(b[r][k], st_fq_mul(f, b[i][k]));
        }
    }
    for (int i = 0; i < M; i++)
        memcpy(p[i], b[i] + M, sizeof p[i]);
}

/* x2 - x1 B1^-1 B2: nothing of c B is left in it. */
static void remove_factor(const uint32_t *x, uint32_t (*p)[REST], uint32_t *out)
{
    memcpy(out, x + M, REST * sizeof *out);
    for (int i = 0; i < M; i++)
        for (int k = 0; k < REST; k++)
            out[k] = st_fq_sub(out[k], st_fq_mul(x[i], p[i][k]));
}

static void without_their_error_lwe_masks_fall_to_the_public_basis(void **state)
{
    (void)state;
    enum { TOKENS = 100, TEST = 30 };
    static const struct st_lwe_params toy = {"toy", M, 12.8, true, 0, 0, ""};
    static const uint8_t digest[32] = {7};
    static uint32_t full[M][WIDE], p[M][REST], column[M], known[TOKENS][REST], rows[TOKENS][WIDE], mask_row[WIDE];
    struct st_lwe_basis basis;
    struct st_gauss gauss;
    struct st_stream *random;
    struct st_rng rng;
    struct st_err e;
    const struct st_limb_kernels *limb;
    assert_ok(st_lwe_basis_init(&basis, &toy, digest, WIDE, &e), &e);
    assert_ok(st_gauss_init(&gauss, 12.8, &e), &e);
    assert_ok(st_stream_new(digest, 32, NULL, 0, "test", &random, &e), &e);
    assert_ok(st_limb_find(NULL, &limb, &e), &e);
    for (uint32_t k = 0; k < WIDE; k++) {
        st_lwe_basis_column(&basis, k, column);
        for (int i = 0; i < M; i++)
            full[i][k] = column[i];
    }
    eliminate(full, p);
    st_rng_seed(&rng, 5);
    for (int t = 0; t < TOKENS; t++) { /* rows as integers: this attacker even knows the scale */
        for (int k = 0; k < WIDE; k++)
            rows[t][k] = st_fq_from((int64_t)(st_rng_next(&rng) % 200000) - 100000);
        remove_factor(rows[t], p, known[t]);
    }
    for (int with_e = 0; with_e < 2; with_e++) {
        int hits = 0;
        for (int r = 0; r < TEST; r++) {
            int8_t c[M], noise[WIDE];
            uint32_t seen[REST], token = (uint32_t)(st_rng_next(&rng) % TOKENS), found = 0;
            double best = INFINITY;
            st_gauss_fill(&gauss, random, c, M);
            st_gauss_fill(&gauss, random, noise, WIDE);
            st_lwe_basis_apply(&basis, NULL, limb, c, 1, WIDE, mask_row);
            for (int k = 0; k < WIDE; k++)
                mask_row[k] = st_fq_add(st_fq_add(mask_row[k], rows[token][k]), st_fq_from(with_e * noise[k]));
            remove_factor(mask_row, p, seen);
            for (uint32_t t = 0; t < TOKENS; t++) {
                double far = 0;
                for (int k = 0; k < REST; k++)
                    far += pow(st_fq_centre(st_fq_sub(seen[k], known[t][k])), 2);
                if (far < best) {
                    best = far;
                    found = t;
                }
            }
            hits += found == token;
        }
        if (with_e ? hits > 5 : hits < TEST)
            fail_msg("%s e: %d of %d", with_e ? "with" : "without", hits, TEST);
    }
    st_stream_free(random);
    st_lwe_basis_free(&basis);
}

/* Masks two sets of rows; `fresh` pads for the second, or those of the first again. */
static void mask_twice(const struct st_scheme *scheme, void *scheme_state, const struct st_mask_group *g,
                       struct st_stream *random, float (*table)[D], const uint32_t *tokens, bool fresh,
                       double (*sent)[D])
{
    struct st_err e;
    size_t stride = g->d + g->n;
    uint32_t *pads = malloc(2 * ROWS * stride * sizeof *pads), u[D];
    assert_ok(scheme->make(scheme_state, 0, 2 * ROWS, random, pads, &e), &e);
    for (int r = 0; r < 2 * ROWS; r++) {
        const float *x = table[tokens[r]];
        const uint32_t *pad = pads + (size_t)(fresh ? r : r % ROWS) * stride;
        float alpha;
        if (scheme->domain == ST_MASK_FIELD) {
            assert_ok(st_rows_alpha(x, D, g->norm, scheme->slack(scheme_state, 0), &alpha, &e), &e);
            st_mask_kernels()->mask(x, alpha, pad, u, D);
        }
        for (int k = 0; k < D; k++)
            sent[r][k] = scheme->domain == ST_MASK_FIELD ? u[k] : (double)(x[k] + ((const float *)pad)[k]);
    }
    free(pads);
}

/* Pairs of rows that look as if they had one pad, and those of them that have. */
static size_t reused(const struct st_scheme *scheme, double (*sent)[D], int *n_right)
{
    struct st_reuse pairs[2 * ROWS];
    struct st_err e;
    size_t n;
    *n_right = 0;
    assert_ok(st_reuse_find(NULL, sent[0], 2 * ROWS, D, scheme->domain == ST_MASK_FIELD, pairs, 2 * ROWS, &n, &e), &e);
    for (size_t i = 0; i < n && i < 2 * ROWS; i++)
        *n_right += pairs[i].b == pairs[i].a + ROWS;
    return n;
}

static void one_pad_used_twice_shows_in_every_scheme_and_fresh_pads_never_do(void **state)
{
    (void)state;
    static float table[VOCAB][D];
    static uint32_t tokens[MANY];
    static double sent[2 * ROWS][D];
    vocabulary(table, tokens, 31);
    for (int i = 0; i < 3; i++) {
        struct setup s;
        struct st_mask_groups groups;
        struct st_err e;
        void *scheme_state;
        int n_right;
        plant(&s, &(struct tiny){.seed = 22, .n_layer = 1}, &(struct st_masked_place){0});
        struct st_masked_opts o = options(&s, schemes[i]);
        assert_ok(st_mask_groups_init(&groups, &s.m->plan, &s.served, NULL, &e), &e);
        o.scheme_opts.groups = groups.g;
        o.scheme_opts.n_group = groups.n;
        o.scheme_opts.check_hints = false;
        assert_ok(o.scheme->open(&o.scheme_opts, &scheme_state, &e), &e);
        struct st_stream *random;
        assert_ok(st_stream_new(setup_digest, 32, NULL, 0, "test", &random, &e), &e);
        mask_twice(o.scheme, scheme_state, &groups.g[0], random, table, tokens, false, sent);
        assert_int_equal(reused(o.scheme, sent, &n_right), ROWS);
        assert_int_equal(n_right, ROWS);
        mask_twice(o.scheme, scheme_state, &groups.g[0], random, table, tokens, true, sent);
        assert_int_equal(reused(o.scheme, sent, &n_right), 0);
        st_stream_free(random);
        o.scheme->close(scheme_state);
        st_mask_groups_free(&groups);
        tear_down(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(projecting_out_the_public_factor_reads_every_token_of_low_rank_masks),
        cmocka_unit_test(the_strongest_directions_of_traffic_give_the_factor_away),
        cmocka_unit_test(without_their_error_lwe_masks_fall_to_the_public_basis),
        cmocka_unit_test(one_pad_used_twice_shows_in_every_scheme_and_fresh_pads_never_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Where decrypted weights are while a sealed model runs: 1,000 patterns of 32 bytes from its matrices, and its keys,
 * are looked for in all memory of this process. They may lie in the store's and the engine's secret memory only, which
 * the kernel leaves out of dumps; so may the matrices of a sealed adapter, as they are stored and as they are used.
 * Whoever knows the weights (checkpoint, sealing, list of patterns) is another process. */
#include "lora_make.h"

#include "audit/scan.h"
#include "crypto/ed25519.h"
#include "expect.h"
#include "protect/sealed/store.h"
#include "protect/sealed/writer.h"
#include "tensor/lora.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { N_PATTERN = 1000, N_KEY = 2, N_PROMPT = 12, N_REPLY = 6, ST_SCAN_AT = 3 };

static struct st_scan_patterns patterns;
static char dir[64], plain[80], sealed[80], list[80], adapter[80];

static const uint8_t publisher[ST_ED25519_SEED] = "the publisher's seed, thirty-two";

static const struct tiny shape = {
    .d_model = 128, .d_ff = 256, .n_layer = 4, .n_head = 4, .n_kv_head = 2, .n_vocab = 256, .n_ctx = 64, .seed = 77};

/* What runs in the other process. */

static void write_list(uint8_t (*all)[ST_SCAN_LEN], size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < ST_SCAN_LEN; k++)
            all[i][k] ^= ST_SCAN_XOR;
    tiny_save(dir, "patterns", all, n * ST_SCAN_LEN);
}

/* The content key and that of the segments. */
static void add_keys(uint8_t out[N_KEY][ST_SCAN_LEN])
{
    struct st_err e = {0};
    struct st_container *c;
    struct st_container_about about;
    struct st_secret content, segments;
    tiny_check(st_container_open(sealed, &c, &e), &e);
    st_container_about(c, &about);
    tiny_check(st_vault_content_key(publisher, about.id, &content, &e), &e);
    tiny_check(st_vault_segment_key(&content, about.id, &segments, &e), &e);
    memcpy(out[0], content.p, ST_SCAN_LEN);
    memcpy(out[1], segments.p, ST_SCAN_LEN);
    st_container_close(c);
}

static void write_patterns(void)
{
    struct st_err e = {0};
    struct st_model *m;
    struct st_rng rng;
    static uint8_t all[N_PATTERN + N_KEY][ST_SCAN_LEN];
    tiny_check(st_model_open(plain, &(struct st_model_opts){.n_threads = 1}, &m, &e), &e);
    st_rng_seed(&rng, 5);
    for (size_t i = 0; i < N_PATTERN;) {
        const int w = (int)(st_rng_next(&rng) % (uint64_t)m->plan.n_weight);
        const struct st_mat *mat = &m->mats[w];
        if (m->plan.weights[w].n_in == 1)
            continue;
        memcpy(all[i++], (const uint8_t *)mat->data + st_rng_next(&rng) % (st_mat_bytes(mat) - ST_SCAN_LEN),
               ST_SCAN_LEN);
    }
    add_keys(all + N_PATTERN);
    write_list(all, N_PATTERN + N_KEY);
    st_model_close(m);
}

static void seal_as(const char *source)
{
    struct st_err e = {0};
    struct st_secret seed, passphrase;
    struct st_seal_report report;
    const char *const recipients[] = {"passphrase"};
    const struct st_argon2 cheap = {.memory_kib = 64, .passes = 1, .lanes = 1};
    tiny_check(st_secret_init(&seed, sizeof publisher, &e), &e);
    tiny_check(st_secret_init(&passphrase, 4, &e), &e);
    memcpy(seed.p, publisher, sizeof publisher);
    memcpy(passphrase.p, "open", 4);
    const struct st_seal_opts o = {.policy = "all-inside",
                                   .recipients = recipients,
                                   .n_recipient = 1,
                                   .seed = &seed,
                                   .passphrase = &passphrase,
                                   .cost = &cheap,
                                   .n_threads = 1};
    tiny_check(st_seal(source, sealed, &o, &report, &e), &e);
}

static void seal_model(enum st_dtype dtype)
{
    struct tiny t = shape;
    t.dtype = dtype;
    if (mkdir(plain, 0700))
        tiny_die("mkdir");
    tiny_write(&t, plain);
    seal_as(plain);
    write_patterns();
}

/* Half of the patterns from A, as it is used in f32; the others from B, as it is used in tiles. */
static void write_adapter_patterns(const struct lora *l)
{
    static uint8_t all[N_PATTERN + N_KEY][ST_SCAN_LEN];
    static float tiles[4096], row[64];
    static const char *const names[] = {"q_proj", "v_proj"};
    const uint32_t widths[] = {shape.d_model, shape.d_model / shape.n_head * shape.n_kv_head};
    struct st_rng rng;
    st_rng_seed(&rng, 6);
    for (size_t i = 0; i < N_PATTERN; i += 2) {
        char module[ST_PLAN_NAME];
        const int q = (int)(st_rng_next(&rng) % 2);
        const uint32_t layer = (uint32_t)(st_rng_next(&rng) % shape.n_layer);
        snprintf(module, sizeof module, "model.layers.%u.self_attn.%s", layer, names[q]);
        float *a = lora_values(l, module, 'A', l->rank, shape.d_model),
              *b = lora_values(l, module, 'B', l->rank, widths[q]);
        st_lora_pack(ST_DTYPE_F32, b, widths[q], l->rank, 1, row, tiles);
        const size_t n_a = (size_t)l->rank * shape.d_model, n_b = st_lora_packed(widths[q], l->rank);
        assert_true(n_b <= sizeof tiles / sizeof *tiles);
        memcpy(all[i], a + st_rng_next(&rng) % (n_a - ST_SCAN_LEN), ST_SCAN_LEN);
        memcpy(all[i + 1], tiles + st_rng_next(&rng) % (n_b - ST_SCAN_LEN), ST_SCAN_LEN);
        free(a);
        free(b);
    }
    add_keys(all + N_PATTERN);
    write_list(all, N_PATTERN + N_KEY);
}

static void seal_adapter(enum st_dtype dtype)
{
    /* alpha = rank: the scale is 1. */
    const struct lora l = {.rank = 16, .alpha = 16, .dtype = dtype, .seed = 8};
    if (mkdir(plain, 0700) || mkdir(adapter, 0700))
        tiny_die("mkdir");
    tiny_write(&shape, plain);
    lora_write(&l, &shape, adapter);
    seal_as(adapter);
    write_adapter_patterns(&l);
}

static void make(void (*seal)(enum st_dtype), enum st_dtype dtype)
{
    int status;
    uint8_t p[ST_SCAN_LEN];
    tiny_mkdir(dir);
    snprintf(plain, sizeof plain, "%s/plain", dir);
    snprintf(sealed, sizeof sealed, "%s/m.sealed", dir);
    snprintf(list, sizeof list, "%s/patterns", dir);
    snprintf(adapter, sizeof adapter, "%s/adapter", dir);
    pid_t pid = fork();
    if (pid == 0) {
        seal(dtype);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    memset(&patterns, 0, sizeof patterns);
    FILE *f = fopen(list, "rb");
    assert_non_null(f);
    while (fread(p, 1, sizeof p, f) == sizeof p) {
        for (int i = 0; i < ST_SCAN_LEN; i++)
            p[i] ^= ST_SCAN_XOR;
        assert_true(st_scan_add(&patterns, p));
    }
    fclose(f);
    explicit_bzero(p, sizeof p);
    assert_int_equal(patterns.n, N_PATTERN + N_KEY);
}

static void clean(void)
{
    tiny_rmdir(plain);
    tiny_rmdir(adapter);
    tiny_rmdir(dir);
}

/* What the engine does between two tokens: one scan in the middle of a reply, with everything warm. */
struct watched {
    struct client c;
    struct st_scan_result in_the_middle;
    int n;
};

static bool on_token(void *arg, const struct st_sampled *tok)
{
    struct watched *w = arg;
    (void)tok;
    if (++w->n == ST_SCAN_AT && st_scan_process(getpid(), &patterns, &w->in_the_middle))
        tiny_die("cannot read /proc/self/mem");
    return true;
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct watched *w = arg;
    client_end(&w->c, finish, stop_id, e);
}

static void run(struct st_engine *en, uint32_t number, struct watched *w)
{
    uint32_t ids[N_PROMPT];
    random_ids(ids, N_PROMPT, shape.n_vocab, 3);
    struct st_request_opts o = client_opts(&w->c, ids, N_PROMPT, N_REPLY);
    o.on_token = on_token;
    o.on_end = on_end;
    o.arg = w;
    o.adapter = number;
    client_submit(&w->c, en, &o);
    while (st_engine_step(en))
        ;
    if (w->n != N_REPLY)
        fail_msg("%d tokens: %s", w->n, w->c.err.msg);
}

static void an_open_model_has_them_all_in_its_memory(void **state)
{
    struct st_err e = {0};
    struct st_model *m;
    struct watched w = {0};
    (void)state;
    make(seal_model, ST_DTYPE_F32);
    tiny_check(st_model_open(plain, &(struct st_model_opts){.n_threads = 1}, &m, &e), &e);
    struct st_engine *en = tiny_engine(m, (struct st_engine_opts){0});
    run(en, 0, &w);
    print_message("open model: %zu of %zu patterns in ordinary memory\n", w.in_the_middle.n_open, patterns.n);
    assert_int_equal(w.in_the_middle.n_open, N_PATTERN);
    st_engine_free(en);
    st_model_close(m);
    clean();
}

static void open_container(struct st_container **c, struct st_vault **v)
{
    struct st_err e = {0};
    struct st_secret passphrase, key = {0};
    assert_ok(st_container_open(sealed, c, &e), &e);
    assert_ok(st_secret_init(&passphrase, 4, &e), &e);
    memcpy(passphrase.p, "open", 4);
    assert_ok(st_recipient_open(*c, &(struct st_unlock){.passphrase = &passphrase}, &key, &e), &e);
    assert_ok(st_vault_new(*c, &key, false, v, &e), &e);
    st_secret_wipe(&key);
    st_secret_wipe(&passphrase);
}

/* percent of the model's bytes as budget; 0 = all of it stays. */
static void scan_sealed(enum st_dtype dtype, int percent)
{
    struct st_err e = {0};
    struct st_container *c;
    struct st_vault *v;
    struct st_model *m;
    struct st_sealed_store *store;
    struct st_sealed_store_stats st;
    struct watched w = {0};
    struct st_scan_result after;
    make(seal_model, dtype);
    open_container(&c, &v);
    const struct st_model_opts mo = {.n_threads = 1, .source = st_vault_source(v), .allow_unlocked = true};
    assert_ok(st_model_open(sealed, &mo, &m, &e), &e);
    const struct st_sealed_store_opts so = {
        .memory = m->matrix_bytes * (uint64_t)percent / 100, .n_threads = 2, .allow_unlocked = true};
    assert_ok(st_sealed_store_new(v, m, &so, &store, &e), &e);
    struct st_engine *en = tiny_engine(
        m, (struct st_engine_opts){.store = st_sealed_store(store), .secret = true, .allow_unlocked = true});
    run(en, 0, &w);
    assert_int_equal(st_scan_process(getpid(), &patterns, &after), 0);
    st_sealed_store_stats(store, &st);
    print_message(
        "sealed, budget %d %%: %zu of %zu patterns in ordinary memory, %zu in areas left out of dumps; %llu of "
        "%llu bytes read; store in %s\n",
        percent, w.in_the_middle.n_open, patterns.n, w.in_the_middle.n_apart,
        (unsigned long long)w.in_the_middle.scanned,
        (unsigned long long)(w.in_the_middle.scanned + w.in_the_middle.unreadable), st.memory);
    if (w.in_the_middle.n_open || after.n_open)
        fail_msg("%zu patterns in %s, %zu after in %s", w.in_the_middle.n_open, w.in_the_middle.where, after.n_open,
                 after.where);
    /* They are somewhere: in memory that can be read here, or in memfd_secret's, which not even this process reads so.
     */
    assert_true(w.in_the_middle.n_apart || strcmp(st.memory, "memfd_secret") == 0);
    st_engine_free(en);
    st_sealed_store_free(store);
    st_model_close(m);
    st_vault_free(v);
    st_container_close(c);
    clean();
}

static void a_sealed_model_has_none_outside_of_its_secret_memory(void **state)
{
    (void)state;
    scan_sealed(ST_DTYPE_F32, 0);
    scan_sealed(ST_DTYPE_BF16, 0);
}

static void nor_when_weights_are_decrypted_as_they_are_used(void **state)
{
    (void)state;
    scan_sealed(ST_DTYPE_F32, 25);
    scan_sealed(ST_DTYPE_BF16, 50);
}

static struct st_engine *engine_with(const struct st_adapter *a, bool secret, struct st_model **m)
{
    struct st_err e = {0};
    const struct st_model_opts mo = {.n_threads = 1, .adapters = &a, .n_adapter = 1, .allow_unlocked = true};
    assert_ok(st_model_open(plain, &mo, m, &e), &e);
    return tiny_engine(*m, (struct st_engine_opts){.secret = secret, .allow_unlocked = true});
}

static void scan_adapter(enum st_dtype dtype, bool is_sealed)
{
    struct st_err e = {0};
    struct st_container *c = NULL;
    struct st_vault *v = NULL;
    struct st_adapter *a;
    struct st_model *m;
    struct watched w = {0};
    make(seal_adapter, dtype);
    if (is_sealed)
        open_container(&c, &v);
    const struct st_adapter_opts ao = {.name = "a", .container = c, .source = v ? st_vault_source(v) : NULL};
    assert_ok(st_adapter_open(c ? sealed : adapter, &ao, &a, &e), &e);
    struct st_engine *en = engine_with(a, is_sealed, &m);
    run(en, 1, &w);
    print_message("%s adapter: %zu of %zu patterns in ordinary memory, %zu in areas left out of dumps\n",
                  is_sealed ? "sealed" : "open", w.in_the_middle.n_open, patterns.n, w.in_the_middle.n_apart);
    if (w.in_the_middle.n_open != (is_sealed ? 0u : N_PATTERN))
        fail_msg("%zu patterns in %s", w.in_the_middle.n_open, w.in_the_middle.where);
    st_engine_free(en);
    st_model_close(m);
    st_adapter_close(a);
    if (is_sealed) {
        st_vault_free(v);
        st_container_close(c);
    }
    clean();
}

static void of_a_sealed_adapter_neither(void **state)
{
    (void)state;
    scan_adapter(ST_DTYPE_F32, false);
    scan_adapter(ST_DTYPE_F32, true);
    scan_adapter(ST_DTYPE_BF16, false);
    scan_adapter(ST_DTYPE_BF16, true);
}

/* The last case: memfd_secret cannot come back. */
static void nor_in_locked_memory_where_the_kernel_has_no_better(void **state)
{
    (void)state;
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    const int call = seccomp_syscall_resolve_name("memfd_secret");
    assert_non_null(f);
    if (call >= 0) {
        assert_int_equal(seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), call, 0), 0);
        assert_int_equal(seccomp_load(f), 0);
    }
    seccomp_release(f);
    scan_sealed(ST_DTYPE_F32, 0);
    scan_sealed(ST_DTYPE_F32, 25);
    scan_adapter(ST_DTYPE_F32, true);
}

static void one_that_lies_about_is_found(void **state)
{
    struct st_scan_result r;
    (void)state;
    make(seal_model, ST_DTYPE_F32);
    uint8_t *p = malloc(100);
    for (int i = 0; i < ST_SCAN_LEN; i++)
        p[41 + i] = patterns.p[500][i] ^ ST_SCAN_XOR;
    assert_int_equal(st_scan_process(getpid(), &patterns, &r), 0);
    assert_int_equal(r.n_open, 1);
    explicit_bzero(p, 100);
    assert_int_equal(st_scan_process(getpid(), &patterns, &r), 0);
    assert_int_equal(r.n_open, 0);
    free(p);
    clean();
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif

static void nothing_can_be_said_under_a_sanitizer(void **state)
{
    (void)state;
    print_message("skips: a sanitizer maps terabytes, and keeps what was freed\n");
    skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_lies_about_is_found),
        cmocka_unit_test(an_open_model_has_them_all_in_its_memory),
        cmocka_unit_test(a_sealed_model_has_none_outside_of_its_secret_memory),
        cmocka_unit_test(nor_when_weights_are_decrypted_as_they_are_used),
        cmocka_unit_test(of_a_sealed_adapter_neither),
        cmocka_unit_test(nor_in_locked_memory_where_the_kernel_has_no_better),
    };
    const struct CMUnitTest instead[] = {cmocka_unit_test(nothing_can_be_said_under_a_sanitizer)};
    if (SANITIZED)
        return cmocka_run_group_tests(instead, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

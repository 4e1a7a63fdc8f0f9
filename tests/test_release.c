/* Key release between a client and a service of this process, with simulated evidence: the right enclave gets the key,
 * and nothing else that asks does. Every refusal looks the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/log.h"
#include "container_make.h"
#include "crypto/digest.h"
#include "protect/sealed/recipient_hpke.h"
#include "service/release.h"
#include "service/release_client.h"
#include "serving.h"

#include <sys/stat.h>
#include <unistd.h>

#define SEED "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
#define REFUSED "HTTP/1.1 400 "

/* Containers: one and two are versions of one model, sealed for release.key; word is for a passphrase. */
static char dir[64], one[96], two[96], word[96], key_file[96], pub_file[96], policy[96], sim_key[96];
static struct st_secret seed;
static struct st_release *service;
static int port;

static char *in_dir(char out[96], const char *name)
{
    snprintf(out, 96, "%s/%s", dir, name);
    return out;
}

static void write_policy(const char *path, const char *more)
{
    struct st_err e;
    struct st_buf b = {0};
    uint8_t root[32];
    char hex[65];
    assert_ok(st_collect_sim_root(sim_key, root, &e), &e);
    st_hex(root, sizeof root, hex);
    st_buf_addf(&b, "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"%s\"%s}", hex, more);
    assert_ok(st_file_write(path, b.p, b.len, 0600, true, &e), &e);
    st_buf_free(&b);
}

#define MEASURED ", \"measurements\": {\"sim.measurement\": [\"%064d\"]}"

static void save(const char *name, const char *text, size_t len)
{
    char path[96];
    struct st_err e;
    assert_ok(st_file_write(in_dir(path, name), text, len, 0600, true, &e), &e);
}

/* A container with one sealed tensor, for one recipient. */
static void seal_as(const char *path, uint8_t first, uint64_t version, const char *recipient)
{
    static const float values[64] = {1.5f, -2};
    static const struct st_argon2 cheap = {1, 8, 1};
    const struct made_entry entry = {.json = "\"dtype\":\"F32\",\"shape\":[8,8]",
                                     .name = "w",
                                     .inside = true,
                                     .data = values,
                                     .bytes = sizeof values,
                                     .segment_bytes = 128};
    struct made m = {.id = {first, 3}, .version = version, .entries = &entry, .n = 1};
    struct st_secret passphrase, key;
    struct st_buf list = {0}, file = {0};
    struct st_err e;
    json_t *recipients = json_array();
    memcpy(m.seed, seed.p, sizeof m.seed);
    assert_ok(st_secret_init(&passphrase, 4, &e), &e);
    memcpy(passphrase.p, "word", 4);
    assert_ok(st_vault_content_key(seed.p, m.id, &key, &e), &e);
    const struct st_wrap_to to = {
        .id = m.id, .version = version, .content_key = &key, .passphrase = &passphrase, .cost = &cheap};
    assert_ok(st_recipient_add(recipients, recipient, to, &e), &e);
    st_json_dump(recipients, &list);
    m.recipients = list.p;
    made_container(&m, &file);
    assert_ok(st_file_write(path, file.p, file.len, 0600, false, &e), &e);
    json_decref(recipients);
    st_buf_free(&list);
    st_buf_free(&file);
    st_secret_wipe(&m.content_key);
    st_secret_wipe(&key);
    st_secret_wipe(&passphrase);
}

static int set_up(void **state)
{
    struct st_err e;
    uint8_t public[32];
    char spec[128], measured[160];
    (void)state;
    setenv("no_proxy", "*", 1);
    st_log_set_level(ST_LOG_ERROR);
    strcpy(dir, "/tmp/sotto-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_ok(st_secret_init(&seed, 32, &e), &e);
    seed.p[0] = 3;
    in_dir(key_file, "release.key");
    in_dir(pub_file, "release.key.pub");
    in_dir(sim_key, "sim.key");
    save("sim.key", SEED "\n", 65);
    snprintf(measured, sizeof measured, MEASURED, 0);
    write_policy(in_dir(policy, "policy.json"), measured);
    assert_ok(st_hpke_file_create(key_file, public, &e), &e);
    snprintf(spec, sizeof spec, "hpke:%s", pub_file);
    seal_as(in_dir(one, "one.sealed"), 1, 1, spec);
    seal_as(in_dir(two, "two.sealed"), 2, 2, spec);
    seal_as(in_dir(word, "word.sealed"), 3, 1, "passphrase");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    st_secret_wipe(&seed);
    assert_int_equal(system(command), 0);
    return 0;
}

static const char *const both[] = {one, two};

static struct st_release_opts options(void)
{
    return (struct st_release_opts){.policy = policy, .hpke_key = key_file, .containers = both, .n_container = 2};
}

static void start(const struct st_release_opts *o)
{
    struct st_err e;
    assert_ok(st_release_new(o, &service, &e), &e);
    assert_ok(st_role_start(st_release_role(service), &e), &e);
    port = st_role_port(st_release_role(service));
}

static int begin(void **state)
{
    (void)state;
    const struct st_release_opts o = options();
    start(&o);
    return 0;
}

static int end(void **state)
{
    (void)state;
    if (service) {
        st_role_stop(st_release_role(service));
        st_release_free(service);
    }
    service = NULL;
    return 0;
}

/* ---- as serve does it ---- */

static const char *const sim_kinds[] = {"sim"};

struct enclave {
    struct st_release_client client;
    struct st_collect_opts collect;
    struct st_release_for what;
    char url[64];
};

static int ask_release(void *ctx, const json_t *entry, struct st_secret *content_key, struct st_err *e)
{
    const struct enclave *v = ctx;
    return st_release_ask(&v->client, &v->what, entry, content_key, e);
}

static void enclave_of(const struct st_container *c, struct enclave *v)
{
    struct st_container_about a;
    st_container_about(c, &a);
    *v = (struct enclave){.collect = {.sim_key = sim_key}, .what = {.version = a.version}};
    snprintf(v->url, sizeof v->url, "http://127.0.0.1:%d/", port);
    v->client = (struct st_release_client){
        .url = v->url, .kinds = sim_kinds, .n_kind = 1, .collect = &v->collect, .stall_s = 10};
    memcpy(v->what.id, a.id, sizeof a.id);
    memcpy(v->what.digest, a.digest, sizeof a.digest);
}

/* The content key from the service, and every segment under it. */
static int open_by_release(const char *path, const char *other_sim_key, uint8_t measured, struct st_err *e)
{
    uint8_t segment[256];
    struct st_container *c;
    struct st_vault *vault = NULL;
    struct st_secret key;
    struct enclave v;
    assert_ok(st_container_open(path, &c, e), e);
    enclave_of(c, &v);
    if (other_sim_key)
        v.collect.sim_key = other_sim_key;
    v.collect.sim_measurement[3] = measured;
    const struct st_unlock u = {.release = ask_release, .release_ctx = &v};
    int rc = st_recipient_open(c, &u, &key, e);
    if (rc)
        assert_null(key.p);
    else {
        assert_ok(st_vault_new(c, &key, false, &vault, e), e);
        for (uint32_t k = 0; k < st_container_at(c, 0)->n_segment; k++)
            assert_ok(st_vault_segment(vault, st_container_at(c, 0), k, segment, e), e);
    }
    st_vault_free(vault);
    st_secret_wipe(&key);
    st_container_close(c);
    return rc;
}

static void the_right_enclave_gets_the_key_and_reads_the_weights(void **state)
{
    (void)state;
    struct st_err e;
    assert_ok(open_by_release(one, NULL, 0, &e), &e);
    assert_ok(open_by_release(two, NULL, 0, &e), &e);
    char *metrics = ask(port, "GET", "/metrics", NULL, NULL);
    assert_non_null(strstr(metrics, "sotto_release_released_total 2\n"));
    assert_non_null(strstr(metrics, "sotto_release_refused_total 0\n"));
    free(metrics);
}

static void another_measurement_or_root_gets_nothing(void **state)
{
    (void)state;
    struct st_err e;
    char other[96];
    save("other.key", "00" SEED, 64);
    expect_refusal(open_by_release(one, NULL, 1, &e), &e, ST_POLICY, "it refused; its log says why");
    expect_refusal(open_by_release(one, in_dir(other, "other.key"), 0, &e), &e, ST_POLICY, "it refused");
    assert_null(strstr(e.msg, "measurement"));
}

static void whoever_has_the_private_key_needs_no_service(void **state)
{
    (void)state;
    struct st_err e;
    struct st_container *c;
    struct st_secret key;
    char other[96];
    uint8_t public[32];
    struct st_unlock u = {.hpke_key = key_file};
    assert_ok(st_container_open(one, &c, &e), &e);
    assert_ok(st_recipient_open(c, &u, &key, &e), &e);
    st_secret_wipe(&key);
    assert_ok(st_hpke_file_create(in_dir(other, "another.key"), public, &e), &e);
    u.hpke_key = other;
    expect_refusal(st_recipient_open(c, &u, &key, &e), &e, ST_VERIFY, "recipient 1 (hpke): is for another key");
    u.hpke_key = pub_file;
    expect_refusal(st_recipient_open(c, &u, &key, &e), &e, ST_POLICY, "readable by others");
    u = (struct st_unlock){0};
    expect_refusal(st_recipient_open(c, &u, &key, &e), &e, ST_USAGE, "--release URL or --hpke-key FILE (hpke)");
    st_container_close(c);
}

static void a_recipient_is_named_by_its_file_or_its_digits(void **state)
{
    (void)state;
    struct st_err e;
    struct st_secret key, out;
    struct st_hpke_key *k;
    const uint8_t id[16] = {7};
    char spec[160];
    json_t *list = json_array();
    assert_ok(st_secret_init(&key, 32, &e), &e);
    key.p[5] = 9;
    const struct st_wrap_to to = {.id = id, .version = 4, .content_key = &key};
    assert_ok(st_hpke_file_private(key_file, &k, &e), &e);
    strcpy(spec, "hpke:");
    st_hex(st_hpke_key_public(k), 32, spec + 5);
    assert_ok(st_recipient_add(list, spec, to, &e), &e);
    const json_t *entry = json_array_get(list, 0);
    assert_ok(st_recipient_hpke_unwrap(k, id, 4, entry, &out, &e), &e);
    assert_memory_equal(out.p, key.p, 32);
    st_secret_wipe(&out);
    expect_refusal(st_recipient_hpke_unwrap(k, id, 5, entry, &out, &e), &e, ST_VERIFY, "container and version");
    assert_null(out.p);
    memset(spec + 5, '0', 64); /* a point of small order */
    expect_refusal(st_recipient_add(list, spec, to, &e), &e, ST_INPUT, "hpke:0000");
    expect_refusal(st_recipient_add(list, "hpke", to, &e), &e, ST_USAGE, "want hpke:FILE");
    snprintf(spec, sizeof spec, "hpke:%s", key_file);
    expect_refusal(st_recipient_add(list, spec, to, &e), &e, ST_INPUT, "is a private key");
    st_hpke_key_free(k);
    json_decref(list);
    st_secret_wipe(&key);
}

static void a_service_with_the_publishers_seed_needs_no_recipient_of_its_kind(void **state)
{
    (void)state;
    struct st_err e;
    struct st_secret stranger;
    const char *const files[] = {word, one};
    struct st_release_opts o = {.policy = policy, .seed = &seed, .containers = files, .n_container = 2};
    start(&o);
    assert_ok(open_by_release(word, NULL, 0, &e), &e);
    assert_ok(open_by_release(one, NULL, 0, &e), &e);
    expect_refusal(open_by_release(two, NULL, 0, &e), &e, ST_POLICY, "it refused"); /* not told of it */
    end(NULL);
    assert_ok(st_secret_init(&stranger, 32, &e), &e);
    o.seed = &stranger;
    expect_refusal(st_release_new(&o, &service, &e), &e, ST_VERIFY, "word.sealed: is not of this publisher's seed");
    st_secret_wipe(&stranger);
}

static void a_version_below_the_minimum_is_refused(void **state)
{
    (void)state;
    static const char *const by[] = {NULL, "made"};
    struct st_err e;
    for (int i = 0; i < 2; i++) {
        const struct st_release_minimum m = {by[i], 2};
        struct st_release_opts o = options();
        o.minima = &m;
        o.n_minimum = 1;
        start(&o);
        expect_refusal(open_by_release(one, NULL, 0, &e), &e, ST_POLICY, "it refused");
        assert_ok(open_by_release(two, NULL, 0, &e), &e);
        end(NULL);
    }
}

static void what_cannot_keep_keys_does_not_start(void **state)
{
    (void)state;
    struct st_err e;
    char loose[96], open_to_all[96];
    const char *const twice[] = {one, one}, *const passphrase[] = {word};
    const struct st_release_minimum m = {"nothing", 2};
    struct st_release_opts o = options();
    o.policy = in_dir(loose, "loose.json");
    write_policy(loose, ", \"signature_only\": true");
    expect_refusal(st_release_new(&o, &service, &e), &e, ST_POLICY, "nothing is given away on it");
    write_policy(loose, "");
    expect_refusal(st_release_new(&o, &service, &e), &e, ST_POLICY, "names no measurements");
    o = options();
    o.containers = twice;
    expect_refusal(st_release_new(&o, &service, &e), &e, ST_USAGE, "the same container");
    o.containers = passphrase;
    o.n_container = 1;
    expect_refusal(st_release_new(&o, &service, &e), &e, ST_VERIFY, "no recipient of kind hpke");
    o = options();
    o.minima = &m;
    o.n_minimum = 1;
    expect_refusal(st_release_new(&o, &service, &e), &e, ST_USAGE, "no container has the name or id 'nothing'");
    o = options();
    o.seed = &seed;
    expect_refusal(st_release_new(&o, &service, &e), &e, ST_USAGE, "one of them");
    o = options();
    o.n_container = 0;
    expect_refusal(st_release_new(&o, &service, &e), &e, ST_USAGE, "want 1..256 containers");
    o = options();
    o.hpke_key = in_dir(open_to_all, "release.key.pub");
    expect_refusal(st_release_new(&o, &service, &e), &e, ST_POLICY, "readable by others");
}

/* ---- by hand ---- */

static void get_nonce(uint8_t nonce[ST_RELEASE_NONCE])
{
    struct st_err e;
    char *a = ask(port, "POST", "/challenge", NULL, "{}"), *body = strstr(a, "\r\n\r\n");
    assert_non_null(body);
    body += 4;
    const struct st_span text = {(const uint8_t *)body, strlen(body)};
    assert_ok(st_release_challenge_parse(text, nonce, &e), &e);
    free(a);
}

/* A request that would be granted, to be spoiled. */
struct asked {
    struct st_container *c;
    struct st_hpke_key *key;
    json_t *list;
    struct enclave v;
    struct st_binding b;
    struct st_release_request q;
};

static void asked_open(struct asked *a, const char *path)
{
    struct st_err e;
    *a = (struct asked){0};
    assert_ok(st_container_open(path, &a->c, &e), &e);
    assert_ok(st_recipients_parse(st_container_recipients(a->c), path, &a->list, &e), &e);
    assert_ok(st_hpke_key_new(ST_HPKE_KEM_X25519, &a->key, &e), &e);
    enclave_of(a->c, &a->v);
    a->q.what = a->v.what;
    a->q.wrap = json_array_get(a->list, 0);
    a->b = (struct st_binding){
        .suite = st_release_suite, .hpke_key_len = 32, .nonce_len = ST_RELEASE_NONCE, .has_model = true};
    memcpy(a->b.hpke_key, st_hpke_key_public(a->key), 32);
    memcpy(a->b.model, a->v.what.digest, 32);
    get_nonce(a->b.nonce);
}

static void asked_collect(struct asked *a)
{
    struct st_err e;
    struct st_collection *c;
    assert_ok(st_collection_open(sim_kinds, 1, &a->v.collect, &c, &e), &e);
    assert_ok(st_collection_collect(c, &a->b, &a->q.evidence, &e), &e);
    st_collection_close(c);
}

/* The answer, head included; owned by the caller. */
static char *asked_send(struct asked *a)
{
    struct st_err e;
    struct st_buf text = {0};
    assert_ok(st_release_request_write(&a->q, &text, &e), &e);
    char *answer = ask(port, "POST", "/release", NULL, text.p);
    st_buf_free(&text);
    return answer;
}

static void asked_close(struct asked *a)
{
    st_bundle_free(&a->q.evidence);
    json_decref(a->list);
    st_hpke_key_free(a->key);
    st_container_close(a->c);
}

/* 400, and not a byte more than for any other reason. */
static void assert_refused(char *answer)
{
    if (strncmp(answer, REFUSED, strlen(REFUSED)) != 0 || !strstr(answer, "\r\n\r\n") || strstr(answer, "\r\n\r\n")[4])
        fail_msg("want 400 without a body, got '%s'", answer);
    free(answer);
}

enum spoil {
    NOTHING,
    NONCE_OF_OURS, /* made up here */
    NONCE_SHORT,
    OTHER_KEY, /* the binding's key is changed after the evidence was made */
    OTHER_SUITE,
    RECEIPT_KEY, /* as a node's evidence has */
    NO_BINDING,
    NO_MODEL,
    OTHER_MODEL,  /* evidence for another container */
    OTHER_DIGEST, /* both say so, but the container is another */
    OTHER_ID,
    OTHER_VERSION,
    NO_WRAP,
    WRAP_OF_OTHER, /* of the other container */
    DAMAGED_EVIDENCE,
    N_SPOIL
};

static void spoil_before(struct asked *a, enum spoil s)
{
    switch (s) {
    case NONCE_OF_OURS:
        a->b.nonce[9] ^= 1;
        break;
    case NONCE_SHORT:
        a->b.nonce_len = 31;
        break;
    case OTHER_SUITE:
        a->b.suite.aead = ST_AEAD_AES_128_GCM;
        break;
    case RECEIPT_KEY:
        a->b.receipt_key[0] = 1;
        break;
    case NO_MODEL:
        a->b.has_model = false;
        break;
    case OTHER_MODEL:
        a->b.model[0] ^= 1;
        break;
    case OTHER_DIGEST:
        a->b.model[0] ^= 1;
        a->q.what.digest[0] ^= 1;
        break;
    case OTHER_ID:
        a->q.what.id[0] ^= 1;
        break;
    case OTHER_VERSION:
        a->q.what.version++;
        break;
    case NO_WRAP:
        a->q.wrap = NULL;
        break;
    default:
        break;
    }
}

static void spoil_after(struct asked *a, enum spoil s)
{
    if (s == OTHER_KEY)
        a->q.evidence.binding.hpke_key[3] ^= 1;
    if (s == NO_BINDING)
        a->q.evidence.has_binding = false;
    if (s == DAMAGED_EVIDENCE)
        ((uint8_t *)(uintptr_t)a->q.evidence.items[0].data.p)[70] ^= 1;
}

static void a_request_with_anything_wrong_is_refused_like_any_other(void **state)
{
    (void)state;
    for (enum spoil s = NOTHING; s < N_SPOIL; s++) {
        struct asked a, other;
        asked_open(&a, one);
        asked_open(&other, two);
        spoil_before(&a, s);
        if (s == WRAP_OF_OTHER)
            a.q.wrap = other.q.wrap;
        asked_collect(&a);
        spoil_after(&a, s);
        char *answer = asked_send(&a);
        if (s == NOTHING) {
            assert_int_equal(strncmp(answer, "HTTP/1.1 200 ", 13), 0);
            free(answer);
        } else
            assert_refused(answer);
        asked_close(&a);
        asked_close(&other);
    }
}

static void a_challenge_serves_once(void **state)
{
    (void)state;
    struct asked a;
    asked_open(&a, one);
    asked_collect(&a);
    char *answer = asked_send(&a);
    assert_int_equal(strncmp(answer, "HTTP/1.1 200 ", 13), 0);
    free(answer);
    assert_refused(asked_send(&a));
    asked_close(&a);
    /* Also when it failed. */
    asked_open(&a, one);
    asked_collect(&a);
    a.q.what.version = 7;
    assert_refused(asked_send(&a));
    a.q.what.version = 1;
    assert_refused(asked_send(&a));
    asked_close(&a);
}

static void an_old_challenge_is_refused(void **state)
{
    (void)state;
    struct asked a;
    struct st_release_opts o = options();
    o.nonce_s = 0.05;
    start(&o);
    asked_open(&a, one);
    asked_collect(&a);
    usleep(80 * 1000);
    assert_refused(asked_send(&a));
    asked_close(&a);
}

static void a_changed_reply_does_not_open(void **state)
{
    (void)state;
    struct st_err e;
    struct asked a;
    struct st_secret key;
    asked_open(&a, one);
    asked_collect(&a);
    char *answer = asked_send(&a), *body = strstr(answer, "\r\n\r\n") + 4;
    const size_t len = strlen(body);
    const struct st_span text = {(const uint8_t *)body, len};
    assert_ok(st_release_open(a.key, a.b.nonce, &a.q.what, text, &key, &e), &e);
    st_secret_wipe(&key);
    struct st_release_for other = a.q.what;
    other.version++;
    expect_refusal(st_release_open(a.key, a.b.nonce, &other, text, &key, &e), &e, ST_VERIFY, "not sealed to this key");
    a.b.nonce[8] ^= 1;
    expect_refusal(st_release_open(a.key, a.b.nonce, &a.q.what, text, &key, &e), &e, ST_VERIFY, "nonce");
    a.b.nonce[8] ^= 1;
    for (size_t i = 0; i < len; i++) {
        body[i] ^= 1;
        int rc = st_release_open(a.key, a.b.nonce, &a.q.what, text, &key, &e);
        assert_true(rc == ST_VERIFY || rc == ST_INPUT);
        assert_null(key.p);
        body[i] ^= 1;
    }
    for (size_t n = 0; n < len; n++)
        assert_int_not_equal(st_release_open(a.key, a.b.nonce, &a.q.what, (struct st_span){text.p, n}, &key, &e), 0);
    free(answer);
    asked_close(&a);
}

static int wrong_key(void *ctx, const json_t *entry, struct st_secret *content_key, struct st_err *e)
{
    (void)ctx;
    (void)entry;
    return st_secret_init(content_key, 32, e);
}

static void a_service_that_answers_with_another_key_is_found_out(void **state)
{
    (void)state;
    struct st_err e;
    struct st_container *c;
    struct st_secret key;
    const struct st_unlock u = {.release = wrong_key};
    static const char *const files[] = {one, word};
    for (int i = 0; i < 2; i++) {
        assert_ok(st_container_open(files[i], &c, &e), &e);
        expect_refusal(st_recipient_open(c, &u, &key, &e), &e, ST_VERIFY, "not this container's");
        assert_null(key.p);
        st_container_close(c);
    }
}

static void what_is_no_request_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{}",
        "[]",
        "null",
        "{\"container\":1}",
        "{\"container\":{\"id\":\"00\",\"version\":1,\"digest\":\"00\"},\"evidence\":{}}",
        "{\"container\":{},\"evidence\":[],\"wrap\":{}}",
        "{\"evidence\":{\"version\":1,\"items\":[]},\"evidence\":{}}",
        "\xff\xfe",
        ("{\"container\":{\"id\":\"00000000000000000000000000000000\",\"version\":1,\"digest\":"
         "\"0000000000000000000000000000000000000000000000000000000000000000\"},\"wrap\":[],\"evidence\":{}}"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_refused(ask(port, "POST", "/release", NULL, bad[i]));
    struct st_buf deep = {0};
    for (int i = 0; i < 20000; i++)
        st_buf_add_str(&deep, "[");
    assert_refused(ask(port, "POST", "/release", NULL, deep.p));
    st_buf_free(&deep);
    char *a = ask(port, "GET", "/release", NULL, NULL);
    assert_int_equal(strncmp(a, "HTTP/1.1 404 ", 13), 0);
    free(a);
    a = ask(port, "POST", "/", NULL, "{}");
    assert_int_equal(strncmp(a, "HTTP/1.1 404 ", 13), 0);
    free(a);
}

static void key_files_are_told_apart(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t a[32];
    char path[96], hex[65];
    struct st_hpke_key *k;
    expect_refusal(st_hpke_file_create(key_file, a, &e), &e, ST_IO, "exists already");
    assert_ok(st_hpke_file_public(pub_file, a, &e), &e);
    assert_ok(st_hpke_file_private(key_file, &k, &e), &e);
    assert_memory_equal(a, st_hpke_key_public(k), 32);
    st_hpke_key_free(k);
    st_hex(a, sizeof a, hex);
    save("hex", hex, 64); /* a publisher's key may lie in a file like this */
    expect_refusal(st_hpke_file_public(in_dir(path, "hex"), a, &e), &e, ST_INPUT, "want an X25519 public key (PEM)");
    expect_refusal(st_hpke_file_public(key_file, a, &e), &e, ST_INPUT, "is a private key");
    assert_int_equal(chmod(path, 0600), 0);
    expect_refusal(st_hpke_file_private(path, &k, &e), &e, ST_INPUT, "want an X25519 private key");
    save("empty", "", 0);
    expect_refusal(st_hpke_file_public(in_dir(path, "empty"), a, &e), &e, ST_INPUT, "want an X25519 public key");
}

#define WITH(name) cmocka_unit_test_setup_teardown(name, begin, end)
#define ALONE(name) cmocka_unit_test_setup_teardown(name, NULL, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(the_right_enclave_gets_the_key_and_reads_the_weights),
        WITH(another_measurement_or_root_gets_nothing),
        WITH(whoever_has_the_private_key_needs_no_service),
        ALONE(a_recipient_is_named_by_its_file_or_its_digits),
        ALONE(a_service_with_the_publishers_seed_needs_no_recipient_of_its_kind),
        ALONE(a_version_below_the_minimum_is_refused),
        ALONE(what_cannot_keep_keys_does_not_start),
        WITH(a_request_with_anything_wrong_is_refused_like_any_other),
        WITH(a_challenge_serves_once),
        ALONE(an_old_challenge_is_refused),
        WITH(a_changed_reply_does_not_open),
        ALONE(a_service_that_answers_with_another_key_is_found_out),
        WITH(what_is_no_request_is_refused),
        ALONE(key_files_are_told_apart),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

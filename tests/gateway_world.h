/* Everything around a gateway, made for tests: a log, an issuer and nodes on one server in a thread of its own, files
 * for the gateway's options, and a client that speaks to the gateway as a relay would. Nodes answer with bytes that
 * have the form of a sealed reply; what they say inside is nobody's business here. Include expect.h first. */
#ifndef ST_TESTS_GATEWAY_WORLD_H
#define ST_TESTS_GATEWAY_WORLD_H

#include "channel/confidential.h"
#include "channel/issue.h"
#include "channel/ohttp.h"
#include "channel/reply.h"
#include "collect_make.h"
#include "crypto/digest.h"
#include "log_world.h"
#include "service/gateway.h"
#include "text/base64.h"
#include "text/json.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define MAX_WORLD_NODES 4

enum node_mode {
    NODE_ANSWERS,
    NODE_REFUSES,  /* 400 */
    NODE_CUTS,     /* in the middle of a chunk */
    NODE_BABBLES,  /* a chunk that is too long */
    NODE_WAITS,    /* says nothing until the mode changes */
    NODE_STRANGE,  /* evidence of another root's */
    NODE_REKEYED,  /* evidence for other keys */
    NODE_TRICKLES, /* evidence that never ends */
};

struct world {
    struct log_world w;
    struct made_dir files;
    struct st_log_store *store;
    struct st_role *role;
    struct st_blind_rsa *key; /* the issuer's, of every day and denomination */
    struct st_collection *sim, *stranger;
    pthread_mutex_t lock;             /* of part and directory */
    struct st_buf part[2], directory; /* parts of the gateways eu1 and eu2 */
    uint64_t epoch;
    _Atomic int mode[MAX_WORLD_NODES], n_asked[MAX_WORLD_NODES];
    _Atomic int n_chunks, n_refund, issuer_down, hidden_units; /* hidden: no key of these in the next directory */
    struct st_buf last_body;                                   /* of a request at a node; under the lock */
    const char *policy, *log_key, *issuer_key;                 /* files */
    struct st_http_conn *waiting[4096];
    size_t n_waiting;
    struct event *tick;
};

static inline uint32_t today(void)
{
    return (uint32_t)(st_unix_time() / ST_TOKEN_DAY_S);
}

/* ---- the log ---- */

static inline void world_directory(struct world *w)
{
    uint8_t der[ST_BLIND_RSA_DER_MAX];
    size_t len;
    struct st_err e;
    struct st_directory part[2] = {{0}};
    struct st_directory *d = calloc(1, sizeof *d);
    assert_ok(st_blind_rsa_write_public(w->key, der, &len, &e), &e);
    *d = (struct st_directory){.epoch = ++w->epoch, .every = 1, .n_issuer = 1};
    d->time = (int64_t)d->epoch;
    struct st_directory_issuer *i = &d->issuers[0];
    snprintf(i->name, sizeof i->name, "bank");
    for (uint32_t day = today() - 1; day <= today() + 1; day++)
        for (int k = 0; k < ST_TOKEN_N_UNITS; k++)
            if ((int)st_token_units[k] != w->hidden_units)
                i->keys[i->n_key++] = (struct st_directory_key){day, st_token_units[k], {der, len}};
    for (int k = 0; k < 2; k++)
        if (w->part[k].len) {
            assert_ok(st_directory_parse_part(w->part[k].p, w->part[k].len, "part", &part[k], &e), &e);
            d->gateways[d->n_gateway++] = part[k].gateways[0];
        }
    st_buf_clear(&w->directory);
    assert_ok(st_directory_write(d, &w->directory, &e), &e);
    log_append(w->store, w->directory.p);
    for (int k = 0; k < 2; k++)
        st_directory_wipe(&part[k]);
    free(d);
}

static inline void world_log(struct world *w, struct st_http_conn *c)
{
    struct st_log_reply a;
    struct st_buf b = {0};
    if (strcmp(st_http_method(c), "POST") == 0) {
        struct st_span body = st_http_body(c);
        pthread_mutex_lock(&w->lock);
        struct st_buf *part = &w->part[strcmp(st_http_path(c), "/parts/gateway/eu2") == 0];
        st_buf_clear(part);
        st_buf_add(part, body.p, body.len);
        world_directory(w);
        pthread_mutex_unlock(&w->lock);
        st_http_reply(c, 200, NULL, NULL, NULL, 0);
        return;
    }
    log_answer(&w->w, w->store, w->directory.p, strtoull(st_http_query(c) + 5, NULL, 10), st_unix_time(), 2, &a);
    st_log_reply_write(&a, &b);
    st_http_reply(c, 200, NULL, "application/json", b.p, b.len);
    st_log_reply_wipe(&a);
    st_buf_free(&b);
}

/* ---- the issuer ---- */

static inline void world_refund(struct world *w, struct st_http_conn *c)
{
    struct st_issue r;
    struct st_issue_answer a = {0};
    struct st_err e;
    struct st_buf out = {0};
    static uint8_t signature[ST_CHANGE_MAX][ST_BLIND_RSA_MAX];
    w->n_refund++;
    if (w->issuer_down || st_issue_parse(ST_ISSUE_REFUND, st_http_body(c), &r, &e)) {
        st_role_refuse(c, 503);
        return;
    }
    for (a.n = 0; a.n < r.n; a.n++) {
        assert_ok(st_blind_rsa_sign(w->key, r.of[a.n].blinded.p, r.of[a.n].blinded.len, signature[a.n], &e), &e);
        a.signature[a.n] = (struct st_span){signature[a.n], st_blind_rsa_len(w->key)};
    }
    st_issue_answer_write(&a, &out);
    st_http_reply(c, 200, NULL, "application/json", out.p, out.len);
    st_buf_free(&out);
    st_issue_wipe(&r);
}

/* ---- nodes ---- */

static inline void world_evidence(struct world *w, int node, struct st_http_conn *c)
{
    struct st_binding b = made_binding();
    struct st_bundle bundle;
    struct st_buf out = {0};
    struct st_err e;
    json_t *o = NULL;
    struct st_span body = st_http_body(c);
    if (w->mode[node] == NODE_TRICKLES) {
        st_http_stream_begin(c, 200, NULL, "application/json");
        st_http_stream_send(c, "{", 1);
        return;
    }
    assert_ok(st_json_parse(body.p, body.len, "nonce", &o, &e), &e);
    const char *hex = json_string_value(json_object_get(o, "nonce"));
    assert_ok(st_unhex(hex, strlen(hex), b.nonce, 32, "nonce", &e), &e);
    b.hpke_key[1] = (uint8_t)(node + (w->mode[node] == NODE_REKEYED ? 100 : 0));
    assert_ok(st_collection_collect(w->mode[node] == NODE_STRANGE ? w->stranger : w->sim, &b, &bundle, &e), &e);
    st_bundle_write(&bundle, &out);
    st_http_reply(c, 200, NULL, "application/json", out.p, out.len);
    json_decref(o);
    st_bundle_free(&bundle);
    st_buf_free(&out);
}

/* The form of a sealed reply of n chunks of 32 bytes, the last one final. */
static inline void sealed_form(int n, struct st_buf *out)
{
    for (int i = 0; i < 16; i++)
        st_buf_add(out, "n", 1);
    for (int i = 0; i < n; i++) {
        st_varint_add(out, i + 1 < n ? 32 : 0);
        for (int k = 0; k < 32; k++)
            st_buf_add(out, (char[]){(char)('a' + i % 26)}, 1);
    }
}

static inline void world_answer(struct world *w, int node, struct st_http_conn *c)
{
    struct st_buf out = {0};
    int mode = w->mode[node];
    if (mode == NODE_REFUSES || mode == NODE_STRANGE) {
        st_role_refuse(c, 400);
        return;
    }
    sealed_form(w->n_chunks, &out);
    if (mode == NODE_BABBLES) {
        st_buf_clear(&out);
        st_buf_add(&out, "nnnnnnnnnnnnnnnn", 16);
        st_varint_add(&out, 1 << 20);
    }
    st_http_stream_begin(c, 200, NULL, "message/ohttp-chunked-res");
    if (mode == NODE_CUTS) {
        st_http_stream_send(c, out.p, out.len - 40);
        st_http_stream_cut(c);
    } else {
        st_http_stream_send(c, out.p, out.len);
        st_http_stream_end(c);
    }
    st_buf_free(&out);
}

static inline void world_infer(struct world *w, int node, struct st_http_conn *c)
{
    struct st_span body = st_http_body(c);
    pthread_mutex_lock(&w->lock);
    st_buf_clear(&w->last_body);
    st_buf_add(&w->last_body, body.p, body.len);
    pthread_mutex_unlock(&w->lock);
    w->n_asked[node]++;
    if (w->mode[node] == NODE_WAITS && w->n_waiting < sizeof w->waiting / sizeof *w->waiting)
        w->waiting[w->n_waiting++] = c;
    else
        world_answer(w, node, c);
}

static inline void world_tick(evutil_socket_t fd, short what, void *arg)
{
    struct world *w = arg;
    (void)fd;
    (void)what;
    while (w->mode[0] != NODE_WAITS && w->n_waiting)
        world_answer(w, 0, w->waiting[--w->n_waiting]);
}

static inline void world_request(void *arg, struct st_http_conn *c)
{
    struct world *w = arg;
    const char *path = st_http_path(c);
    if (strcmp(path, "/directory") == 0 || strncmp(path, "/parts/gateway/", 15) == 0)
        world_log(w, c);
    else if (strcmp(path, "/refund") == 0)
        world_refund(w, c);
    else if (path[1] == 'n' && path[2] >= '0' && path[2] < '0' + MAX_WORLD_NODES) {
        int node = path[2] - '0';
        if (strcmp(path + 3, "/attest") == 0)
            world_evidence(w, node, c);
        else if (strcmp(path + 3, "/") == 0)
            world_infer(w, node, c);
        else
            st_http_reply(c, 200, NULL, NULL, "ok", 2);
    } else
        st_role_refuse(c, 404);
}

/* ---- life ---- */

static struct world world;

static inline const char *private_file(const char *name, const char *text)
{
    const char *path = made_file(&world.files, name, text);
    assert_int_equal(chmod(path, 0600), 0);
    return path;
}

static inline const char *world_policy(const char *name, const char *more)
{
    struct st_buf b = {0}, keys[3] = {{0}};
    st_note_key_write(&world.w.keys.log, &keys[0]);
    for (int i = 0; i < 2; i++)
        st_note_key_write(&world.w.keys.witnesses[i], &keys[1 + i]);
    st_buf_addf(&b,
                "{\"version\":1,\"require\":[\"sim\"],\"sim_root\":\"%s\"%s,\"log\":{\"origin\":\"%s\",\"key\":\"%s\","
                "\"witnesses\":[\"%s\",\"%s\"],\"quorum\":2}}",
                SIM_ROOT, more, LOG_ORIGIN, keys[0].p, keys[1].p, keys[2].p);
    const char *path = made_file(&world.files, name, b.p);
    st_buf_free(&b);
    for (int i = 0; i < 3; i++)
        st_buf_free(&keys[i]);
    return path;
}

static inline struct st_collection *sim_of(const char *file)
{
    struct st_err e;
    struct st_collection *c;
    static const char *const kinds[] = {"sim"};
    const struct st_collect_opts o = {.sim_key = file};
    assert_ok(st_collection_open(kinds, 1, &o, &c, &e), &e);
    return c;
}

static inline void world_open(void)
{
    struct st_err e;
    const struct timeval often = {0, 10 * 1000};
    char other[] = SIM_SEED;
    other[0] = '0';
    log_world_open(&world.w);
    world.files = made_dir();
    world.store = log_store_new(&world.w, "log");
    world.n_chunks = 3;
    pthread_mutex_init(&world.lock, NULL);
    assert_ok(st_blind_rsa_new(2048, &world.key, &e), &e);
    world.sim = sim_of(private_file("sim.key", SIM_SEED));
    world.stranger = sim_of(private_file("other.key", other));
    world.policy = world_policy("policy.json", "");
    world.log_key = private_file("log.key", "submitter\n");
    world.issuer_key = private_file("issuer.key", "gateway\n");
    world_directory(&world);
    assert_ok(st_role_new(&world.role, &e), &e);
    const struct st_role_opts o = {.request = world_request, .arg = &world, .max_body = 8u << 20};
    assert_ok(st_role_listen(world.role, &o, &e), &e);
    world.tick = event_new(st_role_base(world.role), -1, EV_PERSIST, world_tick, &world);
    event_add(world.tick, &often);
    assert_ok(st_role_start(world.role, &e), &e);
}

static inline void world_close(void)
{
    st_role_stop(world.role);
    event_free(world.tick);
    st_role_free(world.role);
    st_collection_close(world.sim);
    st_collection_close(world.stranger);
    st_log_store_close(world.store);
    st_blind_rsa_free(world.key);
    made_dir_remove(&world.files);
    log_world_close(&world.w);
    st_buf_free(&world.part[0]);
    st_buf_free(&world.part[1]);
    st_buf_free(&world.directory);
    st_buf_free(&world.last_body);
}

/* ---- the gateway ---- */

struct rig {
    struct st_gateway *g;
    char nodes[MAX_WORLD_NODES][96];
    const char *node[MAX_WORLD_NODES];
    struct st_gateway_opts o;
};

static inline void rig_opts(struct rig *r, int n_node, const char *spent)
{
    *r = (struct rig){0};
    for (int i = 0; i < n_node; i++) {
        snprintf(r->nodes[i], sizeof r->nodes[i], "%s/n%d model=demo place=%d", st_role_url(world.role), i, i);
        r->node[i] = r->nodes[i];
        world.mode[i] = NODE_ANSWERS;
        world.n_asked[i] = 0;
    }
    world.n_chunks = 3;
    world.n_refund = world.issuer_down = 0;
    pthread_mutex_lock(&world.lock);
    st_buf_clear(&world.part[0]);
    st_buf_clear(&world.part[1]);
    pthread_mutex_unlock(&world.lock);
    r->o = (struct st_gateway_opts){.name = "eu1",
                                    .nodes = r->node,
                                    .n_node = (size_t)n_node,
                                    .policy = world.policy,
                                    .log = st_role_url(world.role),
                                    .log_key_file = world.log_key,
                                    .issuer = st_role_url(world.role),
                                    .issuer_key_file = world.issuer_key,
                                    .price_request = 1,
                                    .unit_bytes = 32,
                                    .spent = {.where = spent},
                                    .refresh_s = 0.1,
                                    .health_s = 0.1,
                                    .evidence_s = 1000,
                                    .connect_s = 2,
                                    .stall_s = 5};
}

static inline size_t add_reply(char *p, size_t size, size_t n, void *arg)
{
    st_buf_add(arg, p, size * n);
    return size * n;
}

/* One blocking exchange with an HTTP server; the status. body NULL = GET. */
static inline long http(const char *url, const struct st_buf *body, const char *type, struct st_buf *reply)
{
    long status = 0;
    char line[96];
    CURL *h = curl_easy_init();
    struct curl_slist *fields = NULL;
    snprintf(line, sizeof line, "Content-Type: %s", type ? type : "");
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_TIMEOUT, 20L);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, add_reply);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, reply);
    if (body) {
        fields = curl_slist_append(curl_slist_append(fields, line), "Expect:");
        curl_easy_setopt(h, CURLOPT_HTTPHEADER, fields);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, body->p);
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE, (long)body->len);
    }
    if (curl_easy_perform(h) == CURLE_OK)
        curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(fields);
    curl_easy_cleanup(h);
    return status;
}

/* Until /health says so, 200 or 503. */
static inline void wait_health(const struct rig *r, long want)
{
    char url[96];
    long got = 0;
    snprintf(url, sizeof url, "%s/health", st_role_url(st_gateway_role(r->g)));
    for (int i = 0; i < 500 && got != want; i++) {
        struct st_buf b = {0};
        got = http(url, NULL, NULL, &b);
        st_buf_free(&b);
        if (got != want)
            usleep(10 * 1000);
    }
    assert_int_equal(got, want);
}

static inline void rig_open(struct rig *r)
{
    struct st_err e;
    assert_ok(st_gateway_new(&r->o, &r->g, &e), &e);
    assert_ok(st_role_start(st_gateway_role(r->g), &e), &e);
}

static inline void rig_start(struct rig *r, int n_node)
{
    rig_opts(r, n_node, ":memory:");
    rig_open(r);
    wait_health(r, 200);
}

static inline void rig_stop(struct rig *r)
{
    st_role_stop(st_gateway_role(r->g));
    st_gateway_free(r->g);
}

/* A gateway's row as the log has it. */
static inline struct st_directory row_of(int gateway)
{
    struct st_directory d;
    struct st_err e;
    pthread_mutex_lock(&world.lock);
    assert_ok(st_directory_parse_part(world.part[gateway].p, world.part[gateway].len, "part", &d, &e), &e);
    pthread_mutex_unlock(&world.lock);
    return d;
}

static inline struct st_directory world_row(void)
{
    return row_of(0);
}

/* ---- a client ---- */

static inline void new_token(uint32_t day, uint32_t units, struct st_token *t)
{
    struct st_token_blank b;
    struct st_err e;
    uint8_t answer[ST_BLIND_RSA_MAX];
    assert_ok(st_token_begin(world.key, day, units, &b, &e), &e);
    assert_ok(st_blind_rsa_sign(world.key, b.blinded, b.len, answer, &e), &e);
    assert_ok(st_token_finish(&b, world.key, (struct st_span){answer, b.len}, t, &e), &e);
}

struct question {
    const char *method, *path;
    const struct st_token *token;
    bool change;
    struct st_span content;
    const char *authority;
    int gateway; /* 1: eu2 */
};
struct answer {
    long outer; /* status; the rest counts when it is 200 */
    unsigned status;
    struct st_buf content, type, checkpoint;
    char charged[16], error[16], code[32];
    uint32_t change; /* units that came back, all verified */
    size_t n_chunk, final_len;
    struct st_buf raw;
};

static inline void answer_wipe(struct answer *a)
{
    st_buf_free(&a->content);
    st_buf_free(&a->type);
    st_buf_free(&a->checkpoint);
    st_buf_free(&a->raw);
    *a = (struct answer){0};
}

struct sealed {
    struct st_ohttp x;
    struct st_buf body;
    struct st_token_blank blank[ST_CHANGE_MAX];
    struct st_change_ask ask;
};

static inline void add_base64_field(struct st_bhttp_head *h, struct st_bhttp_field *f, const char *name,
                                    struct st_buf *bytes, struct st_buf *text)
{
    st_base64_encode(bytes->p, bytes->len, text);
    f[h->fields.n++] = (struct st_bhttp_field){{(const uint8_t *)name, strlen(name)}, {(uint8_t *)text->p, text->len}};
    st_buf_free(bytes);
}

#define Z(z) ((struct st_span){(const uint8_t *)(z), strlen(z)})

static inline void seal(const struct question *q, struct sealed *s)
{
    struct st_err e;
    struct st_buf text = {0}, bytes = {0}, token = {0}, change = {0};
    struct st_bhttp_field f[2];
    struct st_bhttp_head h = {.method = Z(q->method),
                              .scheme = Z("https"),
                              .authority = Z(q->authority ? q->authority : "gateway"),
                              .path = Z(q->path),
                              .fields = {f, 0}};
    struct st_ohttp_config configs[ST_OHTTP_CONFIGS_MAX];
    struct st_directory d = row_of(q->gateway);
    size_t n;
    memset(s, 0, sizeof *s);
    if (q->token) {
        st_token_write(q->token, &bytes);
        add_base64_field(&h, f, "token", &bytes, &token);
    }
    if (q->change) {
        st_change_plan(q->token->units, today(), &s->ask);
        for (size_t i = 0; i < s->ask.n; i++) {
            assert_ok(st_token_begin(world.key, today(), s->ask.of[i].units, &s->blank[i], &e), &e);
            s->ask.of[i].blinded = (struct st_span){s->blank[i].blinded, s->blank[i].len};
        }
        st_change_ask_write(&s->ask, &bytes);
        add_base64_field(&h, f, "change", &bytes, &change);
    }
    assert_ok(st_bhttp_write(&text, ST_BHTTP_REQUEST, &h, q->content, (struct st_bhttp_fields){0}, &e), &e);
    st_bhttp_pad(&text, 0, st_bhttp_bucket(text.len));
    assert_ok(st_ohttp_config_parse_list(d.gateways[0].keys, configs, &n, &e), &e);
    assert_ok(st_ohttp_client(&s->x, ST_OHTTP_CHUNKED, &configs[0], 0, &s->body, &e), &e);
    assert_ok(st_ohttp_seal_all(&s->x, text.p, text.len, &s->body, &e), &e);
    st_directory_wipe(&d);
    st_buf_free(&text);
    st_buf_free(&token);
    st_buf_free(&change);
}

static inline void sealed_wipe(struct sealed *s)
{
    st_ohttp_wipe(&s->x);
    st_buf_free(&s->body);
}

/* The change that came back: each signature unblinds to a token. */
static inline void take_change(const struct sealed *s, struct st_span text, struct answer *a)
{
    struct st_buf bytes = {0};
    struct st_change_answer list;
    struct st_token t;
    struct st_err e;
    assert_true(st_base64_decode((const char *)text.p, text.len, &bytes));
    assert_ok(st_change_answer_parse((struct st_span){(uint8_t *)bytes.p, bytes.len}, &list, &e), &e);
    for (size_t i = 0; i < list.n; i++) {
        assert_true(list.of[i].place < s->ask.n);
        assert_ok(st_token_finish(&s->blank[list.of[i].place], world.key, list.of[i].signature, &t, &e), &e);
        a->change += t.units;
    }
    st_buf_free(&bytes);
}

static inline void copy_text(struct st_span from, char *out, size_t cap)
{
    snprintf(out, cap, "%.*s", (int)from.len, (const char *)from.p);
}

static inline void unseal(struct sealed *s, struct answer *a)
{
    static const struct st_bhttp_limits limits = {
        .head = 32 << 10, .n_fields = 8, .content = 8 << 20, .padding = 8 << 20};
    struct st_bhttp_reader r;
    struct st_err e;
    struct st_span in = {(uint8_t *)a->raw.p, a->raw.len}, text, content, v;
    bool end = false;
    assert_ok(st_bhttp_reader_init(&r, ST_BHTTP_RESPONSE, &limits, &e), &e);
    while (!end) {
        end = in.len == 0;
        assert_ok(end ? st_ohttp_open_end(&s->x, &text, &e) : st_ohttp_open(&s->x, &in, &text, &e), &e);
        a->n_chunk += text.len > 0;
        a->final_len = text.len ? text.len : a->final_len;
        while (text.len) {
            assert_ok(st_bhttp_read(&r, &text, &content, &e), &e);
            st_buf_add(&a->content, content.p, content.len);
        }
    }
    assert_ok(st_bhttp_read_end(&r, &e), &e);
    a->status = st_bhttp_head(&r)->status;
    const struct st_bhttp_fields trailers = st_bhttp_trailers(&r);
    if (st_bhttp_find(st_bhttp_head(&r)->fields, "content-type", &v))
        st_buf_add(&a->type, v.p, v.len);
    if (st_bhttp_find(st_bhttp_head(&r)->fields, "checkpoint", &v))
        st_buf_add(&a->checkpoint, v.p, v.len);
    if (st_bhttp_find(trailers, "charged", &v))
        copy_text(v, a->charged, sizeof a->charged);
    if (st_bhttp_find(trailers, "error", &v))
        copy_text(v, a->error, sizeof a->error);
    if (st_bhttp_find(trailers, "change", &v))
        take_change(s, v, a);
    if (a->status != 200 && a->content.len)
        (void)sscanf(a->content.p, "{\"error\":{\"code\":\"%31[a-z_]", a->code);
    st_bhttp_reader_wipe(&r);
}

static inline struct answer ask(const struct rig *r, const struct question *q)
{
    struct sealed s;
    struct answer a = {0};
    seal(q, &s);
    a.outer = http(st_role_url(st_gateway_role(r->g)), &s.body, "message/ohttp-chunked-req", &a.raw);
    if (a.outer == 200)
        unseal(&s, &a);
    sealed_wipe(&s);
    return a;
}

/* The path of a node in the directory. */
static inline const char *path_at(int gateway, int i, const char *behind)
{
    static char path[4][96];
    static int n;
    char id[2 * ST_NODE_ID + 1];
    struct st_directory d = row_of(gateway);
    assert_true(i < (int)d.gateways[0].n_node);
    st_hex(d.gateways[0].nodes[i].id, ST_NODE_ID, id);
    st_directory_wipe(&d);
    n = (n + 1) % 4;
    snprintf(path[n], sizeof path[n], "/nodes/%s%s", id, behind);
    return path[n];
}

static inline const char *node_path(int i, const char *behind)
{
    return path_at(0, i, behind);
}

/* A sealed request, as far as a gateway can see. */
static inline struct st_span some_request(void)
{
    static const uint8_t p[64] = {7, 0, 32, 0, 1, 0, 1};
    return (struct st_span){p, sizeof p};
}

/* A paid request to the first node with a new token. */
static inline struct answer pay(const struct rig *r, uint32_t units, bool change)
{
    struct st_token t;
    new_token(today(), units, &t);
    return ask(r, &(struct question){"POST", node_path(0, ""), &t, change, some_request(), NULL, 0});
}

#endif

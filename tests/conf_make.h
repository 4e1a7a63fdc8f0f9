/* The far side of the confidential protection, made for tests: relay, gateway, nodes with simulated evidence, issuer
 * and log in one process on one event base, which can go wrong at any place. Include expect.h first. */
#ifndef ST_TESTS_CONF_MAKE_H
#define ST_TESTS_CONF_MAKE_H

#include "attest/binding.h"
#include "attest/ev_sim.h"
#include "attest/policy.h"
#include "channel/confidential.h"
#include "channel/issue.h"
#include "channel/receipt.h"
#include "channel/reply.h"
#include "crypto/digest.h"
#include "log_world.h"
#include "service/role.h"
#include "text/base64.h"
#include "text/json.h"

#include <event2/event.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAR_NODES 4
#define FAR_MODEL "demo"
#define FAR_PRICE 2
#define FAR_UNIT_BYTES 4096

/* What goes wrong. */
enum far_wrong {
    FAR_RIGHT,
    FAR_OTHER_BUNDLE, /* the gateway gives other evidence than the directory names */
    FAR_OTHER_KEY,    /* the bundle names a key that its evidence does not */
    FAR_NO_NOTE,      /* evidence comes without the checkpoint of its nonce */
    FAR_OTHER_NOTE,   /* .. with another checkpoint */
    FAR_FLIP_OUTER,   /* a byte of what the gateway seals */
    FAR_FLIP_INNER,   /* a byte of what the node seals */
    FAR_CUT,          /* the reply ends in the middle, cleanly in HTTP */
    FAR_BREAK,        /* .. by a connection that breaks */
    FAR_NO_RECEIPT,
    FAR_RECEIPT_KEY,   /* signed by another key */
    FAR_RECEIPT_REPLY, /* of another reply */
    FAR_REFUSE_400,    /* the relay's answer to what does not open */
    FAR_402,
    FAR_502,
    FAR_ENGINE_503, /* the node's engine is not there */
    FAR_SILENT,     /* nothing comes back */
    FAR_NOT_SEALED, /* an answer in the clear */
    FAR_DEPOSIT,    /* the token is used up in the middle */
    FAR_BAD_CHANGE,
    FAR_CHALLENGE_KEY, /* challenged, it shows other keys */
};

struct far_node {
    uint8_t id[ST_NODE_ID], measurement[32], model[32];
    struct st_keyring *ring;
    struct st_ed25519 *receipt;
    struct st_buf bundle;
    int n_request;
};

struct far {
    struct log_world log;
    struct st_log_store *store;
    struct st_buf directory, note; /* the last entry; the note that evidence is made from */
    uint64_t epoch;
    int64_t log_age; /* of the witnesses' time */
    bool crowded;    /* the directory lists another gateway and another issuer, which are not there */
    bool bad_log;    /* the directory that it shows is not the one in the tree */
    struct st_role *role;
    struct st_keyring *gateway;
    struct st_ed25519 *sim;
    struct far_node node[FAR_NODES];
    size_t n_node;
    struct st_blind_rsa *rsa[ST_TOKEN_N_UNITS];
    uint32_t day;
    char policy[160], account[160], url[64];
    /* what goes wrong, and where: at all nodes, or this one only */
    enum far_wrong wrong;
    int wrong_node; /* -1 = all */
    int wrong_left; /* so many times; -1 = always */
    int n_event;    /* of a stream */
    size_t event_len;
    /* what was seen */
    int n_message, n_bundle, n_request, n_attest, n_issue, n_directory;
    uint64_t issued, spent, charged;     /* units */
    char body[4096], salt[80], path[64]; /* of the last request that a node opened */
    uint8_t seen[4096][32];              /* digests of tokens */
    size_t n_seen;
    bool twice; /* a token came again */
    /* a stream that is being sent */
    struct st_http_conn *open;
    struct event *more;
    struct st_buf left;
    size_t step; /* bytes a turn; 0 = all at once */
    int n_gone;
};

/* ---- evidence and directory ---- */

static inline bool far_is(struct far *f, enum far_wrong w, size_t node)
{
    bool hit = f->wrong == w && (f->wrong_node < 0 || (size_t)f->wrong_node == node) && f->wrong_left != 0;
    if (hit && f->wrong_left > 0)
        f->wrong_left--;
    return hit;
}

/* A bundle around the node's current keys and a nonce. */
static inline void far_collect(struct far *f, size_t i, const uint8_t nonce[32], struct st_buf *out)
{
    struct far_node *n = &f->node[i];
    const struct st_ohttp_config *c = st_keyring_current(n->ring);
    uint8_t report[ST_SIM_LEN];
    struct st_sim s = {.svn = 1, .time = st_unix_time()};
    struct st_err e;
    struct st_bundle b = {.n_item = 1, .has_binding = true};
    b.binding = (struct st_binding){.suite = {c->kem, c->suites[0].kdf, c->suites[0].aead},
                                    .hpke_key_len = st_hpke_public_len(c->kem),
                                    .nonce_len = 32,
                                    .has_model = true};
    memcpy(b.binding.hpke_key, c->public, b.binding.hpke_key_len);
    memcpy(b.binding.nonce, nonce, 32);
    memcpy(b.binding.model, n->model, 32);
    st_ed25519_public(n->receipt, b.binding.receipt_key);
    b.items[0].kind = "sim";
    assert_ok(st_binding_report_data(&b, 0, s.report_data, &e), &e);
    memcpy(s.measurement, n->measurement, 32);
    assert_ok(st_sim_collect(f->sim, &s, report, &e), &e);
    b.items[0].data = (struct st_span){report, sizeof report};
    if (far_is(f, FAR_OTHER_KEY, i))
        b.binding.receipt_key[0] ^= 1;
    st_buf_clear(out);
    st_bundle_write(&b, out);
}

static inline void far_write_directory(struct far *f)
{
    static struct st_directory d;
    struct st_buf keys = {0}, rsa[ST_TOKEN_N_UNITS] = {0};
    struct st_directory_node nodes[FAR_NODES];
    struct st_err e;
    memset(&d, 0, sizeof d);
    d.epoch = f->epoch;
    d.every = 1;
    d.time = (int64_t)f->epoch * d.every;
    d.n_gateway = d.n_issuer = 1;
    struct st_directory_gateway *g = &d.gateways[0];
    snprintf(g->name, sizeof g->name, "east");
    st_ohttp_config_add_list(&keys, st_keyring_current(f->gateway), 1);
    g->keys = (struct st_span){(uint8_t *)keys.p, keys.len};
    g->price_request = FAR_PRICE;
    g->unit_bytes = FAR_UNIT_BYTES;
    g->nodes = nodes;
    g->n_node = f->n_node;
    memset(nodes, 0, sizeof nodes);
    for (size_t i = 0; i < f->n_node; i++) {
        memcpy(nodes[i].id, f->node[i].id, ST_NODE_ID);
        snprintf(nodes[i].tags[0], sizeof nodes[i].tags[0], "model=" FAR_MODEL);
        nodes[i].n_tag = 1;
        st_sha256(f->node[i].bundle.p, f->node[i].bundle.len, nodes[i].bundle);
    }
    struct st_directory_issuer *is = &d.issuers[0];
    snprintf(is->name, sizeof is->name, "bank");
    for (size_t u = 0; u < ST_TOKEN_N_UNITS; u++) {
        size_t len;
        char *der = st_buf_room(&rsa[u], ST_BLIND_RSA_DER_MAX);
        assert_ok(st_blind_rsa_write_public(f->rsa[u], (uint8_t *)der, &len, &e), &e);
        for (uint32_t day = f->day; day < f->day + 2; day++)
            is->keys[is->n_key++] = (struct st_directory_key){day, st_token_units[u], {(uint8_t *)der, len}};
    }
    if (f->crowded) {
        d.gateways[d.n_gateway] = *g;
        snprintf(d.gateways[d.n_gateway].name, sizeof g->name, "west");
        d.gateways[d.n_gateway++].n_node = 0;
        d.issuers[d.n_issuer] = *is;
        snprintf(d.issuers[d.n_issuer++].name, sizeof is->name, "casino");
    }
    st_buf_clear(&f->directory);
    assert_ok(st_directory_write(&d, &f->directory, &e), &e);
    st_buf_free(&keys);
    for (size_t u = 0; u < ST_TOKEN_N_UNITS; u++)
        st_buf_free(&rsa[u]);
}

/* A checkpoint of what the log has, as a nonce for evidence. */
static inline void far_nonce(struct far *f, const char *last, uint8_t out[32])
{
    struct st_log_reply a;
    struct st_witnessed w;
    struct st_err e;
    log_answer(&f->log, f->store, last, 0, st_unix_time() - f->log_age, 2, &a);
    st_buf_clear(&f->note);
    st_buf_add(&f->note, a.note.p, a.note.len);
    assert_ok(st_checkpoint_open(a.note.p, a.note.len, &f->log.keys, st_unix_time(), &w, &e), &e);
    memcpy(out, w.digest, 32);
    st_log_reply_wipe(&a);
}

/* New evidence of all nodes and a new directory: what a gateway and a log do in an epoch. */
static inline void far_publish(struct far *f)
{
    uint8_t nonce[32];
    f->epoch++;
    if (f->directory.len == 0) {
        log_append(f->store, "a beginning");
        far_nonce(f, "a beginning", nonce);
    } else
        far_nonce(f, f->directory.p, nonce);
    for (size_t i = 0; i < f->n_node; i++)
        far_collect(f, i, nonce, &f->node[i].bundle);
    far_write_directory(f);
    log_append(f->store, f->directory.p);
}

/* ---- the gateway ---- */

struct far_message {
    struct st_ohttp x;
    struct st_bhttp_reader reader;
    struct st_buf content;
};

static inline bool far_open_message(struct st_keyring *ring, const void *p, size_t len, struct far_message *m)
{
    const struct st_bhttp_limits limits = {
        .head = 16384, .n_fields = 16, .n_interim = 1, .content = 4 << 20, .padding = 4 << 20};
    struct st_span in = {p, len}, text, piece;
    struct st_err e;
    bool ok = true, last = false;
    *m = (struct far_message){0};
    assert_ok(st_bhttp_reader_init(&m->reader, ST_BHTTP_REQUEST, &limits, &e), &e);
    st_ohttp_server(&m->x, ST_OHTTP_CHUNKED, ring, 0);
    while (ok && !last) {
        last = in.len == 0;
        ok = (last ? st_ohttp_open_end(&m->x, &text, &e) : st_ohttp_open(&m->x, &in, &text, &e)) == 0;
        while (ok && text.len) {
            ok = st_bhttp_read(&m->reader, &text, &piece, &e) == 0;
            if (ok && piece.len)
                st_buf_add(&m->content, piece.p, piece.len);
        }
    }
    return ok && st_bhttp_read_end(&m->reader, &e) == 0;
}

static inline void far_close_message(struct far_message *m)
{
    st_ohttp_wipe(&m->x);
    st_bhttp_reader_wipe(&m->reader);
    st_buf_free(&m->content);
}

static inline struct st_span far_text(const char *s)
{
    return (struct st_span){(const uint8_t *)s, strlen(s)};
}

/* Seals a whole reply of the gateway's: pieces of 1000 bytes of content, so that a stream has several chunks. */
static inline void far_seal(struct far *f, struct far_message *m, unsigned status, struct st_bhttp_fields fields,
                            const struct st_buf *content, struct st_bhttp_fields trailers, struct st_buf *out)
{
    const struct st_bhttp_head head = {.status = status, .fields = fields};
    struct st_buf text = {0};
    struct st_err e;
    size_t at = 0;
    assert_ok(st_bhttp_begin(&text, ST_BHTTP_RESPONSE, &head, &e), &e);
    assert_ok(st_ohttp_reply(&m->x, out, &e), &e);
    do {
        size_t n = content->len - at < 1000 ? content->len - at : 1000;
        st_bhttp_add_content(&text, content->p + at, n);
        at += n;
        if (at < content->len) {
            assert_ok(st_ohttp_seal(&m->x, text.p, text.len, false, out, &e), &e);
            st_buf_clear(&text);
        }
    } while (at < content->len);
    if (f->wrong == FAR_CUT && out->len > 200 && far_is(f, FAR_CUT, 0)) {
        out->len -= out->len / 3;
        st_buf_free(&text);
        return;
    }
    assert_ok(st_bhttp_end(&text, trailers, &e), &e);
    assert_ok(st_ohttp_seal(&m->x, text.p, text.len, true, out, &e), &e);
    st_buf_free(&text);
}

static inline void far_error(struct far *f, struct far_message *m, unsigned status, const char *word,
                             struct st_bhttp_fields trailers, struct st_buf *out)
{
    struct st_buf body = {0};
    st_buf_addf(&body, "{\"error\": {\"code\": \"%s\"}}", word);
    far_seal(f, m, status, (struct st_bhttp_fields){0}, &body, trailers, out);
    st_buf_free(&body);
}

static inline int far_find_node(const struct far *f, const char *hex)
{
    char id[2 * ST_NODE_ID + 1];
    for (size_t i = 0; i < f->n_node; i++) {
        st_hex(f->node[i].id, ST_NODE_ID, id);
        if (strncmp(id, hex, 2 * ST_NODE_ID) == 0)
            return (int)i;
    }
    return -1;
}

static inline void far_give_bundle(struct far *f, struct far_message *m, size_t i, struct st_buf *out)
{
    struct st_buf note = {0}, body = {0};
    f->n_bundle++;
    st_base64_encode(f->note.p, f->note.len, &note);
    if (far_is(f, FAR_OTHER_NOTE, i)) {
        struct st_log_reply a;
        st_buf_clear(&note);
        log_answer(&f->log, f->store, f->directory.p, 0, st_unix_time(), 2, &a);
        st_base64_encode(a.note.p, a.note.len, &note);
        st_log_reply_wipe(&a);
    }
    st_buf_add(&body, f->node[i].bundle.p, f->node[i].bundle.len);
    if (far_is(f, FAR_OTHER_BUNDLE, i))
        st_buf_add_str(&body, " ");
    const struct st_bhttp_field field = {far_text(ST_GATEWAY_FIELD_CHECKPOINT), {(uint8_t *)note.p, note.len}};
    far_seal(f, m, 200, (struct st_bhttp_fields){&field, far_is(f, FAR_NO_NOTE, i) ? 0 : 1}, &body,
             (struct st_bhttp_fields){0}, out);
    st_buf_free(&note);
    st_buf_free(&body);
}

/* Takes the token, and gives back what `charged` leaves of it, as text of the field. */
static inline void far_settle(struct far *f, const struct far_message *m, uint64_t charged, struct st_buf *change)
{
    struct st_span field;
    struct st_buf bytes = {0}, ask_bytes = {0};
    struct st_token t;
    struct st_change_ask ask;
    struct st_change_answer answer = {0};
    struct st_err e;
    uint16_t place[ST_CHANGE_MAX];
    static uint8_t signature[ST_CHANGE_MAX][ST_BLIND_RSA_MAX];
    uint8_t digest[32];
    int u = 0;
    assert_true(st_bhttp_find(st_bhttp_head(&m->reader)->fields, ST_GATEWAY_FIELD_TOKEN, &field));
    assert_true(st_base64_decode((const char *)field.p, field.len, &bytes));
    assert_ok(st_token_parse((struct st_span){(uint8_t *)bytes.p, bytes.len}, &t, &e), &e);
    while (st_token_units[u] != t.units)
        u++;
    assert_ok(st_token_verify(&t, f->rsa[u], &e), &e);
    st_token_digest(&t, digest);
    for (size_t i = 0; i < f->n_seen; i++)
        f->twice = f->twice || memcmp(f->seen[i], digest, 32) == 0;
    assert_true(f->n_seen < 4096);
    memcpy(f->seen[f->n_seen++], digest, 32);
    charged = charged > t.units ? t.units : charged;
    f->spent += t.units;
    f->charged += charged;
    assert_true(st_bhttp_find(st_bhttp_head(&m->reader)->fields, ST_GATEWAY_FIELD_CHANGE, &field));
    assert_true(st_base64_decode((const char *)field.p, field.len, &ask_bytes));
    assert_ok(st_change_ask_parse((struct st_span){(uint8_t *)ask_bytes.p, ask_bytes.len}, &ask, &e), &e);
    answer.n = charged < t.units ? st_change_pick(&ask, t.units - (uint32_t)charged, place) : 0;
    for (size_t i = 0; i < answer.n; i++) {
        u = 0;
        while (st_token_units[u] != ask.of[place[i]].units)
            u++;
        assert_ok(
            st_blind_rsa_sign(f->rsa[u], ask.of[place[i]].blinded.p, ask.of[place[i]].blinded.len, signature[i], &e),
            &e);
        answer.of[i].place = place[i];
        answer.of[i].signature = (struct st_span){signature[i], st_blind_rsa_len(f->rsa[u])};
    }
    if (answer.n && far_is(f, FAR_BAD_CHANGE, 0))
        signature[0][9] ^= 1;
    st_buf_clear(&bytes);
    st_change_answer_write(&answer, &bytes);
    st_base64_encode(bytes.p, bytes.len, change);
    st_buf_free(&bytes);
    st_buf_free(&ask_bytes);
}

/* ---- a node ---- */

static inline void far_receipt(struct far *f, size_t i, const struct far_message *m, struct st_digest *hash,
                               char hex[2 * ST_RECEIPT_LEN + 1])
{
    struct st_receipt r = {.time = st_unix_time()};
    uint8_t bytes[ST_RECEIPT_LEN];
    struct st_ed25519 *other = NULL;
    struct st_err e;
    st_sha256(m->content.p, m->content.len, r.request);
    st_digest_end(hash, r.reply);
    memcpy(r.model, f->node[i].model, 32);
    if (far_is(f, FAR_RECEIPT_REPLY, i))
        r.reply[0] ^= 1;
    if (far_is(f, FAR_RECEIPT_KEY, i))
        assert_ok(st_ed25519_new(&other, &e), &e);
    assert_ok(st_receipt_sign(&r, other ? other : f->node[i].receipt, bytes, &e), &e);
    st_hex(bytes, sizeof bytes, hex);
    if (other)
        st_ed25519_free(other);
}

/* The node's sealed reply; false when it does not open the request. */
static inline bool far_infer(struct far *f, size_t i, const struct st_buf *sealed, struct st_buf *out)
{
    struct far_message m;
    struct st_reply r;
    struct st_digest hash;
    struct st_span salt = {0};
    char hex[2 * ST_RECEIPT_LEN + 1];
    struct st_err e;
    if (!far_open_message(f->node[i].ring, sealed->p, sealed->len, &m)) {
        far_close_message(&m);
        return false;
    }
    f->node[i].n_request++;
    f->n_request++;
    assert_true(m.content.len < sizeof f->body);
    snprintf(f->body, sizeof f->body, "%s", m.content.p);
    (void)st_bhttp_find(st_bhttp_head(&m.reader)->fields, ST_NODE_FIELD_SALT, &salt);
    snprintf(f->salt, sizeof f->salt, "%.*s", (int)salt.len, salt.len ? (const char *)salt.p : "");
    bool stream = strstr(m.content.p, "\"stream\":true") != NULL, gone = far_is(f, FAR_ENGINE_503, i);
    struct st_bhttp_field type = {far_text("content-type"),
                                  far_text(stream ? "text/event-stream" : "application/json")};
    const struct st_bhttp_head head = {.status = gone ? 503 : 200, .fields = {&type, 1}};
    assert_ok(st_reply_begin(&r, &m.x, ST_CONFIDENTIAL_CHUNK, &head, out, &e), &e);
    assert_ok(st_digest_init(&hash, &e), &e);
    r.hash = &hash;
    for (int k = 0; stream && k < f->n_event; k++) {
        struct st_buf event = {0};
        st_buf_addf(&event, "data: {\"k\":%d,\"text\":\"", k);
        for (size_t c = 0; c < f->event_len; c++)
            st_buf_add(&event, "x", 1);
        st_buf_add_str(&event, "\"}\n\n");
        assert_ok(st_reply_content(&r, event.p, event.len, out, &e), &e);
        assert_ok(st_reply_flush(&r, out, &e), &e);
        st_buf_free(&event);
    }
    const char *rest = stream ? "data: [DONE]\n\n" : gone ? "{\"error\":{}}" : "{\"answer\":42}";
    assert_ok(st_reply_content(&r, rest, strlen(rest), out, &e), &e);
    assert_ok(st_reply_flush(&r, out, &e), &e);
    far_receipt(f, i, &m, &hash, hex);
    const struct st_bhttp_field receipt = {far_text(ST_RECEIPT_FIELD), far_text(hex)};
    assert_ok(st_reply_end(&r, (struct st_bhttp_fields){&receipt, far_is(f, FAR_NO_RECEIPT, i) ? 0 : 1}, out, &e), &e);
    if (far_is(f, FAR_FLIP_INNER, i))
        out->p[out->len / 2] ^= 1;
    st_reply_wipe(&r);
    far_close_message(&m);
    return true;
}

/* ---- requests ---- */

static inline void far_pay_trailer(struct far *f, struct far_message *m, uint64_t charged, const char *error,
                                   unsigned status, const struct st_buf *content, struct st_buf *out)
{
    struct st_buf change = {0};
    char units[16];
    far_settle(f, m, charged, &change);
    snprintf(units, sizeof units, "%u", (unsigned)charged);
    const struct st_bhttp_field fields[3] = {{far_text(ST_GATEWAY_FIELD_CHARGED), far_text(units)},
                                             {far_text(ST_GATEWAY_FIELD_CHANGE), {(uint8_t *)change.p, change.len}},
                                             {far_text(ST_GATEWAY_FIELD_ERROR), far_text(error ? error : "node")}};
    const struct st_bhttp_fields trailers = {fields, error ? 3 : 2};
    if (status == 200)
        far_seal(f, m, 200, (struct st_bhttp_fields){0}, content, trailers, out);
    else
        far_error(f, m, status, "node", trailers, out);
    st_buf_free(&change);
}

static inline void far_forward(struct far *f, struct far_message *m, size_t i, struct st_buf *out)
{
    struct st_buf reply = {0};
    if (far_is(f, FAR_402, i)) {
        far_error(f, m, 402, "spent", (struct st_bhttp_fields){0}, out);
        return;
    }
    if (far_is(f, FAR_502, i) || !far_infer(f, i, &m->content, &reply)) {
        far_pay_trailer(f, m, 0, NULL, 502, NULL, out);
        return;
    }
    const char *error = NULL;
    if (far_is(f, FAR_DEPOSIT, i)) {
        reply.len = reply.len * 2 / 3;
        error = "deposit";
    }
    uint64_t charged = FAR_PRICE + (reply.len + FAR_UNIT_BYTES - 1) / FAR_UNIT_BYTES;
    far_pay_trailer(f, m, charged, error, 200, &reply, out);
    st_buf_free(&reply);
}

static inline void far_attest(struct far *f, struct far_message *m, size_t i, struct st_buf *out)
{
    struct st_buf bundle = {0};
    uint8_t nonce[32];
    struct st_err e;
    f->n_attest++;
    assert_true(m->content.len > 75);
    assert_ok(st_unhex(m->content.p + 11, 64, nonce, 32, "nonce", &e), &e);
    if (far_is(f, FAR_CHALLENGE_KEY, i))
        assert_ok(st_keyring_rotate(f->node[i].ring, &e), &e);
    far_collect(f, i, nonce, &bundle);
    far_pay_trailer(f, m, FAR_PRICE, NULL, 200, &bundle, out);
    st_buf_free(&bundle);
}

static void far_on_gone(void *arg)
{
    struct far *f = arg;
    f->n_gone++;
    f->open = NULL;
    st_buf_free(&f->left);
    event_del(f->more);
}

static void far_on_more(evutil_socket_t fd, short what, void *arg)
{
    struct far *f = arg;
    (void)fd;
    (void)what;
    size_t n = f->left.len < f->step ? f->left.len : f->step;
    if (!f->open)
        return;
    st_http_stream_send(f->open, f->left.p, n);
    st_buf_drop(&f->left, n);
    const struct timeval soon = {0, 1000};
    if (f->left.len)
        event_add(f->more, &soon);
    else {
        struct st_http_conn *c = f->open;
        f->open = NULL;
        st_http_stream_end(c);
    }
}

static inline void far_answer(struct far *f, struct st_http_conn *c, struct st_buf *out)
{
    static const char type[] = "message/ohttp-chunked-res";
    if (f->wrong == FAR_BREAK && f->n_request && far_is(f, FAR_BREAK, 0)) {
        st_http_stream_begin(c, 200, NULL, type);
        st_http_stream_send(c, out->p, out->len / 2);
        st_http_stream_cut(c);
    } else if (f->step) {
        f->open = c;
        st_buf_free(&f->left);
        f->left = *out;
        *out = (struct st_buf){0};
        st_http_watch(c, &(struct st_http_watch){.gone = far_on_gone, .arg = f});
        st_http_stream_begin(c, 200, NULL, type);
        far_on_more(-1, 0, f);
    } else
        st_http_reply(c, 200, NULL, f->wrong == FAR_NOT_SEALED ? "text/html" : type, out->p, out->len);
}

static inline void far_relay(struct far *f, struct st_http_conn *c)
{
    struct far_message m;
    struct st_buf out = {0};
    struct st_span body = st_http_body(c);
    f->n_message++;
    if (!far_open_message(f->gateway, body.p, body.len, &m) || far_is(f, FAR_REFUSE_400, 0)) {
        st_http_reply(c, 400, NULL, NULL, NULL, 0);
        far_close_message(&m);
        return;
    }
    const struct st_bhttp_head *h = st_bhttp_head(&m.reader);
    char path[256];
    snprintf(path, sizeof path, "%.*s", (int)h->path.len, (const char *)h->path.p);
    int i = strncmp(path, ST_GATEWAY_PATH_NODES "/", 7) == 0 ? far_find_node(f, path + 7) : -1;
    bool post = h->method.len == 4, attest = i >= 0 && strcmp(path + 7 + 2 * ST_NODE_ID, "/attest") == 0;
    if (i < 0)
        far_error(f, &m, 404, "node", (struct st_bhttp_fields){0}, &out);
    else if (!post)
        far_give_bundle(f, &m, (size_t)i, &out);
    else if (attest)
        far_attest(f, &m, (size_t)i, &out);
    else
        far_forward(f, &m, (size_t)i, &out);
    if (post && far_is(f, FAR_FLIP_OUTER, (size_t)i))
        out.p[out.len / 2] ^= 1;
    if (post && f->wrong == FAR_SILENT)
        f->open = c;
    else
        far_answer(f, c, &out);
    st_buf_free(&out);
    far_close_message(&m);
}

static inline void far_log(struct far *f, struct st_http_conn *c)
{
    struct st_log_reply a;
    struct st_buf out = {0};
    uint64_t from = strtoull(st_http_query(c) + 5, NULL, 10);
    f->n_directory++;
    log_answer(&f->log, f->store, f->directory.p, from, st_unix_time() - f->log_age, 2, &a);
    if (f->bad_log)
        a.entry.p[a.entry.len / 2] ^= 1;
    st_log_reply_write(&a, &out);
    st_http_reply(c, 200, NULL, "application/json", out.p, out.len);
    st_buf_free(&out);
    st_log_reply_wipe(&a);
}

static inline void far_issue(struct far *f, struct st_http_conn *c)
{
    static struct st_issue ask;
    static struct st_issue_answer answer;
    static uint8_t signature[ST_ISSUE_MAX][ST_BLIND_RSA_MAX];
    struct st_buf out = {0};
    struct st_err e;
    f->n_issue++;
    assert_ok(st_issue_parse(ST_ISSUE_PURCHASE, st_http_body(c), &ask, &e), &e);
    answer = (struct st_issue_answer){.n = ask.n};
    for (size_t i = 0; i < ask.n; i++) {
        int u = 0;
        while (st_token_units[u] != ask.of[i].units)
            u++;
        f->issued += ask.of[i].units;
        assert_ok(st_blind_rsa_sign(f->rsa[u], ask.of[i].blinded.p, ask.of[i].blinded.len, signature[i], &e), &e);
        answer.signature[i] = (struct st_span){signature[i], st_blind_rsa_len(f->rsa[u])};
    }
    st_issue_answer_write(&answer, &out);
    st_http_reply(c, 200, NULL, "application/json", out.p, out.len);
    st_buf_free(&out);
    st_issue_wipe(&ask);
}

static void far_on_request(void *arg, struct st_http_conn *c)
{
    struct far *f = arg;
    const char *path = st_http_path(c);
    if (strcmp(path, "/") == 0)
        far_relay(f, c);
    else if (strcmp(path, ST_RELAY_PATH_LOG ST_LOG_PATH_DIRECTORY) == 0)
        far_log(f, c);
    else if (strcmp(path, ST_ISSUER_PATH_ISSUE) == 0)
        far_issue(f, c);
    else
        st_http_reply(c, 404, NULL, NULL, NULL, 0);
}

/* ---- life ---- */

/* A key of the issuer takes long to make: one for all tests and denominations; far_forget() at the end. */
static struct st_blind_rsa *far_rsa;

static inline void far_forget(void)
{
    st_blind_rsa_free(far_rsa);
}

static inline void far_put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0600), 0);
}

/* The client's policy: simulated evidence, one measurement, this log. more: further fields, each behind a comma. */
static inline void far_write_policy(struct far *f, unsigned min_nodes, const char *more)
{
    struct st_buf b = {0}, keys = {0};
    char hex[65], measured[65];
    uint8_t root[32];
    st_ed25519_public(f->sim, root);
    st_hex(root, 32, hex);
    st_hex(f->node[0].measurement, 32, measured);
    st_note_key_write(&f->log.keys.log, &keys);
    st_buf_addf(
        &b,
        "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"%s\", \"measurements\": {\"sim.measurement\": "
        "[\"%s\"]}, \"min_nodes\": %u, \"log\": {\"origin\": \"" LOG_ORIGIN "\", \"quorum\": 2, \"key\": \"%s\", "
        "\"witnesses\": [",
        hex, measured, min_nodes, keys.p);
    for (int i = 0; i < 2; i++) {
        st_buf_clear(&keys);
        st_note_key_write(&f->log.keys.witnesses[i], &keys);
        st_buf_addf(&b, "%s\"%s\"", i ? ", " : "", keys.p);
    }
    st_buf_addf(&b, "]}%s}", more);
    far_put_file(f->policy, b.p);
    st_buf_free(&b);
    st_buf_free(&keys);
}

static inline void far_open(struct far *f, size_t n_node)
{
    static const struct st_keyring_opts ring = {
        .kem = ST_HPKE_KEM_X25519, .aeads = {ST_AEAD_AES_128_GCM}, .n_aeads = 1, .max_requests = 10000};
    struct st_err e;
    memset(f, 0, sizeof *f);
    f->wrong_node = f->wrong_left = -1;
    f->n_event = 3;
    f->event_len = 20;
    f->n_node = n_node;
    f->day = (uint32_t)(st_unix_time() / ST_TOKEN_DAY_S);
    f->epoch = (uint64_t)st_unix_time();
    log_world_open(&f->log);
    f->store = log_store_new(&f->log, "log");
    assert_ok(st_keyring_new(&ring, &f->gateway, &e), &e);
    assert_ok(st_ed25519_new(&f->sim, &e), &e);
    if (!far_rsa)
        assert_ok(st_blind_rsa_new(2048, &far_rsa, &e), &e);
    for (size_t u = 0; u < ST_TOKEN_N_UNITS; u++)
        f->rsa[u] = far_rsa;
    for (size_t i = 0; i < n_node; i++) {
        memset(f->node[i].measurement, 0x11, 32);
        memset(f->node[i].model, 0x22, 32);
        memset(f->node[i].id, (int)(i + 1), ST_NODE_ID);
        assert_ok(st_keyring_new(&ring, &f->node[i].ring, &e), &e);
        assert_ok(st_ed25519_new(&f->node[i].receipt, &e), &e);
    }
    snprintf(f->policy, sizeof f->policy, "%s/policy", f->log.dir);
    snprintf(f->account, sizeof f->account, "%s/account", f->log.dir);
    far_put_file(f->account, "an-account-key-of-some-length-0123456789\n");
    far_write_policy(f, 1, "");
    assert_ok(st_role_new(&f->role, &e), &e);
    f->more = event_new(st_role_base(f->role), -1, 0, far_on_more, f);
    const struct st_role_opts o = {.request = far_on_request, .max_body = 5 << 20, .arg = f};
    assert_ok(st_role_listen(f->role, &o, &e), &e);
    snprintf(f->url, sizeof f->url, "%s", st_role_url(f->role));
}

static inline void far_close(struct far *f)
{
    st_role_close(f->role);
    event_free(f->more);
    st_role_free(f->role);
    for (size_t i = 0; i < f->n_node; i++) {
        st_keyring_free(f->node[i].ring);
        st_ed25519_free(f->node[i].receipt);
        st_buf_free(&f->node[i].bundle);
    }
    st_buf_free(&f->directory);
    st_buf_free(&f->note);
    st_buf_free(&f->left);
    st_keyring_free(f->gateway);
    st_ed25519_free(f->sim);
    st_log_store_close(f->store);
    log_world_close(&f->log);
}

#endif

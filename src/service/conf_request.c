#include "service/conf_request.h"
#include "base/hooks.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "channel/receipt.h"
#include "crypto/digest.h"
#include "crypto/hkdf.h"
#include "service/conf_receipts.h"
#include "service/conf_reply.h"
#include "service/conf_sealed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

enum {
    MAX_TRIES = 11,
    UNKNOWN_UNITS = 64, /* of a token, when nothing says how long the reply may be */
    TOKEN_BYTES = 8,    /* of a whole reply, for each token it may have */
    LOGPROB_BYTES = 512,
};
#define MAX_KEPT ((size_t)64 << 20) /* bytes of a reply that is kept with its receipt */

struct st_conf_request {
    struct st_passage *p;
    struct st_conf_request *prev, *next;
    struct st_passage_events ev;
    void *arg;
    char path[32], model[ST_NODE_MAX_TAG + 1];
    struct st_buf body;
    uint8_t salt_key[32], request_hash[32];
    uint32_t units;
    uint8_t tried[MAX_TRIES][ST_NODE_ID];
    size_t n_tried;
    struct st_conf_pick pick;
    struct st_conf_exchange *x;
    struct st_sealed inner;
    struct st_digest hash; /* of the reply's content */
    struct st_conf_reply reply;
    struct st_buf piece, kept; /* kept: the reply's content as it came, for --receipts */
    char refusal[48];          /* of the gateway: the beginning of its error */
    size_t refusal_len;
    bool head_told, data_told, dropped; /* dropped: this node's answer is a failure that another one may not have */
};

static void request_free(struct st_conf_request *r)
{
    *(r->prev ? &r->prev->next : &r->p->requests) = r->next;
    if (r->next)
        r->next->prev = r->prev;
    r->p->n_live--;
    if (r->x)
        st_conf_exchange_cancel(r->x);
    st_sealed_wipe(&r->inner);
    st_digest_wipe(&r->hash);
    st_conf_reply_wipe(&r->reply);
    st_buf_wipe(&r->body);
    st_buf_wipe(&r->piece);
    st_buf_wipe(&r->kept);
    OPENSSL_cleanse(r->salt_key, sizeof r->salt_key);
    free(r);
}

/* ---- what the node's reply brings ---- */

static struct st_span inner_type(const struct st_conf_request *r)
{
    const struct st_bhttp_head *h = st_bhttp_head(&r->inner.reader);
    struct st_span type = {0};
    if (h)
        (void)st_bhttp_find(h->fields, "content-type", &type);
    return type;
}

/* A node whose engine is not there, before anything was told. */
static bool worth_another(const struct st_conf_request *r, unsigned status)
{
    return status >= 502 && status <= 504 && r->n_tried <= r->p->o.n_retry;
}

static void tell_head(struct st_conf_request *r)
{
    unsigned status = st_sealed_status(&r->inner);
    struct st_span t = inner_type(r);
    char type[96];
    if (r->head_told)
        return;
    r->dropped = worth_another(r, status);
    if (r->dropped)
        return;
    snprintf(type, sizeof type, "%.*s", (int)t.len, t.len ? (const char *)t.p : "");
    r->head_told = true;
    if (!r->p->o.receipts)
        st_buf_wipe(&r->body); /* too late for another try */
    r->reply.kind = st_conf_reply_kind(type);
    r->ev.head(r->arg, (int)status, type);
}

static void tell_data(struct st_conf_request *r)
{
    if (r->piece.len && !r->dropped) {
        r->data_told = true;
        r->ev.data(r->arg, r->piece.p, r->piece.len);
    }
    st_buf_clear(&r->piece);
}

/* Content of the node's reply. */
static int on_inner(void *arg, struct st_span piece, struct st_err *e)
{
    struct st_conf_request *r = arg;
    st_digest_add(&r->hash, piece.p, piece.len);
    tell_head(r);
    if (r->dropped)
        return 0;
    if (r->p->o.receipts) {
        if (piece.len > MAX_KEPT - r->kept.len)
            return st_fail(e, ST_POLICY, "the reply is longer than the %zu bytes that are kept with a receipt",
                           MAX_KEPT);
        st_buf_add(&r->kept, piece.p, piece.len);
    }
    st_conf_reply_feed(&r->reply, piece.p, piece.len, &r->piece);
    return r->piece.failed || r->kept.failed ? st_fail(e, ST_MEMORY, "no memory for the reply") : 0;
}

/* Content of the gateway's reply: the node's sealed reply, or an error of the gateway's. */
static int on_outer(void *arg, unsigned status, struct st_span piece, struct st_err *e)
{
    struct st_conf_request *r = arg;
    if (status != 200) {
        size_t room = sizeof r->refusal - r->refusal_len, n = piece.len < room ? piece.len : room;
        memcpy(r->refusal + r->refusal_len, piece.p, n);
        r->refusal_len += n;
        return 0;
    }
    int rc = st_sealed_feed(&r->inner, piece.p, piece.len, on_inner, r, e);
    if (r->inner.x.opener.want)
        r->p->chunk = (size_t)r->inner.x.opener.want + 2;
    if (!rc)
        tell_data(r);
    return rc;
}

/* ---- the end of a try ---- */

static int check_receipt(struct st_conf_request *r, struct st_err *e)
{
    struct st_receipt want = {0};
    struct st_span text;
    uint8_t bytes[ST_RECEIPT_LEN];
    int64_t time;
    st_digest_end(&r->hash, want.reply);
    memcpy(want.key, r->pick.receipt_key, sizeof want.key);
    memcpy(want.model, r->pick.model, sizeof want.model);
    memcpy(want.request, r->request_hash, sizeof want.request);
    if (!st_bhttp_find(st_bhttp_trailers(&r->inner.reader), ST_RECEIPT_FIELD, &text))
        return st_fail(e, ST_VERIFY, "the reply came without a receipt");
    if (st_unhex((const char *)text.p, text.len, bytes, sizeof bytes, "receipt", e))
        return st_fail(e, ST_VERIFY, "receipt: want %d hexadecimal digits", 2 * ST_RECEIPT_LEN);
    int rc = st_receipt_verify((struct st_span){bytes, sizeof bytes}, &want, &time, e);
    if (rc) {
        e->code = ST_VERIFY; /* whatever is wrong with it */
        return rc;
    }
    if (r->p->o.receipts) {
        struct st_err io;
        const struct st_conf_kept k = {.dir = r->p->o.receipts,
                                       .receipt = text,
                                       .request = {(uint8_t *)r->body.p, r->body.len},
                                       .reply = {(uint8_t *)r->kept.p, r->kept.len},
                                       .time = time};
        if (st_conf_receipt_keep(&k, r->p->nodes, r->pick.bundle, &io))
            st_log(ST_LOG_WARN, "receipts: %s", io.msg);
    }
    return 0;
}

/* The gateway's word for its refusal, {"error": {"code": WORD}}; "" when it is none. */
static void refusal_word(const struct st_conf_request *r, char out[32])
{
    static const char lead[] = "{\"error\":{\"code\":\"";
    char text[sizeof r->refusal + 1];
    size_t n = 0;
    for (size_t i = 0; i < r->refusal_len; i++)
        if (r->refusal[i] != ' ' && r->refusal[i] != '\n')
            text[n++] = r->refusal[i];
    text[n] = 0;
    out[0] = 0;
    if (strncmp(text, lead, sizeof lead - 1) == 0) {
        const char *word = text + sizeof lead - 1;
        size_t len = strspn(word, "abcdefghijklmnopqrstuvwxyz_-");
        snprintf(out, 32, "%.*s", (int)len, word);
    }
}

/* What the gateway says about a node's reply in its trailer. */
static int check_outer(const struct st_conf_request *r, unsigned status, struct st_err *e)
{
    struct st_span error;
    char word[32];
    if (status != 200) {
        refusal_word(r, word);
        return status == 402
                   ? st_fail(e, ST_POLICY, "the gateway does not take the token%s%s", *word ? ": " : "", word)
                   : st_fail(e, ST_IO, "the gateway answers with status %u%s%s", status, *word ? ": " : "", word);
    }
    if (!st_conf_exchange_field(r->x, true, ST_GATEWAY_FIELD_ERROR, &error))
        return 0;
    if (error.len == 7 && memcmp(error.p, "deposit", 7) == 0)
        return st_fail(e, ST_POLICY, "the reply costs more than its token: say max_tokens, or a larger one");
    return st_fail(e, ST_IO, "the node broke its reply off");
}

static enum st_passage_fault fault_of(const struct st_err *e)
{
    return e->code == ST_VERIFY || e->code == ST_INPUT ? ST_FAULT_INTEGRITY
           : e->code == ST_IO                          ? ST_FAULT_NETWORK
                                                       : ST_FAULT_POLICY;
}

static int attempt(struct st_conf_request *r, enum st_passage_fault *fault, struct st_err *e);

static void tell_end(struct st_conf_request *r, enum st_passage_fault fault, const struct st_err *e)
{
    const struct st_passage_events ev = r->ev;
    void *arg = r->arg;
    const struct st_err err = e ? *e : (struct st_err){0};
    r->p->n_failed += e && fault == ST_FAULT_INTEGRITY;
    request_free(r);
    ev.end(arg, fault, e ? &err : NULL);
}

/* Whether another node may be asked: nothing was told to the client, the failure is of the way or of the node, and no
 * token was lost by it: each try sends one of its own, and behind a gateway that is gone all would be. */
static bool may_retry(const struct st_conf_request *r, bool settled, const struct st_err *e)
{
    return !r->head_told && settled && e->code == ST_IO && r->n_tried <= r->p->o.n_retry && r->n_tried < MAX_TRIES;
}

/* Everything that must hold before a reply counts. */
static int check_reply(struct st_conf_request *r, unsigned status, struct st_err *e)
{
    int rc = check_outer(r, status, e);
    if (!rc)
        rc = st_sealed_end(&r->inner, on_inner, r, e);
    if (rc)
        return rc;
    tell_head(r); /* a reply without content */
    if (r->dropped)
        return st_fail(e, ST_IO, "the node answers with status %u", st_sealed_status(&r->inner));
    return check_receipt(r, e);
}

static void on_failed(struct st_conf_request *r, bool settled, const struct st_err *e)
{
    enum st_passage_fault fault = fault_of(e);
    if (fault == ST_FAULT_INTEGRITY)
        st_conf_nodes_doubt(r->p->nodes, r->pick.id, e->msg);
    else
        st_conf_nodes_look(r->p->nodes);
    if (may_retry(r, settled, e)) {
        enum st_passage_fault other;
        struct st_err again;
        r->p->n_retry++;
        if (!attempt(r, &other, &again))
            return;
        /* What failed first says more than that no other node is left. */
    }
    tell_end(r, fault, e);
}

static void on_end(void *arg, unsigned status, const struct st_err *e)
{
    struct st_conf_request *r = arg;
    struct st_err err;
    int rc = 0;
    if (e) {
        err = *e;
        rc = e->code;
    } else
        rc = check_reply(r, status, &err);
    bool settled = st_conf_exchange_settled(r->x);
    r->x = NULL;
    if (rc) {
        on_failed(r, settled, &err);
        return;
    }
    r->p->n_receipt++;
    st_conf_reply_end(&r->reply, &r->piece);
    tell_data(r);
    tell_end(r, ST_FAULT_NETWORK, NULL);
}

/* ---- a try ---- */

/* What the node's engine salts its prefix cache with: one value for one conversation of one client at one node, and
 * nothing to recognise anybody by beyond that. */
static int make_salt(const struct st_conf_request *r, char hex[65], struct st_err *e)
{
    uint8_t salt[32];
    int rc = st_hkdf_expand(r->salt_key, r->pick.id, sizeof r->pick.id, salt, sizeof salt, e);
    st_hex(salt, sizeof salt, hex);
    OPENSSL_cleanse(salt, sizeof salt);
    return rc;
}

static int seal_inner(struct st_conf_request *r, struct st_buf *out, struct st_err *e)
{
    static const char type[] = "content-type", json[] = "application/json";
    char salt[65];
    int rc = make_salt(r, salt, e);
    const struct st_bhttp_field fields[] = {
        {{(const uint8_t *)type, sizeof type - 1}, {(const uint8_t *)json, sizeof json - 1}},
        {{(const uint8_t *)ST_NODE_FIELD_SALT, strlen(ST_NODE_FIELD_SALT)}, {(const uint8_t *)salt, 64}},
    };
    const struct st_sealed_request q = {.method = "POST",
                                        .authority = "node",
                                        .path = r->path,
                                        .fields = {fields, 2},
                                        .content = {(uint8_t *)r->body.p, r->body.len}};
    st_sealed_wipe(&r->inner);
    return rc ? rc : st_sealed_begin(&r->inner, r->p->way.spares, &r->pick.key, &q, ST_CHUNKS_MAX, out, e);
}

static int attempt(struct st_conf_request *r, enum st_passage_fault *fault, struct st_err *e)
{
    struct st_passage *p = r->p;
    struct st_buf sealed = {0};
    char path[96], id[2 * ST_NODE_ID + 1];
    int rc = st_conf_nodes_pick(p->nodes, r->model, r->tried, r->n_tried, &r->pick, fault, e);
    if (rc)
        return rc;
    memcpy(r->tried[r->n_tried++], r->pick.id, ST_NODE_ID);
    st_hex(r->pick.id, ST_NODE_ID, id);
    snprintf(path, sizeof path, ST_GATEWAY_PATH_NODES "/%s", id);
    r->dropped = false;
    r->refusal_len = 0;
    st_digest_wipe(&r->hash);
    st_buf_clear(&r->kept);
    st_buf_clear(&r->piece);
    rc = st_digest_init(&r->hash, e);
    if (!rc)
        rc = seal_inner(r, &sealed, e);
    const struct st_conf_exchange_opts o = {.method = "POST",
                                            .path = path,
                                            .content = &sealed,
                                            .units = r->units,
                                            .max_reply = 2 * ST_CHUNKS_MAX,
                                            .data = on_outer,
                                            .end = on_end,
                                            .arg = r};
    if (!rc)
        rc = st_conf_exchange_start(&p->way, &o, &r->x, e);
    st_buf_wipe(&sealed);
    if (rc)
        *fault = fault_of(e);
    return rc;
}

/* ---- a new request ---- */

/* How much the token should be worth: conf_client.h. */
static uint32_t deposit(const struct st_passage *p, const struct st_passage_request *q)
{
    const struct st_conf_way *way = &p->way;
    uint32_t most = st_token_units[ST_TOKEN_N_UNITS - 1];
    uint64_t each = q->stream ? p->chunk : TOKEN_BYTES;
    if (q->logprobs)
        each += LOGPROB_BYTES;
    if (!q->max_tokens)
        return way->price_request > UNKNOWN_UNITS ? way->price_request : UNKNOWN_UNITS;
    uint64_t bytes = (uint64_t)q->max_tokens * (uint64_t)(q->n > 0 ? q->n : 1) * each + 4 * p->chunk;
    uint64_t units = way->price_request + (way->unit_bytes ? (bytes + way->unit_bytes - 1) / way->unit_bytes : 0);
    return units > most ? most : units < 1 ? 1 : (uint32_t)units;
}

/* The conversation's own key: from who asks and how the conversation began, so that its next turn has the same. */
static int conversation_key(struct st_passage *p, const struct st_passage_request *q, const json_t *body,
                            uint8_t out[32], struct st_err *e)
{
    struct st_buf opening = {0};
    const json_t *messages = json_object_get(body, "messages");
    size_t i;
    json_t *m;
    if (!messages)
        return st_random(out, 32, e);
    st_buf_addf(&opening, "%s", q->client ? q->client : "");
    st_buf_add(&opening, "", 1);
    json_array_foreach((json_t *)(uintptr_t)messages, i, m)
    {
        const char *role = json_string_value(json_object_get(m, "role"));
        st_json_dump(m, &opening);
        if (role && strcmp(role, "user") == 0)
            break;
    }
    int rc = opening.failed
                 ? st_fail(e, ST_MEMORY, "no memory for the request")
                 : st_hkdf_extract((const uint8_t *)opening.p, opening.len, p->secret, sizeof p->secret, out, e);
    st_buf_wipe(&opening);
    return rc;
}

static int take_request(struct st_conf_request *r, const struct st_passage_request *q, struct st_err *e)
{
    json_t *body = NULL;
    if (q->body.len > ST_CONF_MAX_BODY)
        return st_fail(e, ST_INPUT, "the request has %zu bytes, at most %zu can be sealed", q->body.len,
                       ST_CONF_MAX_BODY);
    int rc = st_json_parse(q->body.p, q->body.len, "request body", &body, e);
    if (!rc)
        rc = conversation_key(r->p, q, body, r->salt_key, e);
    json_decref(body);
    if (rc)
        return rc;
    st_buf_add(&r->body, q->body.p, q->body.len);
    st_sha256(q->body.p, q->body.len, r->request_hash);
    snprintf(r->path, sizeof r->path, "%s", q->path);
    snprintf(r->model, sizeof r->model, "%s", q->model ? q->model : "");
    r->units = deposit(r->p, q);
    return r->body.failed ? st_fail(e, ST_MEMORY, "no memory for the request") : 0;
}

int st_conf_request_start(struct st_passage *p, const struct st_passage_request *q, const struct st_passage_events *ev,
                          void *arg, void **handle, enum st_passage_fault *fault, struct st_err *e)
{
    struct st_conf_request *r = NULL;
    *handle = NULL;
    *fault = ST_FAULT_POLICY;
    if (p->n_live >= p->o.max_live)
        return st_fail(e, ST_POLICY, "%" PRIu32 " requests are in progress", p->n_live);
    int rc = st_alloc(&r, 1, sizeof *r, "request", e);
    if (rc)
        return rc;
    r->p = p;
    r->ev = *ev;
    r->arg = arg;
    r->next = p->requests;
    if (r->next)
        r->next->prev = r;
    p->requests = r;
    p->n_live++;
    rc = take_request(r, q, e);
    if (!rc) {
        rc = attempt(r, fault, e);
        if (rc)
            st_conf_nodes_look(p->nodes); /* somebody waits for it */
    }
    if (rc)
        request_free(r);
    else
        *handle = r;
    return rc;
}

void st_conf_request_cancel(struct st_passage *p, void *handle)
{
    (void)p;
    request_free(handle);
}

void st_conf_request_pause(struct st_passage *p, void *handle, bool stop)
{
    struct st_conf_request *r = handle;
    (void)p;
    if (r->x)
        st_conf_exchange_pause(r->x, stop);
}

#include "service/release_client.h"
#include "net/http_client.h"

#include <stdlib.h>
#include <string.h>

enum { CONNECT_S = 10, STALL_S = 30 };

/* One request and its reply. */
struct post {
    struct event_base *base;
    struct st_buf reply;
    int status;
    struct st_err err;
};

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct post *t = arg;
    (void)status;
    st_buf_add(&t->reply, p, len);
    return t->reply.failed ? st_fail(e, ST_MEMORY, "out of memory") : 0;
}

static void on_end(void *arg, int status, const struct st_err *e)
{
    struct post *t = arg;
    t->status = status;
    if (e)
        t->err = *e;
    event_base_loopbreak(t->base);
}

/* body is taken over. *reply is the text of a 200. */
static int post(struct st_http_client *http, const struct st_release_client *o, const char *base, const char *path,
                struct st_buf *body, struct st_buf *reply, struct st_err *e)
{
    struct post t = {.base = st_http_client_base(http)};
    struct st_http_call *call;
    struct st_buf url = {0};
    st_buf_addf(&url, "%s%s", base, path);
    const struct st_http_call_opts h = {.url = url.p,
                                        .body = body,
                                        .stall_s = o->stall_s > 0 ? o->stall_s : STALL_S,
                                        .max_reply = ST_RELEASE_MAX_REPLY,
                                        .data = on_data,
                                        .end = on_end,
                                        .arg = &t};
    int rc = url.failed ? st_fail(e, ST_MEMORY, "out of memory") : st_http_call_start(http, &h, &call, e);
    if (!rc) {
        event_base_dispatch(t.base);
        if (t.err.code)
            rc = st_fail(e, t.err.code, "%s", t.err.msg);
        else if (t.status == 400)
            rc = st_fail(e, ST_POLICY, "it refused; its log says why");
        else if (t.status != 200)
            rc = st_fail(e, ST_IO, "it answered %d", t.status);
    }
    if (rc)
        st_buf_free(&t.reply);
    else
        *reply = t.reply;
    st_buf_free(&url);
    return rc;
}

static struct st_span span_of(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p, b->len};
}

static int get_nonce(struct st_http_client *http, const struct st_release_client *o, const char *base,
                     uint8_t nonce[ST_RELEASE_NONCE], struct st_err *e)
{
    struct st_buf body = {0}, reply = {0};
    st_buf_add_str(&body, "{}");
    int rc = post(http, o, base, "/challenge", &body, &reply, e);
    if (!rc)
        rc = st_release_challenge_parse(span_of(&reply), nonce, e);
    st_buf_free(&body);
    st_buf_free(&reply);
    return rc;
}

static int make_request(struct st_collection *c, const struct st_hpke_key *key, const uint8_t nonce[ST_RELEASE_NONCE],
                        const struct st_release_for *what, const json_t *wrap, struct st_buf *out, struct st_err *e)
{
    struct st_release_request q = {.what = *what, .wrap = wrap};
    struct st_binding b = {.suite = st_release_suite,
                           .hpke_key_len = st_hpke_public_len(st_release_suite.kem),
                           .nonce_len = ST_RELEASE_NONCE,
                           .has_model = true};
    memcpy(b.hpke_key, st_hpke_key_public(key), b.hpke_key_len);
    memcpy(b.nonce, nonce, ST_RELEASE_NONCE);
    memcpy(b.model, what->digest, sizeof b.model);
    if (st_collection_collect(c, &b, &q.evidence, e))
        return e->code;
    int rc = st_release_request_write(&q, out, e);
    st_bundle_free(&q.evidence);
    return rc;
}

static int ask(struct st_http_client *http, const struct st_release_client *o, const char *base,
               struct st_collection *c, const struct st_release_for *what, const json_t *wrap,
               struct st_secret *content_key, struct st_err *e)
{
    uint8_t nonce[ST_RELEASE_NONCE];
    struct st_hpke_key *key;
    struct st_buf body = {0}, reply = {0};
    if (st_hpke_key_new(st_release_suite.kem, &key, e))
        return e->code;
    int rc = get_nonce(http, o, base, nonce, e);
    if (!rc)
        rc = make_request(c, key, nonce, what, wrap, &body, e);
    if (!rc)
        rc = post(http, o, base, "/release", &body, &reply, e);
    if (!rc)
        rc = st_release_open(key, nonce, what, span_of(&reply), content_key, e);
    st_hpke_key_free(key);
    st_buf_free(&body);
    st_buf_free(&reply);
    return rc;
}

int st_release_ask(const struct st_release_client *o, const struct st_release_for *what, const json_t *wrap,
                   struct st_secret *content_key, struct st_err *e)
{
    const struct st_http_client_opts h = {.ca_bundle = o->ca_bundle, .connect_s = CONNECT_S, .max_idle = 1};
    struct st_collection *c = NULL;
    struct st_http_client *http = NULL;
    struct event_base *base = NULL;
    char *url = NULL;
    *content_key = (struct st_secret){0};
    int rc = st_http_base("--release", o->url, &url, e);
    if (!rc)
        rc = st_collection_open(o->kinds, o->n_kind, o->collect, &c, e);
    if (!rc && !(base = event_base_new()))
        rc = st_fail(e, ST_MEMORY, "event loop: no memory");
    if (!rc)
        rc = st_http_client_new(base, &h, &http, e);
    if (!rc && (rc = ask(http, o, url, c, what, wrap, content_key, e)))
        st_err_prefix(e, "release service %.200s", url);
    if (http)
        st_http_client_free(http);
    if (base)
        event_base_free(base);
    st_collection_close(c);
    free(url);
    return rc;
}

/* The demo of covariant obfuscation: a key, an obfuscated copy of the model, an untrusted server in a process of its
 * own that has only that copy, the proxy with the key, and a client that talks HTTP to the proxy. */
#include "base/hooks.h"
#include "cli/demo.h"
#include "cli/open.h"
#include "cli/source.h"
#include "service/gen_upstream.h"
#include "text/json.h"

#include <pthread.h>
#include <string.h>

struct covariant {
    struct st_demo *d;
    char key[128], dst[128];
    struct st_cov_source source;
    pthread_mutex_t lock;         /* guards sent and received: the tap runs on the proxy's thread */
    struct st_buf sent, received; /* as they passed */
    struct st_demo_reply reply, plain;
    double obfuscate_s;
};

static int make_checkpoint(struct covariant *c, struct st_err *e)
{
    struct st_cov_key key;
    /* f32, because in bf16 one reply of 60 tokens in eight differs from the plain one at a near-tie. */
    const struct st_cov_opts o = {.n_threads = c->d->cli->n_threads, .dtype = ST_COV_STORE_F32};
    double start = st_now();
    if (st_cov_key_create(c->key, NULL, e) || st_cov_key_load(c->key, NULL, &key, e))
        return e->code;
    int rc = st_cov_obfuscate(c->d->model, c->dst, &key, &o, e);
    st_cov_key_wipe(&key);
    c->obfuscate_s = st_now() - start;
    return rc;
}

static int start_server(struct covariant *c, char *url, size_t cap, struct st_err *e)
{
    char line[1024];
    char threads[16];
    json_t *o = NULL;
    const char *u = NULL;
    snprintf(threads, sizeof threads, "%d", c->d->cli->n_threads);
    const char *const args[] = {"serve",   c->dst,      "--ids-only", "--port=0",       "--json",          "--config=",
                                "--quiet", "--threads", threads,      "--kv-dtype=f32", "--deterministic", NULL};
    if (st_child_start(NULL, args, &c->d->child, e) || st_child_line(&c->d->child, 20, line, sizeof line, e))
        return e->code;
    int rc = st_json_parse(line, strlen(line), "sotto serve --json", &o, e);
    if (!rc)
        rc = st_json_need(o, "sotto serve --json", "url", e);
    if (!rc)
        rc = st_json_str(o, "sotto serve --json", "url", &u, e);
    if (!rc)
        snprintf(url, cap, "%s", u);
    json_decref(o);
    return rc;
}

static void tap(void *arg, bool sent, const void *p, size_t len)
{
    struct covariant *c = arg;
    pthread_mutex_lock(&c->lock);
    st_buf_add(sent ? &c->sent : &c->received, p, len);
    pthread_mutex_unlock(&c->lock);
}

/* Token ids of all arrays `key` in one JSON text: of the object itself, or of its first choice. */
static void collect_ids(const char *text, size_t len, const char *key, struct st_ids *out)
{
    json_t *o;
    struct st_err e = {0};
    size_t i;
    const json_t *id;
    if (st_json_parse(text, len, "traffic", &o, &e))
        return;
    const json_t *list = json_object_get(o, key);
    if (!list)
        list = json_object_get(json_array_get(json_object_get(o, "choices"), 0), key);
    json_array_foreach(list, i, id) st_ids_add(out, (uint32_t)json_integer_value(id));
    json_decref(o);
}

/* The ids that went over the wire, and what a reader with the public tokenizer makes of them. */
static void describe(const struct covariant *c, const struct st_ids *ids, struct st_buf *out)
{
    struct st_buf text = {0};
    struct st_err e = {0};
    st_buf_addf(out, "%zu token ids:", ids->len);
    for (size_t i = 0; i < ids->len && i < 40; i++)
        st_buf_addf(out, " %u", ids->p[i]);
    st_buf_add_str(out, ids->len > 40 ? " ..." : "");
    if (!st_tokenizer_decode(c->source.tokenizer, ids->p, ids->len, true, &text, &e) && text.p)
        st_buf_addf(out, "\n\nread with the public tokenizer:\n%s", text.p);
    st_buf_free(&text);
}

static void read_traffic(struct covariant *c)
{
    struct st_ids sent = {0}, received = {0};
    collect_ids(c->sent.p ? c->sent.p : "", c->sent.len, "prompt", &sent);
    for (char *line = c->received.p; line && *line;) {
        size_t n = strcspn(line, "\n");
        if (n > 6 && !memcmp(line, "data: ", 6))
            collect_ids(line + 6, n - 6, "token_ids", &received);
        line += n + (line[n] == '\n');
    }
    describe(c, &sent, &c->d->sent);
    describe(c, &received, &c->d->received);
    st_ids_free(&sent);
    st_ids_free(&received);
}

static void print_text(const struct covariant *c, bool equal)
{
    st_demo_print_columns(c->d, "SERVER", &c->reply.text);
    printf("protection: covariant, scheme tight. The server had the obfuscated model, never the key or the text.\n"
           "It hides nothing from a server that has the base weights (docs/covariant.md).\n"
           "%s: %zu tokens through the proxy, %zu from the plain model.\n",
           equal ? "EQUAL" : "NOT EQUAL", c->reply.ids.len, c->plain.ids.len);
}

static void print_json(const struct covariant *c, bool equal)
{
    struct st_buf b = {0};
    size_t n = c->received.len < 4096 ? c->received.len : 4096;
    st_buf_addf(&b, "{\"reply_equal\":%s,\"protect\":\"covariant\",\"scheme\":\"tight\"", equal ? "true" : "false");
    st_demo_put_field(&b, "prompt", c->d->prompt, strlen(c->d->prompt));
    st_demo_put_field(&b, "sent", c->sent.p, c->sent.len);
    st_demo_put_field(&b, "received", c->received.p, n);
    st_demo_put_field(&b, "reply", c->reply.text.p, c->reply.text.len);
    st_demo_put_field(&b, "plain_reply", c->plain.text.p, c->plain.text.len);
    st_demo_put_field(&b, "audit", c->d->audit.p, c->d->audit.len);
    st_buf_addf(&b, ",\"reply_tokens\":%zu,\"obfuscate_ms\":%.1f,\"chat_ms\":%.1f,\"total_ms\":%.1f}", c->reply.ids.len,
                c->obfuscate_s * 1e3, c->reply.seconds * 1e3, (st_now() - c->d->start) * 1e3);
    puts(b.p ? b.p : "{}");
    st_buf_free(&b);
}

static int run_all(struct covariant *c, struct st_err *e)
{
    struct st_demo *d = c->d;
    struct st_cli plain = *d->cli;
    char url[256];
    int rc;
    plain.kv_dtype = ST_DTYPE_F32;
    plain.deterministic = true;
    snprintf(c->key, sizeof c->key, "%s/key", d->tmp.path);
    snprintf(c->dst, sizeof c->dst, "%s/obfuscated", d->tmp.path);
    if ((rc = st_demo_next(d, "making a key and an obfuscated copy of the model", e)) != 0 ||
        (rc = make_checkpoint(c, e)) != 0 ||
        (rc = st_demo_next(d, "starting an untrusted server, which has only that copy", e)) != 0 ||
        (rc = start_server(c, url, sizeof url, e)) != 0 ||
        (rc = st_source_open(d->cli, d->model, c->key, c->dst, &c->source, e)) != 0 ||
        (rc = st_demo_next(d, "one chat through the proxy, which has the key", e)) != 0)
        return rc;
    const struct st_gen_upstream_opts uo = {.url = url,
                                            .cipher = &c->source.cipher,
                                            .scheme = c->source.scheme,
                                            .n_ctx = c->source.config.n_ctx,
                                            .eos = c->source.eos,
                                            .n_eos = c->source.n_eos,
                                            .tap = tap,
                                            .arg = c};
    const struct st_server_opts so = {
        .tokenizer = c->source.tokenizer, .chat = c->source.chat, .source = {st_gen_upstream_open, &uo}};
    if ((rc = st_demo_talk(d, &so, &c->reply, e)) != 0 ||
        (rc = st_demo_next(d, "the same chat with the plain model", e)) != 0 ||
        (rc = st_demo_here(d, &plain, &c->plain, e)) != 0 ||
        (rc = st_demo_audit(d, "server", c->dst, (const char *const[]){"--key", c->key, NULL}, e)) != 0)
        return rc;
    read_traffic(c);
    bool equal = st_demo_reply_equal(&c->reply, &c->plain);
    if (d->cli->json)
        print_json(c, equal);
    else
        print_text(c, equal);
    return equal ? 0 : st_fail(e, ST_VERIFY, "demo: the protected reply differs from the plain model's");
}

int st_demo_covariant(struct st_demo *d, struct st_err *e)
{
    struct covariant c = {.d = d, .lock = PTHREAD_MUTEX_INITIALIZER};
    int rc = run_all(&c, e);
    st_source_close(&c.source);
    st_buf_wipe(&c.sent);
    st_buf_wipe(&c.received);
    st_demo_reply_wipe(&c.reply);
    st_demo_reply_wipe(&c.plain);
    return rc;
}

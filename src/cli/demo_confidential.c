/* The demo of confidential nodes: every role in a process of its own, as separate parties would run them, and a node
 * that proves itself by a TPM (swtpm, where it is installed). One chat through all of them, then the same after the
 * node's machine has been tampered with. */
#include "base/hooks.h"
#include "cli/capture.h"
#include "cli/demo.h"
#include "cli/demo_parties.h"
#include "cli/http.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SAMPLE 96 /* bytes shown of what is sealed */

struct confidential {
    struct st_demo *d;
    struct st_demo_parties p;
    struct st_captured relay, node;
    struct st_demo_reply reply, plain;
    struct st_buf checks; /* of the verdict, as lines */
    size_t n_check;
    bool receipt, refused, leaked;
    char why[400];
};

/* ---- what passed ---- */

struct message {
    const char *head, *body;
    size_t head_len, len;
};

/* The longest request or reply with a Content-Length, or in chunks, of what a capture has seen. */
static struct message longest(const struct st_buf *b)
{
    struct message best = {0};
    const char *at = b->p, *end = b->p + b->len, *blank;
    while (at && at < end && (blank = memmem(at, (size_t)(end - at), "\r\n\r\n", 4))) {
        const char *length = memmem(at, (size_t)(blank - at), "Content-Length: ", 16);
        size_t len = length ? strtoul(length + 16, NULL, 10) : 0;
        blank += 4;
        if (len > (size_t)(end - blank))
            break;
        if (len > best.len)
            best = (struct message){at, blank, (size_t)(blank - at), len};
        at = blank + len;
    }
    return best;
}

static void add_hex(struct st_buf *out, const char *p, size_t len)
{
    char hex[2 * SAMPLE + 1];
    size_t n = len < SAMPLE ? len : SAMPLE;
    st_hex((const uint8_t *)p, n, hex);
    st_buf_addf(out, "%s%s", hex, len > n ? " ..." : "");
}

static void describe(struct confidential *c)
{
    struct st_demo *d = c->d;
    const struct message m = longest(&c->relay.up);
    for (size_t i = 0; i < m.head_len; i++)
        if (m.head[i] != '\r')
            st_buf_add(&d->sent, m.head + i, 1);
    st_buf_addf(&d->sent, "%zu sealed bytes: ", m.len);
    add_hex(&d->sent, m.body ? m.body : "", m.len);
    const char *body = c->relay.down.p ? memmem(c->relay.down.p, c->relay.down.len, "\r\n\r\n", 4) : NULL;
    st_buf_addf(&d->received, "%" PRIu64 " bytes in all, sealed, in pieces of one size: ", c->relay.down_bytes);
    const char *end = c->relay.down.p + c->relay.down.len;
    body =
        body ? memmem(body + 4, (size_t)(end - body) - 4, "\r\n", 2) : NULL; /* behind the length of its first piece */
    if (body)
        add_hex(&d->received, body + 2, (size_t)(end - body) - 2);
    /* Not only in this sample: nowhere in what passed. */
    const struct st_buf *seen[] = {&c->relay.up, &c->relay.down, &c->node.up, &c->node.down};
    for (size_t i = 0; i < sizeof seen / sizeof *seen; i++)
        c->leaked =
            c->leaked ||
            (seen[i]->p &&
             (memmem(seen[i]->p, seen[i]->len, d->prompt, strlen(d->prompt)) ||
              (c->reply.text.len > 16 && memmem(seen[i]->p, seen[i]->len, c->reply.text.p, c->reply.text.len))));
}

/* ---- the proxy's verdict ---- */

static int get_status(const struct confidential *c, json_t **out, struct st_err *e)
{
    char url[160];
    snprintf(url, sizeof url, "%s/sotto/status", c->p.proxy.url);
    struct st_http h = {.url = url, .timeout_s = 5};
    int rc = st_http_run(&h, e);
    if (!rc)
        rc = st_json_parse(h.body.p ? h.body.p : "", h.body.len, "/sotto/status", out, e);
    st_http_wipe(&h);
    return rc;
}

/* Name up to its last dot: "policy.tpm.pcr." of "policy.tpm.pcr.7". */
static size_t stem(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? (size_t)(dot - name) + 1 : 0;
}

/* One line per check, but one for all that differ in a number only. */
static void add_checks(struct confidential *c, const json_t *list)
{
    const char *before = "";
    size_t i;
    const json_t *check;
    json_array_foreach(list, i, check)
    {
        const char *name = json_string_value(json_object_get(check, "name"));
        const char *detail = json_string_value(json_object_get(check, "detail"));
        const char *result = json_string_value(json_object_get(check, "result"));
        if (!name || !detail || !result)
            continue;
        c->n_check++;
        size_t n = stem(name);
        if (strspn(name + n, "0123456789") == strlen(name + n) && n == stem(before) && strncmp(name, before, n) == 0)
            continue;
        bool whole = strlen(detail) <= 64; /* a digest is */
        st_buf_addf(&c->checks, "  %-6s %-26s %.*s%s\n", result, name, whole ? 64 : 61, detail, whole ? "" : "...");
        before = name;
    }
}

static int read_verdict(struct confidential *c, struct st_err *e)
{
    json_t *o = NULL;
    if (get_status(c, &o, e))
        return e->code;
    add_checks(c, json_object_get(json_array_get(json_object_get(json_object_get(o, "detail"), "nodes"), 0), "checks"));
    json_decref(o);
    return 0;
}

/* The node's first refusal that names a check, waiting for the proxy to look again. */
static int wait_refusal(struct confidential *c, struct st_err *e)
{
    const struct timespec tick = {0, 100 * 1000 * 1000};
    for (double end = st_now() + 20; st_now() < end && !c->refused; nanosleep(&tick, NULL)) {
        json_t *o = NULL;
        size_t i;
        const json_t *node;
        if (st_demo_interrupted())
            return st_fail(e, ST_INTERNAL, "demo: interrupted");
        if (get_status(c, &o, e))
            return e->code;
        json_array_foreach(json_object_get(json_object_get(o, "detail"), "nodes"), i, node)
        {
            const char *state = json_string_value(json_object_get(node, "state"));
            const char *why = json_string_value(json_object_get(node, "why"));
            c->refused = c->refused || (state && why && !strcmp(state, "refused") && strstr(why, "policy."));
            if (c->refused && !*c->why)
                snprintf(c->why, sizeof c->why, "%s", why);
        }
        json_decref(o);
    }
    return c->refused ? 0 : st_fail(e, ST_VERIFY, "demo: the proxy did not refuse the tampered node");
}

/* The same chat must get an error now, and nothing may leave towards the node. */
static int chat_is_refused(struct confidential *c, struct st_err *e)
{
    struct st_demo_reply none = {0};
    struct st_err why;
    int rc = st_demo_chat(c->d, c->p.proxy.url, false, &none, &why);
    st_demo_reply_wipe(&none);
    return rc ? 0 : st_fail(e, ST_VERIFY, "demo: the chat went to the tampered node");
}

/* ---- output ---- */

static void print_text(const struct confidential *c, bool equal)
{
    const struct message node = longest(&c->node.up);
    const bool tpm = c->p.has_tpm;
    st_demo_print_columns(c->d, "RELAY", &c->reply.text);
    printf("What each party saw of this chat:\n"
           "  relay    the address 127.0.0.1; %" PRIu64 " bytes up and %" PRIu64 " down, sealed\n"
           "  gateway  the relay's address; blind tokens; which node; %zu bytes for it, sealed\n"
           "  node     prompt and reply; the gateway's address; no account\n"
           "  issuer   the account `demo`, how many tokens it bought; not what for\n"
           "  log      keys, which are public\n\n",
           c->relay.up_bytes, c->relay.down_bytes, node.len);
    printf("Before the first byte left, the proxy checked (%zu checks, those alike once):\n%.*s\n", c->n_check,
           (int)c->checks.len, c->checks.p ? c->checks.p : "");
    printf("protection: confidential, scheme %s%s%s.\n",
           tpm ? "tpm" : "sim (proves nothing: ", tpm ? " (swtpm: a TPM in software, for this demo)" : c->p.no_tpm,
           tpm ? "" : ")");
    printf("%s: %zu bytes through the node, %zu from the engine directly. Receipt: %s.\n",
           equal ? "EQUAL" : "NOT EQUAL", c->reply.text.len, c->plain.text.len,
           c->receipt ? "verified" : "NOT VERIFIED");
    printf("TAMPERED NODE REFUSED, before anything was sent to it: %s\n", c->why);
}

static void print_json(const struct confidential *c, bool equal)
{
    const struct st_demo *d = c->d;
    const char *scheme = c->p.has_tpm ? "tpm" : "sim";
    struct st_buf b = {0};
    st_buf_addf(&b, "{\"reply_equal\":%s,\"protect\":\"confidential\",\"scheme\":\"%s\",\"verified\":\"evidence\"",
                equal ? "true" : "false", scheme);
    st_demo_put_field(&b, "prompt", d->prompt, strlen(d->prompt));
    st_demo_put_field(&b, "sent", d->sent.p, d->sent.len);
    st_demo_put_field(&b, "received", d->received.p, d->received.len);
    st_demo_put_field(&b, "audit", d->audit.p, d->audit.len);
    st_demo_put_field(&b, "reply", c->reply.text.p, c->reply.text.len);
    st_demo_put_field(&b, "plain_reply", c->plain.text.p, c->plain.text.len);
    st_demo_put_field(&b, "refusal", c->why, strlen(c->why));
    st_buf_addf(&b,
                ",\"tampered_refused\":%s,\"receipt_verified\":%s,\"checks\":%zu,\"relay_bytes_up\":%" PRIu64
                ",\"relay_bytes_down\":%" PRIu64 ",\"node_bytes_up\":%" PRIu64 ",\"chat_ms\":%.1f,\"total_ms\":%.1f}",
                c->refused ? "true" : "false", c->receipt ? "true" : "false", c->n_check, c->relay.up_bytes,
                c->relay.down_bytes, c->node.up_bytes, c->reply.seconds * 1e3, (st_now() - d->start) * 1e3);
    puts(b.p ? b.p : "{}");
    st_buf_free(&b);
}

/* ---- the demo ---- */

static int talk(struct confidential *c, struct st_err *e)
{
    struct st_captured before[2];
    st_capture_take(c->p.to_relay, &before[0]);
    st_capture_take(c->p.to_node, &before[1]);
    int rc = st_demo_chat(c->d, c->p.proxy.url, false, &c->reply, e);
    st_capture_take(c->p.to_relay, &c->relay);
    st_capture_take(c->p.to_node, &c->node);
    st_captured_wipe(&before[0]);
    st_captured_wipe(&before[1]);
    if (!rc)
        rc = st_demo_chat(c->d, c->p.engine.url, false, &c->plain, e);
    return rc;
}

static int run_all(struct confidential *c, struct st_err *e)
{
    struct st_demo *d = c->d;
    int rc;
    if ((rc = st_demo_next(d, "starting the public part: a log with its witness, an issuer of tokens", e)) != 0 ||
        (rc = st_demo_parties_public(&c->p, d, e)) != 0 ||
        (rc = st_demo_next(d, "starting the provider: an engine, a node that proves itself, a gateway", e)) != 0 ||
        (rc = st_demo_parties_provider(&c->p, e)) != 0 ||
        (rc = st_demo_next(d, "starting a relay, and the proxy with your policy", e)) != 0 ||
        (rc = st_demo_parties_client(&c->p, e)) != 0 ||
        (rc = st_demo_next(d, "one chat through proxy, relay, gateway and node", e)) != 0 || (rc = talk(c, e)) != 0 ||
        (rc = read_verdict(c, e)) != 0)
        return rc;
    c->receipt = st_demo_parties_receipt(&c->p);
    describe(c);
    if ((rc = st_demo_next(d, "the same after something else was loaded on the node's machine", e)) != 0 ||
        (rc = st_demo_parties_tamper(&c->p, e)) != 0 || (rc = wait_refusal(c, e)) != 0 ||
        (rc = chat_is_refused(c, e)) != 0 || (rc = st_demo_audit(d, "relay", NULL, NULL, e)) != 0)
        return rc;
    bool equal = c->reply.text.len && c->reply.text.len == c->plain.text.len &&
                 memcmp(c->reply.text.p, c->plain.text.p, c->plain.text.len) == 0;
    if (d->cli->json)
        print_json(c, equal);
    else
        print_text(c, equal);
    if (c->leaked)
        return st_fail(e, ST_VERIFY, "demo: prompt or reply passed in the open");
    if (!c->receipt)
        return st_fail(e, ST_VERIFY, "demo: the receipt of the reply does not verify");
    return equal ? 0 : st_fail(e, ST_VERIFY, "demo: the reply differs from the engine's own");
}

int st_demo_confidential(struct st_demo *d, struct st_err *e)
{
    struct confidential c = {.d = d};
    int rc = run_all(&c, e);
    st_demo_parties_end(&c.p);
    st_captured_wipe(&c.relay);
    st_captured_wipe(&c.node);
    st_demo_reply_wipe(&c.reply);
    st_demo_reply_wipe(&c.plain);
    st_buf_free(&c.checks);
    return rc;
}

/* sotto status: asks a running endpoint what it serves and how it is protected. */
#include "cli/cli.h"
#include "cli/http.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>

struct status_opts {
    const char *url;
};

enum { KEY_URL = ST_KEY(0) };

static const struct argp_option options[] = {
    {"url", KEY_URL, "URL", 0, "Endpoint; default: the proxy on port 7788, else the server on 7789", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    (void)key;
    (void)e;
    ((struct status_opts *)opts)->url = arg;
    return 0;
}

static int get(const char *base, const char *path, struct st_http *h, json_t **out, struct st_err *e)
{
    struct st_buf url = {0};
    size_t n = strlen(base);
    while (n && base[n - 1] == '/')
        n--;
    if (n > 3 && !memcmp(base + n - 3, "/v1", 3))
        n -= 3;
    st_buf_add(&url, base, n);
    st_buf_add_str(&url, path);
    *h = (struct st_http){.url = url.p, .timeout_s = 5};
    *out = NULL;
    int rc = url.failed ? st_fail(e, ST_MEMORY, "no memory") : st_http_run(h, e);
    if (!rc)
        rc = st_json_parse(h->body.p ? h->body.p : "", h->body.len, path, out, e);
    h->url = NULL;
    st_buf_free(&url);
    return rc;
}

/* What comes from outside may hold control characters. */
static void put_clean(const char *text)
{
    for (const char *c = text ? text : "?"; *c; c++)
        putchar(*c >= ' ' && *c < 0x7f ? *c : '?');
}

static long long number(const json_t *o, const char *key)
{
    return (long long)json_integer_value(json_object_get(o, key));
}

static void print_node(const json_t *node)
{
    size_t i;
    const json_t *c, *checks = json_object_get(node, "checks");
    const char *state = json_string_value(json_object_get(node, "state"));
    fputs("  node:       ", stdout);
    put_clean(json_string_value(json_object_get(node, "id")));
    fputs(" ", stdout);
    put_clean(state);
    if (json_object_get(node, "evidence_age_s"))
        printf(", evidence %lld s old, judged %lld s ago", number(node, "evidence_age_s"),
               number(node, "judged_s_ago"));
    putchar('\n');
    if (json_object_get(node, "why")) {
        fputs("    ", stdout);
        put_clean(json_string_value(json_object_get(node, "code")));
        fputs(": ", stdout);
        put_clean(json_string_value(json_object_get(node, "why")));
        putchar('\n');
    }
    json_array_foreach(checks, i, c)
    {
        const char *result = json_string_value(json_object_get(c, "result"));
        bool pass = result && strcmp(result, "pass") == 0;
        printf("    %-6s ", pass ? "pass" : result && strcmp(result, "absent") == 0 ? "absent" : "FAIL");
        put_clean(json_string_value(json_object_get(c, "name")));
        fputs(" ", stdout);
        put_clean(json_string_value(json_object_get(c, "detail")));
        putchar('\n');
    }
}

/* What a client of confidential nodes knows about them: /sotto/status. */
static void print_verdicts(const json_t *status)
{
    size_t i;
    const json_t *node, *detail = json_object_get(status, "detail"), *log = json_object_get(detail, "log");
    const char *why = json_string_value(json_object_get(status, "why"));
    if (why) {
        fputs("  missing:    ", stdout);
        put_clean(why);
        putchar('\n');
    }
    if (log) {
        fputs("  log:        ", stdout);
        put_clean(json_string_value(json_object_get(log, "origin")));
        printf(", %lld entries, %lld witnesses, %lld s ago\n", number(log, "size"), number(log, "witnesses"),
               number(log, "age_s"));
    }
    printf("  tokens:     %lld units; a request costs %lld and 1 for each %lld bytes\n", number(detail, "units"),
           number(detail, "price_request"), number(detail, "unit_bytes"));
    json_array_foreach(json_object_get(detail, "nodes"), i, node) print_node(node);
}

static void print(const struct st_cli *cli, const char *url, const struct st_http *health, const json_t *health_json,
                  const json_t *models, const json_t *status)
{
    size_t i;
    const json_t *m, *list = json_object_get(models, "data");
    if (!cli->json) {
        /* Quoted, because what comes from outside may hold control characters. */
        const char *state = json_string_value(json_object_get(health_json, "status"));
        struct st_buf why = {0};
        if (health->status != 200 && state)
            st_json_quote(&why, state, strlen(state));
        printf("%s: %s%s%s\n  protection: %s\n  scheme:     %s\n  verified:   %s\n", url,
               health->status == 200 ? "ready" : "not ready", why.p ? ": " : "", why.p ? why.p : "",
               *health->protection ? health->protection : "unknown", *health->scheme ? health->scheme : "unknown",
               *health->verified ? health->verified : "unknown");
        st_buf_free(&why);
        json_array_foreach(list, i, m)
        {
            const char *id = json_string_value(json_object_get(m, "id"));
            struct st_buf q = {0};
            st_json_quote(&q, id ? id : "", id ? strlen(id) : 0);
            printf("  model:      %s\n", q.p ? q.p : "");
            st_buf_free(&q);
        }
        if (status)
            print_verdicts(status);
        return;
    }
    json_t *names = json_array();
    json_array_foreach(list, i, m) json_array_append(names, json_object_get(m, "id"));
    json_t *o = json_pack("{s:s, s:b, s:s, s:s, s:s, s:o, s:O}", "url", url, "ready", health->status == 200,
                          "protection", health->protection, "scheme", health->scheme, "verified", health->verified,
                          "models", names, "health", health_json);
    struct st_buf b = {0};
    if (o && status)
        json_object_set(o, "confidential", (json_t *)(uintptr_t)status);
    if (o)
        st_json_dump(o, &b);
    if (b.p)
        puts(b.p);
    st_buf_free(&b);
    json_decref(o);
}

static int ask(const struct st_cli *cli, const char *url, struct st_err *e)
{
    struct st_http health = {0}, models = {0}, status = {0};
    json_t *health_json = NULL, *models_json = NULL, *status_json = NULL;
    int rc = get(url, "/health", &health, &health_json, e);
    if (!rc)
        rc = get(url, "/v1/models", &models, &models_json, e);
    if (!rc && models.status == 401)
        rc = st_fail(e, ST_POLICY, "%s: wants an API key; set OPENAI_BASE_URL to it, and OPENAI_API_KEY", url);
    if (!rc && strcmp(health.protection, "confidential") == 0)
        rc = get(url, "/sotto/status", &status, &status_json, e);
    if (!rc)
        print(cli, url, &health, health_json, models_json, status_json);
    json_decref(health_json);
    json_decref(models_json);
    json_decref(status_json);
    st_http_wipe(&status);
    st_http_wipe(&health);
    st_http_wipe(&models);
    return rc;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct status_opts *o = opts;
    if (o->url)
        return ask(cli, o->url, e);
    if (!ask(cli, "http://127.0.0.1:7788", e) || e->code != ST_IO || !ask(cli, "http://127.0.0.1:7789", e))
        return 0;
    return e->code != ST_IO
               ? e->code
               : st_fail(e, ST_IO, "nothing answers on ports 7788 (proxy) and 7789 (serve); name one with --url");
}

const struct st_cmd st_cmd_status = {
    .name = "status",
    .summary = "Ask a running endpoint what it serves and how it is protected",
    .doc = "Asks /health and /v1/models of an endpoint and shows its protection; of one under confidential also every "
           "node "
           "with every check of its evidence (/sotto/status). OPENAI_API_KEY is sent to the host "
           "of OPENAI_BASE_URL only.",
    .examples = "  sotto status\n  sotto status --url http://127.0.0.1:7789 --json",
    .shared = ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct status_opts),
    .set = set,
    .run = run,
};

#include "service/node_engine.h"
#include "base/hooks.h"
#include "base/log.h"
#include "crypto/digest.h"
#include "net/listen.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ANSWER = 8 << 20, MAX_ASKED = 3, STALL_S = 10, CONNECT_S = 5, MAX_IDLE = 256, MAX_SLOTS = 256 };
#define LOOK_S 15.0 /* between looks at an engine that is in use */
#define AGAIN_S 0.25

/* What was asked of the engine: status 0 = nothing yet. */
struct answer {
    int status;
    struct st_buf text;
    json_t *json; /* NULL when it is none */
};

/* What was found of an engine. */
struct found {
    enum st_node_cache cache;
    unsigned slots; /* of llama.cpp, as many as are used; 0 = it has none */
};

struct engine {
    const char *name, *owned_by; /* of /v1/models */
    const char *paths[MAX_ASKED - 1];
    /* answers: of paths. POLICY says what was missing. */
    int (*judge)(const struct answer *answers, struct found *out, struct st_err *e);
    const char *field; /* of a request: set to false for CACHE_OFF, to the salt for CACHE_SALTED */
};

/* ---- one function and one row per engine ---- */

/* In Prometheus' text: whether every line that begins with name has this label: enable_prefix_caching="False". */
static bool labels_are(const struct answer *a, const char *name, const char *label)
{
    size_t n = 0;
    for (const char *line = a->status == 200 ? a->text.p : NULL; line && *line; n++) {
        line = strstr(line, name);
        const char *end = line ? strchrnul(line, '\n') : NULL;
        if (!line)
            break;
        if (!memmem(line, (size_t)(end - line), label, strlen(label)))
            return false;
        line = end;
    }
    return n > 0;
}

/* cache_salt came with 0.8.5 for chats, with 0.10.0 for completions, and held for every model from 0.10.2 on; before,
 * the field is read over. */
static int judge_vllm(const struct answer *answers, struct found *out, struct st_err *e)
{
    unsigned major = 0, minor = 0, patch = 0;
    const char *version = json_string_value(json_object_get(answers[1].json, "version"));
    if (labels_are(&answers[0], "vllm:cache_config_info{", "enable_prefix_caching=\"False\"")) {
        out->cache = ST_NODE_CACHE_NONE;
        return 0;
    }
    bool read = version && sscanf(version, "%u.%u.%u", &major, &minor, &patch) >= 2;
    if (!read || (major == 0 && (minor < 10 || (minor == 10 && patch < 2))))
        return st_fail(e, ST_POLICY,
                       "vLLM before 0.10.2 cannot salt its prefix cache everywhere; want a newer one, or "
                       "--no-enable-prefix-caching");
    out->cache = ST_NODE_CACHE_SALTED;
    return 0;
}

/* cache_prompt holds for what is left in a slot. Where the engine picks the slot it also looks for the like of the
 * prompt among those of all clients, in the slots and in a cache beside them (--cache-ram), whatever the request says;
 * it does not for a request that names its slot. */
static int judge_llama_cpp(const struct answer *answers, struct found *out, struct st_err *e)
{
    const json_t *total = json_object_get(answers[0].json, "total_slots");
    const json_int_t n = json_integer_value(total);
    if (n < 1)
        return st_fail(e, ST_POLICY, "llama.cpp does not say how many slots it has (/props, total_slots)");
    out->cache = ST_NODE_CACHE_OFF;
    out->slots = n < MAX_SLOTS ? (unsigned)n : MAX_SLOTS;
    return 0;
}

static int judge_sglang(const struct answer *answers, struct found *out, struct st_err *e)
{
    out->cache = ST_NODE_CACHE_NONE;
    if (json_is_true(json_object_get(answers[0].json, "disable_radix_cache")))
        return 0;
    return st_fail(e, ST_POLICY,
                   "SGLang shares its prefix cache between clients; want it started with --disable-radix-cache");
}

static int judge_sotto(const struct answer *answers, struct found *out, struct st_err *e)
{
    (void)answers;
    (void)e;
    out->cache = ST_NODE_CACHE_NONE; /* the engine keeps nothing from one request to the next */
    return 0;
}

static const struct engine engines[] = {
    {"vLLM", "vllm", {"/metrics", "/version"}, judge_vllm, "cache_salt"},
    {"llama.cpp", "llamacpp", {"/props"}, judge_llama_cpp, "cache_prompt"},
    {"SGLang", "sglang", {"/get_server_info"}, judge_sglang, NULL},
    {"sotto serve", "sotto", {NULL}, judge_sotto, NULL},
};

/* ---- looking at it ---- */

struct st_node_engine {
    struct st_node_engine_opts o;
    struct st_http_client *client;
    const char *unix_path; /* NULL = url */
    char url[320];
    struct event *timer;
    struct st_http_call *call;
    bool ready;
    struct st_err why;
    const struct engine *is;
    struct found found;
    unsigned held[MAX_SLOTS]; /* requests at each slot */
    /* The look under way. */
    const struct engine *maybe;
    struct answer answers[MAX_ASKED]; /* /v1/models, then maybe's paths */
    size_t n_asked;
};

static void answers_free(struct st_node_engine *g)
{
    for (size_t i = 0; i < MAX_ASKED; i++) {
        st_buf_free(&g->answers[i].text);
        json_decref(g->answers[i].json);
        g->answers[i] = (struct answer){0};
    }
    g->n_asked = 0;
    g->maybe = NULL;
}

static void look_in(struct st_node_engine *g, double seconds)
{
    const struct timeval tv = {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    event_add(g->timer, &tv);
}

/* The end of a look; rc 0: found is what it is. */
static void conclude(struct st_node_engine *g, int rc, const struct found *found, const struct st_err *e)
{
    const bool was = g->ready, refused_before = g->why.code == ST_POLICY;
    if (was && rc && rc != ST_POLICY) {
        /* Too busy to say who it is, perhaps: calls that fail say more. */
        answers_free(g);
        look_in(g, LOOK_S);
        return;
    }
    g->ready = rc == 0;
    if (g->ready) {
        g->is = g->maybe;
        g->found = *found;
        g->why = (struct st_err){0};
    } else
        g->why = *e;
    answers_free(g);
    look_in(g, g->ready ? LOOK_S : AGAIN_S);
    if (was && !g->ready)
        st_log(ST_LOG_WARN, "engine: %s", g->why.msg);
    if (g->o.judged && ((g->ready && !was) || (g->why.code == ST_POLICY && !refused_before)))
        g->o.judged(g->o.arg, g->ready ? NULL : &g->why);
}

static void fail_look(struct st_node_engine *g, int code, const char *why)
{
    struct st_err e;
    st_fail(&e, code, "%s", why);
    conclude(g, code, NULL, &e);
}

static const struct engine *recognise(const struct answer *models)
{
    const json_t *first = json_array_get(json_object_get(models->json, "data"), 0);
    const char *owner = json_string_value(json_object_get(first, "owned_by"));
    for (size_t i = 0; owner && i < sizeof engines / sizeof *engines; i++)
        if (strcmp(engines[i].owned_by, owner) == 0)
            return &engines[i];
    return NULL;
}

static void judge(struct st_node_engine *g)
{
    struct st_err e = {0};
    struct found found = {.cache = ST_NODE_CACHE_NONE};
    int rc = g->maybe->judge(g->answers + 1, &found, &e);
    conclude(g, rc, &found, &e);
}

static void ask_next(struct st_node_engine *g);

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_node_engine *g = arg;
    struct answer *a = &g->answers[g->n_asked];
    (void)status;
    st_buf_add(&a->text, p, len);
    return a->text.failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

static void on_end(void *arg, int status, const struct st_err *failed)
{
    struct st_node_engine *g = arg;
    struct answer *a = &g->answers[g->n_asked];
    struct st_err e;
    g->call = NULL;
    if (failed) {
        fail_look(g, ST_IO, failed->msg);
        return;
    }
    a->status = status;
    if (status == 200 && st_json_parse(a->text.p, a->text.len, "answer", &a->json, &e))
        a->json = NULL; /* metrics are text */
    if (g->n_asked == 0) {
        g->maybe = recognise(a);
        if (status != 200) {
            fail_look(g, ST_IO, "/v1/models is not answered yet");
            return;
        }
        if (!g->maybe) {
            fail_look(g, ST_POLICY,
                      "no engine whose prefix cache is known to be off or salted; known: vLLM, llama.cpp, SGLang, "
                      "sotto serve (/v1/models, owned_by)");
            return;
        }
    }
    g->n_asked++;
    ask_next(g);
}

static void ask_next(struct st_node_engine *g)
{
    const char *path = g->n_asked == 0 ? "/v1/models" : g->n_asked < MAX_ASKED ? g->maybe->paths[g->n_asked - 1] : NULL;
    struct st_http_call_opts o = {
        .stall_s = STALL_S, .max_reply = MAX_ANSWER, .data = on_data, .end = on_end, .arg = g};
    struct st_err e;
    if (!path)
        judge(g);
    else if (st_node_engine_call(g, path, &o, &g->call, &e))
        fail_look(g, e.code, e.msg);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct st_node_engine *g = arg;
    (void)fd;
    (void)what;
    if (!g->call)
        ask_next(g);
}

void st_node_engine_doubt(struct st_node_engine *g)
{
    if (!g->ready)
        return;
    g->ready = false;
    st_fail(&g->why, ST_IO, "the engine does not answer");
    if (!g->call)
        look_in(g, 0);
}

/* ---- using it ---- */

bool st_node_engine_ready(const struct st_node_engine *g)
{
    return g->ready;
}

const struct st_err *st_node_engine_why(const struct st_node_engine *g)
{
    return &g->why;
}

const char *st_node_engine_name(const struct st_node_engine *g)
{
    return g->is ? g->is->name : "";
}

const char *st_node_engine_cache(const struct st_node_engine *g)
{
    static const char *const words[] = {[ST_NODE_CACHE_NONE] = "it has no prefix cache",
                                        [ST_NODE_CACHE_OFF] = "its prefix cache is switched off by every request",
                                        [ST_NODE_CACHE_SALTED] = "its prefix cache is salted by every request"};
    return g->is ? words[g->found.cache] : "";
}

uint16_t st_node_engine_port(const struct st_node_engine *g)
{
    const char *colon = strrchr(g->url, ':');
    return g->unix_path ? 0 : strchr(colon, ']') || colon[1] == '/' ? 80 : (uint16_t)atoi(colon + 1);
}

/* The slot where the fewest requests are. */
static unsigned free_slot(const struct st_node_engine *g)
{
    unsigned best = 0;
    for (unsigned i = 1; i < g->found.slots; i++)
        if (g->held[i] < g->held[best])
            best = i;
    return best;
}

int st_node_engine_apart(struct st_node_engine *g, json_t *body, const char *salt, int *slot, struct st_err *e)
{
    char fresh[65];
    uint8_t random[32];
    int rc = 0;
    *slot = -1;
    if (g->found.cache == ST_NODE_CACHE_OFF)
        rc = json_object_set_new(body, g->is->field, json_false());
    else if (g->found.cache == ST_NODE_CACHE_SALTED) {
        if (!*salt) {
            if (st_random(random, sizeof random, e))
                return e->code;
            st_hex(random, sizeof random, fresh);
            salt = fresh;
        }
        rc = json_object_set_new(body, g->is->field, json_string(salt));
    }
    if (!rc && g->found.slots) {
        const unsigned at = free_slot(g);
        rc = json_object_set_new(body, "id_slot", json_integer(at));
        if (!rc) {
            g->held[at]++;
            *slot = (int)at;
        }
    }
    return rc ? st_fail(e, ST_MEMORY, "no memory for a request") : 0;
}

void st_node_engine_left(struct st_node_engine *g, int slot)
{
    if (slot >= 0)
        g->held[slot]--;
}

int st_node_engine_call(struct st_node_engine *g, const char *path, struct st_http_call_opts *o,
                        struct st_http_call **out, struct st_err *e)
{
    char url[512];
    snprintf(url, sizeof url, "%s%s", g->url, path);
    o->url = url;
    o->unix_path = g->unix_path;
    o->direct = true;
    return st_http_call_start(g->client, o, out, e);
}

/* ---- life ---- */

/* "http://HOST:PORT", perhaps with a slash: the host, without brackets. */
static int read_url(struct st_node_engine *g, struct st_err *e)
{
    static const char scheme[] = "http://";
    const char *at = g->o.upstream + sizeof scheme - 1;
    char host[256];
    if (strncmp(g->o.upstream, scheme, sizeof scheme - 1) != 0)
        return st_fail(e, ST_USAGE, "--upstream: want unix:PATH or http://HOST:PORT, got '%.200s'", g->o.upstream);
    const char *first = *at == '[' ? at + 1 : at;
    size_t n = strcspn(first, *at == '[' ? "]" : ":/"), all = strcspn(at, "/");
    if (n == 0 || n >= sizeof host || memchr(at, '@', all) || (at[all] && at[all + 1]))
        return st_fail(e, ST_USAGE, "--upstream: want http://HOST:PORT and no path, got '%.200s'", g->o.upstream);
    memcpy(host, first, n);
    host[n] = 0;
    /* No other name: who answers for names could make it another machine later. */
    const bool local = strcmp(host, "localhost") == 0;
    struct in6_addr addr;
    if (!local &&
        ((inet_pton(AF_INET, host, &addr) != 1 && inet_pton(AF_INET6, host, &addr) != 1) || !st_net_is_loopback(host)))
        return st_fail(e, ST_POLICY, "--upstream: %.200s: want a Unix socket, 127.0.0.1 or [::1]", host);
    const char *rest = at + n + (*at == '[' ? 2 : 0);
    if (local)
        snprintf(g->url, sizeof g->url, "%s127.0.0.1%.*s", scheme, (int)(at + all - rest), rest);
    else
        snprintf(g->url, sizeof g->url, "%s%.*s", scheme, (int)all, at);
    return 0;
}

int st_node_engine_new(const struct st_node_engine_opts *o, struct st_node_engine **out, struct st_err *e)
{
    const struct st_http_client_opts c = {.connect_s = CONNECT_S, .max_idle = MAX_IDLE};
    struct st_node_engine *g = NULL;
    *out = NULL;
    if (st_alloc(&g, 1, sizeof *g, "engine", e))
        return e->code;
    g->o = *o;
    int rc = 0;
    if (strncmp(o->upstream, "unix:", 5) == 0) {
        g->unix_path = o->upstream + 5;
        snprintf(g->url, sizeof g->url, "http://localhost");
        if (!*g->unix_path)
            rc = st_fail(e, ST_USAGE, "--upstream: want unix:PATH");
    } else
        rc = read_url(g, e);
    if (!rc)
        rc = st_http_client_new(o->base, &c, &g->client, e);
    if (!rc && !(g->timer = event_new(o->base, -1, 0, on_timer, g)))
        rc = st_fail(e, ST_MEMORY, "timer: no memory");
    if (rc) {
        st_node_engine_free(g);
        return rc;
    }
    look_in(g, 0);
    *out = g;
    return 0;
}

void st_node_engine_free(struct st_node_engine *g)
{
    if (!g)
        return;
    st_http_client_free(g->client);
    if (g->timer)
        event_free(g->timer);
    answers_free(g);
    free(g);
}

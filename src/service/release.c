#include "service/release.h"
#include "base/hooks.h"
#include "base/log.h"
#include "crypto/digest.h"
#include "protect/sealed/recipient_hpke.h"
#include "protect/sealed/vault.h"
#include "service/proof.h"
#include "service/release_message.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

enum { NONCES = 1 << 16, AT_SLOT = 4, MAX_NAME = 128, MAX_HELD = 256 << 20 };
#define NO_STORE "Cache-Control: no-store\r\n"

/* A challenge. Its nonce begins with the number of its slot, so that it is found at once. */
struct slot {
    uint8_t nonce[ST_RELEASE_NONCE];
    double at;
    int64_t unix_at;
    bool live;
};

/* A container that the service was told of. */
struct known {
    struct st_release_for what;
    uint8_t mac[32];
    char name[MAX_NAME];
    uint64_t minimum;
};

struct st_release {
    struct st_role *role;
    struct st_release_opts o;
    struct st_policy *policy;
    struct st_hpke_key *key;
    struct known known[ST_RELEASE_MAX_CONTAINERS];
    size_t n_known;
    struct slot *slots; /* a ring; the next challenge takes slots[next] */
    uint32_t next;
    double said_at; /* the last refusal was logged */
    uint64_t unsaid;
    struct {
        uint64_t challenges, released, refused;
    } n;
};

/* ---- nonces ---- */

/* NULL: the kernel gives no random bytes. */
static const struct slot *new_nonce(struct st_release *r)
{
    struct st_err e;
    struct slot *s = &r->slots[r->next];
    if (st_random(s->nonce, sizeof s->nonce, &e))
        return NULL;
    for (int i = 0; i < AT_SLOT; i++)
        s->nonce[i] = (uint8_t)(r->next >> (8 * i));
    s->at = st_now();
    s->unix_at = st_unix_time();
    s->live = true;
    r->next = (r->next + 1) % NONCES;
    return s;
}

/* Uses it up, whatever becomes of the request. *unix_at: when it came into being. */
static int take_nonce(struct st_release *r, const struct st_bundle *evidence, int64_t *unix_at, struct st_err *e)
{
    const struct st_binding *b = &evidence->binding;
    uint32_t i = 0;
    if (!evidence->has_binding)
        return st_fail(e, ST_VERIFY, "evidence without a binding");
    if (b->nonce_len != ST_RELEASE_NONCE)
        return st_fail(e, ST_VERIFY, "a nonce of %zu bytes", b->nonce_len);
    for (int k = 0; k < AT_SLOT; k++)
        i |= (uint32_t)b->nonce[k] << (8 * k);
    struct slot *s = i < NONCES ? &r->slots[i] : NULL;
    if (!s || !s->live || memcmp(s->nonce, b->nonce, sizeof s->nonce) != 0)
        return st_fail(e, ST_VERIFY, "a nonce that is not ours, or was used before");
    s->live = false;
    *unix_at = s->unix_at;
    const double age = st_now() - s->at;
    return age <= r->o.nonce_s ? 0 : st_fail(e, ST_VERIFY, "a nonce that is %.0f s old", age);
}

/* ---- what must hold ---- */

/* A binding made for a release: no node's, and to a key that the reply can be sealed to. */
static int check_binding(const struct st_release_request *q, struct st_err *e)
{
    static const uint8_t none[sizeof q->evidence.binding.receipt_key];
    const struct st_binding *b = &q->evidence.binding;
    if (memcmp(&b->suite, &st_release_suite, sizeof b->suite) != 0)
        return st_fail(e, ST_VERIFY, "a key of another suite");
    if (memcmp(b->receipt_key, none, sizeof none) != 0)
        return st_fail(e, ST_VERIFY, "evidence that was made for something else: it has a receipt key");
    if (!b->has_model || memcmp(b->model, q->what.digest, sizeof b->model) != 0)
        return st_fail(e, ST_VERIFY, "evidence that names another container");
    return 0;
}

static int judge(struct st_release *r, const struct st_release_request *q, int64_t unix_at, struct st_err *e)
{
    const struct st_binding *b = &q->evidence.binding;
    const struct st_judge j = {.policy = r->policy,
                               .bundle = &q->evidence,
                               .time = st_unix_time(),
                               .nonce = {b->nonce, b->nonce_len},
                               .nonce_time = unix_at};
    struct st_verdict v;
    int rc = st_policy_judge(&j, &v, e);
    if (rc)
        return rc;
    rc = st_proof_verdict(r->policy, &v, e);
    st_verdict_wipe(&v);
    return rc;
}

static int find(const struct st_release *r, const struct st_release_for *what, const struct known **out,
                struct st_err *e)
{
    for (size_t i = 0; i < r->n_known; i++) {
        const struct known *k = &r->known[i];
        if (memcmp(k->what.id, what->id, sizeof what->id) != 0)
            continue;
        if (k->what.version != what->version || memcmp(k->what.digest, what->digest, sizeof what->digest) != 0)
            return st_fail(e, ST_VERIFY, "%s: another version or digest than that of --container", k->name);
        if (k->what.version < k->minimum)
            return st_fail(e, ST_POLICY, "%s: version %" PRIu64 "; the minimum is %" PRIu64, k->name, k->what.version,
                           k->minimum);
        *out = k;
        return 0;
    }
    return st_fail(e, ST_POLICY, "a container that no --container is");
}

/* wrap: NULL = none. */
static int content_key(const struct st_release *r, const struct known *k, const json_t *wrap, struct st_secret *out,
                       struct st_err *e)
{
    uint8_t mac[32];
    *out = (struct st_secret){0};
    int rc;
    if (r->o.seed)
        rc = st_vault_content_key(r->o.seed->p, k->what.id, out, e);
    else if (!wrap)
        rc = st_fail(e, ST_VERIFY, "no recipient of kind hpke");
    else
        rc = st_recipient_hpke_unwrap(r->key, k->what.id, k->what.version, wrap, out, e);
    if (rc)
        return rc;
    rc = st_vault_mac(out, k->what.id, k->what.digest, mac, e);
    if (!rc && CRYPTO_memcmp(mac, k->mac, sizeof mac) != 0)
        rc = st_fail(e, ST_VERIFY, "%s",
                     r->o.seed ? "is not of this publisher's seed" : "a wrap of another key than the container's");
    if (rc)
        st_secret_wipe(out);
    return rc;
}

/* ---- requests ---- */

static int answer(struct st_release *r, const struct st_release_request *q, const struct known **k, struct st_buf *out,
                  struct st_err *e)
{
    struct st_secret key;
    int64_t unix_at = 0;
    int rc = take_nonce(r, &q->evidence, &unix_at, e);
    if (!rc)
        rc = check_binding(q, e);
    if (!rc)
        rc = judge(r, q, unix_at, e);
    if (!rc)
        rc = find(r, &q->what, k, e);
    if (!rc)
        rc = content_key(r, *k, q->wrap, &key, e);
    if (rc)
        return rc;
    rc = st_release_seal(&q->evidence.binding, &q->what, &key, out, e);
    st_secret_wipe(&key);
    return rc;
}

static void refuse(struct st_release *r, struct st_http_conn *c, const struct st_err *e)
{
    r->n.refused++;
    if (r->said_at && st_now() - r->said_at < 1)
        r->unsaid++;
    else {
        if (r->unsaid)
            st_log(ST_LOG_WARN, "refused: %" PRIu64 " more meanwhile", r->unsaid);
        st_log(ST_LOG_WARN, "refused: %s", e->msg);
        r->said_at = st_now();
        r->unsaid = 0;
    }
    st_role_refuse(c, 400);
}

static void on_release(struct st_release *r, struct st_http_conn *c)
{
    struct st_release_request q = {0};
    const struct known *k = NULL;
    struct st_buf reply = {0};
    struct st_err e = {.code = ST_VERIFY};
    int rc = st_release_request_parse(st_http_body(c), &q, &e);
    if (!rc)
        rc = answer(r, &q, &k, &reply, &e);
    if (rc)
        refuse(r, c, &e);
    else {
        r->n.released++;
        st_log(ST_LOG_INFO, "released: %s, version %" PRIu64 "; %" PRIu64 " keys so far", k->name, k->what.version,
               r->n.released);
        st_http_reply(c, 200, NO_STORE, "application/json", reply.p, reply.len);
    }
    st_release_request_free(&q);
    st_buf_free(&reply);
}

static void on_challenge(struct st_release *r, struct st_http_conn *c)
{
    const struct slot *s = new_nonce(r);
    struct st_buf reply = {0};
    if (s)
        st_release_challenge_write(s->nonce, &reply);
    if (!reply.len || reply.failed)
        st_role_refuse(c, 503);
    else {
        r->n.challenges++;
        st_http_reply(c, 200, NO_STORE, "application/json", reply.p, reply.len);
    }
    st_buf_free(&reply);
}

static bool is_post(const struct st_http_conn *c, const char *path)
{
    return strcmp(st_http_path(c), path) == 0 && strcmp(st_http_method(c), "POST") == 0;
}

static void on_request(void *arg, struct st_http_conn *c)
{
    if (is_post(c, "/challenge"))
        on_challenge(arg, c);
    else if (is_post(c, "/release"))
        on_release(arg, c);
    else
        st_role_refuse(c, 404);
}

static bool refuses_head(void *arg, const struct st_http_conn *c)
{
    (void)arg;
    return !is_post(c, "/challenge") && !is_post(c, "/release");
}

static void put_metrics(void *arg, struct st_buf *b)
{
    const struct st_release *r = arg;
    st_role_count(b, "sotto_release_containers", "gauge", "Containers that it was told of.", r->n_known);
    st_role_count(b, "sotto_release_challenges_total", "counter", "Challenges given.", r->n.challenges);
    st_role_count(b, "sotto_release_released_total", "counter", "Content keys given.", r->n.released);
    st_role_count(b, "sotto_release_refused_total", "counter", "Requests refused.", r->n.refused);
}

/* ---- life ---- */

/* The key that this service has opens it, as an enclave's request will want. */
static int try_container(const struct st_release *r, const struct known *k, const struct st_container *c,
                         struct st_err *e)
{
    const char *path = st_container_path(c);
    struct st_secret key;
    json_t *list = NULL;
    bool any = false;
    if (r->o.seed) {
        int rc = content_key(r, k, NULL, &key, e);
        st_secret_wipe(&key);
        return rc ? st_err_prefix(e, "%.200s", path) : 0;
    }
    int rc = st_recipients_parse(st_container_recipients(c), path, &list, e);
    if (rc)
        return rc;
    rc = ST_VERIFY;
    for (size_t i = 0; rc && i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        if (strcmp(json_string_value(json_object_get(entry, "kind")), "hpke") != 0)
            continue;
        any = true;
        rc = content_key(r, k, entry, &key, e);
        st_secret_wipe(&key);
    }
    json_decref(list);
    if (!any)
        return st_fail(e, ST_VERIFY, "%.200s: has no recipient of kind hpke", path);
    return rc ? st_err_prefix(e, "%.200s: --hpke-key does not open it", path) : 0;
}

static bool is_of(const struct st_release_minimum *m, const struct known *k)
{
    char id[33];
    st_hex(k->what.id, sizeof k->what.id, id);
    return !m->what || strcmp(m->what, k->name) == 0 || strcasecmp(m->what, id) == 0;
}

static int add_container(struct st_release *r, const char *path, struct st_err *e)
{
    struct known *k = &r->known[r->n_known];
    struct st_container_about a;
    struct st_container *c;
    if (st_container_open(path, &c, e))
        return e->code;
    st_container_about(c, &a);
    k->what.version = a.version;
    memcpy(k->what.id, a.id, sizeof a.id);
    memcpy(k->what.digest, a.digest, sizeof a.digest);
    memcpy(k->mac, st_container_mac(c), sizeof k->mac);
    memcpy(k->name, a.name, strnlen(a.name, sizeof k->name - 1));
    for (size_t i = 0; i < r->o.n_minimum; i++)
        if (is_of(&r->o.minima[i], k) && r->o.minima[i].version > k->minimum)
            k->minimum = r->o.minima[i].version;
    int rc = 0;
    for (size_t i = 0; i < r->n_known && !rc; i++)
        if (memcmp(r->known[i].what.id, a.id, sizeof a.id) == 0)
            rc = st_fail(e, ST_USAGE, "%.200s: the same container as another --container", path);
    if (!rc)
        rc = try_container(r, k, c, e);
    if (!rc && a.version < k->minimum)
        st_log(ST_LOG_WARN, "%s: version %" PRIu64 " is below the minimum: its key stays here", path, a.version);
    r->n_known += !rc;
    st_container_close(c);
    return rc;
}

static int check_minima(const struct st_release *r, struct st_err *e)
{
    for (size_t i = 0; i < r->o.n_minimum; i++) {
        bool used = false;
        for (size_t k = 0; k < r->n_known; k++)
            used = used || is_of(&r->o.minima[i], &r->known[k]);
        if (!used)
            return st_fail(e, ST_USAGE, "--min-version: no container has the name or id '%.80s'", r->o.minima[i].what);
    }
    return 0;
}

static int set_up(struct st_release *r, struct st_err *e)
{
    struct st_release_opts *o = &r->o;
    if (!o->hpke_key == !o->seed)
        return st_fail(e, ST_USAGE, "want a private key of containers' recipients or the publisher's, one of them");
    if (!o->n_container || o->n_container > ST_RELEASE_MAX_CONTAINERS)
        return st_fail(e, ST_USAGE, "want 1..%d containers whose keys may be given", ST_RELEASE_MAX_CONTAINERS);
    o->nonce_s = o->nonce_s > 0 ? o->nonce_s : 60;
    o->listen.max_body = ST_RELEASE_MAX_REQUEST;
    o->listen.max_held = MAX_HELD;
    o->listen.request = on_request;
    o->listen.refuses_head = refuses_head;
    o->listen.metrics = put_metrics;
    o->listen.arg = r;
    if (st_alloc(&r->slots, NONCES, sizeof *r->slots, "challenges", e) ||
        st_proof_policy(o->policy, "the key", &r->policy, e) ||
        (o->hpke_key && st_hpke_file_private(o->hpke_key, &r->key, e)))
        return e->code;
    for (size_t i = 0; i < o->n_container; i++)
        if (add_container(r, o->containers[i], e))
            return e->code;
    if (check_minima(r, e) || st_role_new(&r->role, e))
        return e->code;
    return st_role_listen(r->role, &o->listen, e);
}

int st_release_new(const struct st_release_opts *o, struct st_release **out, struct st_err *e)
{
    struct st_release *r = NULL;
    *out = NULL;
    if (st_alloc(&r, 1, sizeof *r, "release service", e))
        return e->code;
    r->o = *o;
    if (set_up(r, e)) {
        st_release_free(r);
        return e->code;
    }
    *out = r;
    return 0;
}

struct st_role *st_release_role(struct st_release *r)
{
    return r->role;
}

void st_release_free(struct st_release *r)
{
    if (!r)
        return;
    st_role_close(r->role);
    st_role_free(r->role);
    st_hpke_key_free(r->key);
    st_policy_free(r->policy);
    free(r->slots);
    free(r);
}

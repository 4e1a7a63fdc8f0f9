#include "attest/binding.h"
#include "attest/policy_priv.h"
#include "crypto/digest.h"
#include "crypto/x509.h"

#include <inttypes.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* One judgement under way. */
struct judging {
    const struct st_judge *j;
    const struct st_policy *policy;
    const struct st_bundle *bundle;
    struct st_appraisal *found;
};

/* A demand of the policy; met is the only line that sets it good. */
static void demand(struct judging *g, const char *name, bool met, const char *fmt, ...) ST_PRINTF(4, 5);
static void demand(struct judging *g, const char *name, bool met, const char *fmt, ...)
{
    char detail[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    struct st_check *c = st_appraisal_check(g->found, name, "%s", detail);
    c->area = ST_AREA_POLICY;
    c->result = met ? ST_CHECK_PASS : ST_CHECK_FAIL;
}

static bool list_has(const json_t *list, const char *word)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_array_get(list, i)), word) == 0)
            return true;
    return false;
}

static bool has_item(const struct judging *g, const char *kind)
{
    for (size_t i = 0; i < g->bundle->n_item; i++)
        if (strcmp(g->bundle->items[i].kind, kind) == 0)
            return true;
    return false;
}

static const struct st_claim *claim_of(const struct judging *g, const char *kind, const char *name)
{
    char full[80];
    snprintf(full, sizeof full, "%s.%s", kind, name);
    return st_appraisal_find_claim(g->found, full);
}

/* ---- kinds ---- */

static void judge_kinds(struct judging *g)
{
    const struct st_policy *p = g->policy;
    char name[64];
    bool real = false;
    int platforms = 0;
    for (size_t i = 0; i < json_array_size(p->require); i++) {
        const char *kind = json_string_value(json_array_get(p->require, i));
        snprintf(name, sizeof name, "policy.require.%s", kind);
        demand(g, name, has_item(g, kind), "%s", has_item(g, kind) ? "is there" : "want evidence of this kind");
    }
    for (size_t i = 0; i < g->bundle->n_item; i++) {
        const char *kind = g->bundle->items[i].kind;
        bool sim = strcmp(kind, "sim") == 0;
        real = real || !sim;
        platforms += !strcmp(kind, "tdx") || !strcmp(kind, "snp") || !strcmp(kind, "sgx");
        snprintf(name, sizeof name, "policy.allow.%s", kind);
        if (sim && !p->has_sim_root)
            demand(g, name, false, "simulated evidence proves nothing; only a policy with sim_root accepts it");
        else if (!list_has(p->require, kind) && !list_has(p->allow, kind) && (!p->require_any || sim))
            demand(g, name, false, "the policy neither requires nor allows this kind");
        snprintf(name, sizeof name, "policy.roots.%s", kind);
        if (json_object_get(p->roots, kind))
            demand(g, name, true, "the policy's own in place of the vendor's");
    }
    if (platforms > 1)
        demand(g, "policy.platforms", false, "%d platforms: want one of tdx, snp and sgx, for one machine", platforms);
    if (p->require_any)
        demand(g, "policy.require.any", real, "%s", real ? "is there" : "want evidence of a kind that hardware signs");
    if (p->gpu)
        demand(g, "policy.gpu", has_item(g, "nvgpu"), "%s",
               has_item(g, "nvgpu") ? "is there" : "want evidence of a GPU (nvgpu)");
}

/* ---- claims ---- */

static void claim_text(const struct st_claim *c, char *out, size_t cap)
{
    if (c->type == ST_CLAIM_TEXT || c->type == ST_CLAIM_HEX)
        snprintf(out, cap, "%s", c->text);
    else if (c->type == ST_CLAIM_BOOL)
        snprintf(out, cap, "%s", c->number ? "true" : "false");
    else
        snprintf(out, cap, "%" PRIu64, c->number);
}

static bool claim_equals(const struct st_claim *c, const json_t *v)
{
    switch (c->type) {
    case ST_CLAIM_TEXT:
        return json_is_string(v) && strcmp(json_string_value(v), c->text) == 0;
    case ST_CLAIM_HEX:
        return json_is_string(v) && strcasecmp(json_string_value(v), c->text) == 0;
    case ST_CLAIM_BOOL:
        return json_is_boolean(v) && json_is_true(v) == (c->number != 0);
    default:
        return json_is_integer(v) && (uint64_t)json_integer_value(v) == c->number;
    }
}

static bool is_comment(const char *key)
{
    return strcmp(key, "comment") == 0;
}

static bool is_signed(const char *name)
{
    const char *suffix = "_unsigned";
    size_t n = strlen(name), k = strlen(suffix);
    return n < k || strcmp(name + n - k, suffix) != 0;
}

/* A value that is allowed counts only when the log proves that everybody can see which release has it. */
static bool judge_logged(struct judging *g, const char *name, const struct st_claim *c, const char *value)
{
    char check[80];
    if (!st_policy_must_be_logged(g->policy, name))
        return true;
    const struct st_statement *s = st_policy_find_statement(g->policy, name, value, c->type == ST_CLAIM_HEX);
    snprintf(check, sizeof check, "policy.logged.%s", name);
    demand(g, check, s != NULL, "%s%s", s ? "in the log: " : "no proof that the log has this value",
           s ? s->release : "");
    return s != NULL;
}

static bool judge_measurements(struct judging *g)
{
    const char *name;
    json_t *list;
    bool all = true;
    if (!g->policy->measurements)
        demand(g, "policy.measurements", true, "none pinned: any software on such a platform passes");
    json_object_foreach((json_t *)(uintptr_t)g->policy->measurements, name, list)
    {
        char check[80], value[144] = "is not stated";
        if (is_comment(name))
            continue;
        const struct st_claim *c = is_signed(name) ? st_appraisal_find_claim(g->found, name) : NULL;
        bool met = false;
        for (size_t i = 0; c && i < json_array_size(list) && !met; i++)
            met = claim_equals(c, json_array_get(list, i));
        if (c)
            claim_text(c, value, sizeof value);
        snprintf(check, sizeof check, "policy.%s", name);
        demand(g, check, met, "%s%s", value, met ? "" : "; not among the values that the policy allows");
        met = met && judge_logged(g, name, c, value);
        all = all && met;
    }
    return all;
}

static void judge_minimum(struct judging *g)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)g->policy->minimum, name, v)
    {
        char check[80];
        if (is_comment(name))
            continue;
        const struct st_claim *c = is_signed(name) ? st_appraisal_find_claim(g->found, name) : NULL;
        bool number = c && c->type == ST_CLAIM_NUMBER;
        uint64_t want = (uint64_t)json_integer_value(v);
        snprintf(check, sizeof check, "policy.minimum.%s", name);
        if (!number)
            demand(g, check, false, "is not stated, want at least %" PRIu64, want);
        else
            demand(g, check, c->number >= want, "%" PRIu64 ", want at least %" PRIu64, c->number, want);
    }
}

/* Patch levels: of Intel's kinds always, of others when the policy lists words for them. */
static void judge_tcb(struct judging *g)
{
    for (size_t i = 0; i < g->bundle->n_item; i++) {
        const char *kind = g->bundle->items[i].kind;
        const json_t *words = json_object_get(g->policy->tcb, kind);
        const struct st_claim *c = claim_of(g, kind, "tcb_status");
        char check[64];
        if (!words && !c && strcmp(kind, "tdx") != 0 && strcmp(kind, "sgx") != 0)
            continue;
        bool text = c && c->type == ST_CLAIM_TEXT;
        bool met = text && (words ? list_has(words, c->text) : strcmp(c->text, "UpToDate") == 0);
        snprintf(check, sizeof check, "policy.tcb.%s", kind);
        demand(g, check, met, "%s%s", text ? c->text : "is not known: no valid statement of the vendor was given",
               met || !text ? "" : "; the policy does not allow this status");
    }
}

static void judge_debug(struct judging *g)
{
    for (size_t i = 0; i < g->bundle->n_item; i++) {
        const char *kind = g->bundle->items[i].kind;
        const struct st_claim *c = claim_of(g, kind, "debug");
        char check[64];
        if (!c && (strcmp(kind, "tpm") == 0 || strcmp(kind, "nvgpu") == 0))
            continue;
        bool known = c && c->type == ST_CLAIM_BOOL, off = known && !c->number;
        snprintf(check, sizeof check, "policy.debug.%s", kind);
        demand(g, check, off || (known && g->policy->debug), "%s",
               !known             ? "is not stated"
               : off              ? "off"
               : g->policy->debug ? "on; allowed by the policy"
                                  : "on: whoever runs the machine can look inside");
    }
}

/* Guests that a service may move to another machine: only where the policy says so among the measurements. */
static void judge_migration(struct judging *g)
{
    for (size_t i = 0; i < g->bundle->n_item; i++) {
        const char *kind = g->bundle->items[i].kind;
        const struct st_claim *c = claim_of(g, kind, "migratable");
        char check[64];
        if (!c || json_object_get(g->policy->measurements, c->name))
            continue;
        snprintf(check, sizeof check, "policy.migratable.%s", kind);
        demand(g, check, c->number == 0, "%s", c->number ? "a service may move this guest" : "off");
    }
}

/* Without a word of the policy: no migration agent, and the report was asked for at VMPL 0. */
static void judge_snp(struct judging *g)
{
    static const char *const off[] = {"migrate_ma", "vmpl"};
    const json_t *given = g->policy->snp_policy;
    const char *name;
    json_t *v;
    char check[80];
    if (!has_item(g, "snp"))
        return;
    for (size_t i = 0; i < 2; i++) {
        if (json_object_get(given, off[i]))
            continue;
        const struct st_claim *c = claim_of(g, "snp", i ? "vmpl" : "policy.migrate_ma");
        snprintf(check, sizeof check, "policy.snp.%s", off[i]);
        demand(g, check, c && c->number == 0, "%s",
               !c          ? "is not stated"
               : c->number ? "want 0 or false"
                           : "0 or false");
    }
    json_object_foreach((json_t *)(uintptr_t)given, name, v)
    {
        char claim[64], value[144] = "is not stated";
        if (is_comment(name))
            continue;
        snprintf(claim, sizeof claim, "%s%.48s", strcmp(name, "vmpl") == 0 ? "" : "policy.", name);
        const struct st_claim *c = claim_of(g, "snp", claim);
        if (c)
            claim_text(c, value, sizeof value);
        snprintf(check, sizeof check, "policy.snp.%.48s", name);
        demand(g, check, c && claim_equals(c, v), "%s", value);
    }
}

/* ---- links between items, freshness ---- */

/* Azure: the platform's report names the TPM's key through runtime data. Then the TPM needs no certificate of its own,
 * and a TPM of another machine shows. */
static void judge_link(struct judging *g)
{
    const struct st_claim *ak = claim_of(g, "tpm", "ak");
    for (size_t i = 0; i < g->bundle->n_item && has_item(g, "tpm"); i++) {
        const struct st_claim *named = claim_of(g, g->bundle->items[i].kind, "runtime_ak");
        if (!named)
            continue;
        bool same = ak && strcmp(ak->text, named->text) == 0;
        struct st_check *c = st_appraisal_check(g->found, "tpm.link", "%s",
                                                same ? "the key that the platform's report names"
                                                     : "another key than the platform's report names");
        c->result = same ? ST_CHECK_PASS : ST_CHECK_FAIL;
    }
}

/* The claim report_data begins with want[len], and zeros follow. */
static bool reports(const struct st_claim *c, const uint8_t *want, size_t len)
{
    char hex[2 * ST_BINDING_MAX_NONCE + 1];
    if (!c || c->type != ST_CLAIM_HEX || len == 0 || len > ST_BINDING_MAX_NONCE)
        return false;
    st_hex(want, len, hex);
    return strncmp(c->text, hex, 2 * len) == 0 && strspn(c->text + 2 * len, "0") == strlen(c->text + 2 * len);
}

static int judge_binding(struct judging *g, struct st_err *e)
{
    for (size_t i = 0; i < g->bundle->n_item; i++) {
        uint8_t want[ST_REPORT_DATA];
        size_t len;
        const char *kind = g->bundle->items[i].kind;
        char name[64];
        snprintf(name, sizeof name, "%s.binding", kind);
        int rc = st_binding_expected(g->bundle, i, want, &len, e);
        if (rc && rc != ST_INPUT)
            return rc;
        struct st_check *c = st_appraisal_check(g->found, name, "%s",
                                                rc ? e->msg : "report data is not the hash of what the bundle says");
        if (rc)
            continue;
        if (len == 0) {
            /* The report data is the digest of runtime data; what binds the item is tpm.link. */
            const struct st_check *link = st_appraisal_find_check(g->found, "tpm.link");
            bool linked = link && link->result == ST_CHECK_PASS && claim_of(g, kind, "runtime_ak");
            st_check_detail(
                c, "%s", linked ? "by the TPM that its report names" : "no TPM here is the one that its report names");
            c->result = linked ? ST_CHECK_PASS : ST_CHECK_FAIL;
        } else if (reports(claim_of(g, kind, "report_data"), want, len)) {
            st_check_detail(c, "keys, nonce%s",
                            len == ST_GPU_NONCE && strcmp(kind, "tpm") != 0 ? "" : ", other items, engine and model");
            c->result = ST_CHECK_PASS;
        }
    }
    return 0;
}

static bool nonce_in_report(const struct judging *g, const char *kind)
{
    uint8_t hash[SHA512_DIGEST_LENGTH];
    const struct st_span n = g->j->nonce;
    const struct st_claim *c = claim_of(g, kind, "report_data");
    if (reports(c, n.p, n.len))
        return true;
    SHA512(n.p, n.len, hash);
    if (reports(c, hash, SHA512_DIGEST_LENGTH))
        return true;
    st_sha256(n.p, n.len, hash);
    return reports(c, hash, 32);
}

static void judge_nonce(struct judging *g)
{
    const struct st_span n = g->j->nonce;
    const struct st_binding *b = &g->bundle->binding;
    if (n.len == 0)
        return;
    if (g->bundle->has_binding) {
        bool same = n.len == b->nonce_len && memcmp(n.p, b->nonce, n.len) == 0;
        demand(g, "policy.nonce", same, "%s", same ? "as asked, in the binding" : "the binding holds another one");
        return;
    }
    for (size_t i = 0; i < g->bundle->n_item; i++) {
        const char *kind = g->bundle->items[i].kind;
        bool met = nonce_in_report(g, kind);
        char name[64];
        if (claim_of(g, kind, "runtime_ak")) /* its report data is not ours to fill; the TPM holds the nonce */
            continue;
        snprintf(name, sizeof name, "policy.nonce.%s", kind);
        demand(g, name, met, "%s", met ? "as asked" : "the report data holds another one");
    }
}

static void judge_age(struct judging *g)
{
    const struct st_judge *j = g->j;
    int64_t age = j->time - j->nonce_time, max = g->policy->max_age_s;
    if (max < 0)
        return;
    if (j->nonce.len == 0 || j->nonce_time == 0)
        demand(g, "policy.max_age_s", false, "no nonce whose time is known: nothing says when this evidence was made");
    else
        demand(g, "policy.max_age_s", age >= 0 && age <= max, "%" PRId64 " s, want 0..%" PRId64 " s", age, max);
    st_x509_limit(&g->found->until, j->nonce_time + max + 1);
}

static void judge_model(struct judging *g, bool pinned, struct st_verdict *v)
{
    const struct st_binding *b = &g->bundle->binding;
    char hex[65] = "";
    bool met = false;
    v->model_stated = g->bundle->has_binding && b->has_model;
    if (v->model_stated)
        st_hex(b->model, 32, hex);
    for (size_t i = 0; v->model_stated && i < json_array_size(g->policy->model); i++)
        met = met || strcasecmp(json_string_value(json_array_get(g->policy->model, i)), hex) == 0;
    v->model_verified = v->model_stated && g->policy->image && pinned;
    if (g->policy->model)
        demand(g, "policy.model", met, "%s%s", v->model_stated ? hex : "the bundle states none",
               v->model_stated && !v->model_verified ? " (unverified: the node says so, no measured image does)" : "");
}

static void judge_engine(struct judging *g)
{
    const struct st_binding *b = &g->bundle->binding;
    bool stated = g->bundle->has_binding && b->has_engine, met = false;
    char hex[65] = "";
    if (!g->policy->engine)
        return;
    if (stated)
        st_hex(b->engine, 32, hex);
    for (size_t i = 0; stated && i < json_array_size(g->policy->engine); i++)
        met = met || strcasecmp(json_string_value(json_array_get(g->policy->engine, i)), hex) == 0;
    demand(g, "policy.engine", met, "%s", stated ? hex : "the bundle states none");
}

/* ---- the verdict ---- */

bool st_policy_tolerates(const struct st_policy *p, const struct st_check *c)
{
    if (c->result == ST_CHECK_PASS)
        return true;
    if (p->signature_only) /* a list that is there counts even so */
        return c->area == ST_AREA_STATUS || (c->area == ST_AREA_REVOCATION && c->result == ST_CHECK_ABSENT);
    if (c->result != ST_CHECK_ABSENT || c->area == ST_AREA_SIGNATURE || c->area == ST_AREA_POLICY)
        return false;
    return (c->area == ST_AREA_REVOCATION && p->revocation_if_present) || list_has(p->optional, c->name);
}

static int appraise(struct judging *g, const struct st_evidence *ev, struct st_err *e)
{
    const struct st_verifier *v = st_verifier_find(ev->kind);
    const struct st_policy *p = g->policy;
    struct st_verify_env env = {.time = g->j->time};
    char name[64];
    if (strcmp(ev->kind, "sim") == 0 && p->has_sim_root)
        env.roots = (struct st_span){p->sim_root, sizeof p->sim_root};
    const json_t *own = json_object_get(p->roots, ev->kind);
    if (own)
        env.roots = (struct st_span){(const uint8_t *)json_string_value(own), json_string_length(own)};
    int rc = v->verify(ev, &env, g->found, e);
    if (rc == ST_MEMORY || rc == ST_INTERNAL)
        return rc;
    snprintf(name, sizeof name, "%s.format", ev->kind);
    struct st_check *c = st_appraisal_check(g->found, name, "%s", rc ? e->msg : "readable");
    c->result = rc ? ST_CHECK_FAIL : ST_CHECK_PASS;
    return 0;
}

/* Every item must have been found signed, by a key that is somebody's: a verifier that forgets to say so, or gave up
 * before, convinces nobody. */
static void require_signed(struct judging *g, const char *kind)
{
    static const char *const parts[] = {"signature", "chain"};
    const struct st_check *link = strcmp(kind, "tpm") == 0 ? st_appraisal_find_check(g->found, "tpm.link") : NULL;
    for (size_t i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", kind, parts[i]);
        const struct st_check *c = st_appraisal_find_check(g->found, name);
        if (!c)
            st_appraisal_check(g->found, name, "was not checked");
        else if (i == 1 && c->result == ST_CHECK_ABSENT && link && link->result == ST_CHECK_PASS) {
            struct st_check *own = (struct st_check *)(uintptr_t)c;
            st_check_detail(own, "the platform's report names this key");
            own->result = ST_CHECK_PASS;
        }
    }
}

static void conclude(const struct judging *g, struct st_verdict *v)
{
    const struct st_appraisal *a = g->found;
    bool evidence = a->failed || a->n_check == 0, demands = false;
    for (size_t i = 0; i < a->n_check; i++) {
        bool bad = !st_policy_tolerates(g->policy, &a->checks[i]);
        evidence = evidence || (bad && a->checks[i].area != ST_AREA_POLICY);
        demands = demands || bad;
    }
    v->code = evidence ? ST_VERIFY : demands ? ST_POLICY : 0;
    v->model_verified = v->model_verified && v->code == 0;
    v->good = v->code == 0;
}

int st_policy_judge(const struct st_judge *j, struct st_verdict *out, struct st_err *e)
{
    *out = (struct st_verdict){.code = ST_VERIFY};
    struct judging g = {j, j->policy, j->bundle, &out->found};
    bool pinned = false;
    int rc = 0;
    for (size_t i = 0; i < j->bundle->n_item && !rc; i++)
        rc = appraise(&g, &j->bundle->items[i], e);
    if (rc)
        goto out;
    judge_link(&g);
    for (size_t i = 0; i < j->bundle->n_item; i++)
        require_signed(&g, j->bundle->items[i].kind);
    if (j->bundle->has_binding)
        rc = judge_binding(&g, e);
    if (rc)
        goto out;
    judge_kinds(&g);
    judge_nonce(&g);
    if (!j->policy->signature_only) {
        pinned = judge_measurements(&g);
        judge_tcb(&g);
        judge_minimum(&g);
        judge_debug(&g);
        judge_migration(&g);
        judge_snp(&g);
        judge_age(&g);
    }
    judge_model(&g, pinned, out);
    judge_engine(&g);
    if (out->found.failed)
        rc = st_fail(e, ST_MEMORY, "verdict: out of memory, or more than %d checks", ST_APPRAISAL_MAX);
    else
        conclude(&g, out);
out:
    if (rc)
        st_verdict_wipe(out);
    return rc;
}

void st_verdict_wipe(struct st_verdict *v)
{
    st_appraisal_wipe(&v->found);
    *v = (struct st_verdict){.code = ST_VERIFY};
}

#include "service/proof.h"
#include "attest/binding.h"
#include "base/file.h"
#include "base/hooks.h"
#include "crypto/digest.h"

#include <string.h>

static const struct st_hpke_suite suite = {0x20, 1, 2};
static const char label[] = "sotto worker connection v1";
static const char *const roles[] = {
    [ST_PROOF_CLIENT] = "client", [ST_PROOF_WORKER] = "worker", [ST_PROOF_PREPARER] = "preparer"};

static void add(struct st_digest *d, const void *p, size_t len)
{
    const uint8_t n[4] = {(uint8_t)len, (uint8_t)(len >> 8), (uint8_t)(len >> 16), (uint8_t)(len >> 24)};
    st_digest_add(d, n, sizeof n);
    st_digest_add(d, p, len);
}

static int bind(const struct st_proof *p, struct st_binding *out, struct st_err *e)
{
    struct st_digest d;
    if (st_digest_init(&d, e))
        return e->code;
    add(&d, label, strlen(label));
    add(&d, roles[p->role], strlen(roles[p->role]));
    add(&d, p->exporter, sizeof p->exporter);
    *out = (struct st_binding){.suite = suite, .hpke_key_len = 32, .nonce_len = ST_PROOF_NONCE, .has_model = true};
    st_digest_end(&d, out->hpke_key);
    st_sha256(label, strlen(label), out->receipt_key);
    memcpy(out->nonce, p->nonce, sizeof p->nonce);
    memcpy(out->model, p->digest, sizeof p->digest);
    if (p->kit) {
        out->has_engine = true;
        memcpy(out->engine, p->kit, sizeof out->engine);
    }
    return 0;
}

int st_proof_make(struct st_collection *c, const struct st_proof *p, struct st_buf *out, struct st_err *e)
{
    struct st_binding b;
    struct st_bundle bundle;
    if (st_collection_unchanged(c, e) || bind(p, &b, e) || st_collection_collect(c, &b, &bundle, e))
        return e->code;
    st_bundle_write(&bundle, out);
    st_bundle_free(&bundle);
    return out->failed ? st_fail(e, ST_MEMORY, "evidence: no memory") : 0;
}

/* Which kit a client may have is a matter of the policy. */
static int check_binding(const struct st_proof *p, const struct st_binding *want, const struct st_bundle *bundle,
                         struct st_err *e)
{
    const struct st_binding *b = &bundle->binding;
    bool kit = p->role == ST_PROOF_CLIENT && b->has_engine;
    if (!bundle->has_binding)
        return st_fail(e, ST_VERIFY, "evidence without a binding");
    if (b->nonce_len != want->nonce_len || memcmp(b->nonce, want->nonce, want->nonce_len) != 0)
        return st_fail(e, ST_VERIFY, "evidence for another challenge");
    if (memcmp(&b->suite, &want->suite, sizeof want->suite) != 0 ||
        memcmp(b->receipt_key, want->receipt_key, sizeof want->receipt_key) != 0 || (b->has_engine && !kit))
        return st_fail(e, ST_VERIFY, "evidence that was made for something else than a worker's connection");
    if (b->hpke_key_len != want->hpke_key_len || memcmp(b->hpke_key, want->hpke_key, want->hpke_key_len) != 0)
        return st_fail(e, ST_VERIFY, "evidence of another connection, or of its other end");
    if (!b->has_model || memcmp(b->model, want->model, sizeof want->model) != 0)
        return st_fail(e, ST_VERIFY, "evidence that names another model");
    return 0;
}

int st_proof_verdict(const struct st_policy *p, const struct st_verdict *v, struct st_err *e)
{
    if (v->good)
        return 0;
    for (size_t i = 0; i < v->found.n_check; i++) {
        const struct st_check *c = &v->found.checks[i];
        if (!st_policy_tolerates(p, c))
            return st_fail(e, v->code, "%s: %s", c->name, c->detail);
    }
    return st_fail(e, ST_VERIFY, "evidence without a check");
}

static int judge(const struct st_policy *policy, const struct st_proof *p, const struct st_bundle *bundle,
                 struct st_err *e)
{
    const struct st_judge j = {.policy = policy,
                               .bundle = bundle,
                               .time = st_unix_time(),
                               .nonce = {p->nonce, sizeof p->nonce},
                               .nonce_time = p->asked};
    struct st_verdict v;
    int rc = st_policy_judge(&j, &v, e);
    if (rc)
        return rc;
    rc = st_proof_verdict(policy, &v, e);
    st_verdict_wipe(&v);
    return rc;
}

int st_proof_judge(const struct st_policy *policy, const struct st_proof *p, struct st_span evidence, struct st_err *e)
{
    struct st_binding want;
    struct st_bundle bundle;
    if (bind(p, &want, e) || st_bundle_parse((const char *)evidence.p, evidence.len, "evidence", &bundle, e))
        return e->code;
    int rc = check_binding(p, &want, &bundle, e);
    if (!rc)
        rc = judge(policy, p, &bundle, e);
    st_bundle_free(&bundle);
    return rc;
}

int st_proof_policy(const char *path, const char *what, struct st_policy **out, struct st_err *e)
{
    struct st_buf b = {0};
    *out = NULL;
    int rc = st_file_read(path, ST_POLICY_MAX_BYTES, &b, e);
    if (!rc)
        rc = st_policy_parse(b.p, b.len, path, out, e);
    st_buf_free(&b);
    if (!rc && st_policy_signature_only(*out))
        rc = st_fail(e, ST_POLICY, "%.200s: signature_only is for `sotto attest verify`; nothing is given away on it",
                     path);
    if (!rc && !st_policy_pins(*out))
        rc = st_fail(e, ST_POLICY, "%.200s: names no measurements: any program on such a machine would get %s", path,
                     what);
    if (!rc && !st_policy_pins_image(*out))
        rc = st_fail(e, ST_POLICY,
                     "%.200s: its measurements pin no program: any program on such a machine would get %s; want "
                     "snp.measurement, sgx.mrenclave, tdx.mrtd with tdx.rtmr1 and tdx.rtmr2, or tpm.pcr.4 with "
                     "tpm.pcr.11 or with tpm.pcr.8 and tpm.pcr.9",
                     path, what);
    if (rc) {
        st_policy_free(*out);
        *out = NULL;
    }
    return rc;
}

int st_proof_client_policy(const char *path, struct st_policy **out, struct st_err *e)
{
    int rc = st_proof_policy(path, "the weights", out, e);
    if (!rc && !st_policy_pins_engine(*out)) {
        rc = st_fail(e, ST_POLICY,
                     "%.200s: names no engine: a kit of anybody's making would get the weights; want the kit_digest of "
                     "`sotto-worker prepare --kit`",
                     path);
        st_policy_free(*out);
        *out = NULL;
    }
    return rc;
}

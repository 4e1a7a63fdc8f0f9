/* Nine gaps of verifiers as attacks: evidence made right, then wrong in one place, and shown to our verifier with the
 * policy of a careful client. A gateway that hands out such evidence would get prompts into a machine that is not what
 * it says. Score: the share of the ways that are accepted. The unprotected score is of a verifier with that gap: ours
 * without the check that each way names. So it says, too, that this check and no other is what holds.
 *
 *   N1 the model's PCR is compared with nothing    N4 GPU evidence may be missing    N7 the quote's key is linked to
 *   N2 values come from what nobody signed         N5 the node chooses the nonce        no machine
 *   N3 the quote's selection is not looked at      N6 measurement, debug, TCB        N8 the key's attributes
 *                                                                                    N9 old evidence counts
 *
 * The machine is a TPM in software below a root of the audit's own (audit/made_tpm.h), for N6 simulated evidence: the
 * verifier is the real one. Of vendors' formats (TDX, SEV-SNP, Hopper, Azure) the same gaps are tests of the suite.
 *
 * Source: papers on OpenPCC's verifier; docs/attestation.md. */
#include "audit/atk_gaps.h"
#include "attest/binding.h"
#include "attest/ev_sim.h"
#include "attest/policy.h"
#include "audit/attack.h"
#include "audit/made_tpm.h"
#include "crypto/aead.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <stdio.h>
#include <string.h>

#define NOW INT64_C(1750500000)
#define YEAR (365 * INT64_C(86400))
#define MAX_AGE 600
#define SVN 7
#define RIGHT .selected = ST_MADE_SELECTED, .told = ST_MADE_SELECTED, .attributes = ST_MADE_AK
#define QUOTED(pcrs) .selected = (pcrs), .told = ST_MADE_SELECTED, .attributes = ST_MADE_AK
#define OVER(pcrs) .selected = (pcrs), .told = (pcrs), .attributes = ST_MADE_AK
#define KEY(bits) .selected = ST_MADE_SELECTED, .told = ST_MADE_SELECTED, .attributes = (bits)
#define PCR(n) (1u << (n))
/* Values that do not hash to the quote, or are not quoted, are not stated: so the policy misses them as well. */
#define VALUES "tpm.pcr_values", "policy.tpm.pcr.12"
#define SELECTION "tpm.pcr_selection", "policy.tpm.pcr.12"
#define FIXED_TPM 0x2u
#define ORIGIN 0x20u
#define RESTRICTED 0x10000u

/* ---- the ways ---- */

/* closed_by: how the names of the checks begin that refuse it; a verifier with the gap has none of them. */
static const struct way {
    unsigned gap; /* 0: the right evidence */
    const char *what;
    const char *closed_by[3];
    struct st_made_tpm tpm;
    bool gpu;         /* the policy wants one */
    bool other_nonce; /* than the client asked for */
    int64_t age;
} ways[] = {
    {.what = "right", .tpm = {RIGHT}},
    {1, "another model's PCR", {"policy.tpm.pcr.12"}, .tpm = {RIGHT, .other_model = true}},
    {1, "the model's PCR left out", {"policy.tpm.pcr.12"}, .tpm = {OVER(ST_MADE_SELECTED & ~PCR(12))}},
    {2, "the value of the model's PCR edited", {VALUES}, .tpm = {RIGHT, .other_model = true, .edited = true}},
    {3, "a quote over PCR 0 with all values", {SELECTION}, .tpm = {QUOTED(PCR(0))}},
    {3, "a selection without PCR 7", {"tpm.pcr_selection"}, .tpm = {OVER(ST_MADE_SELECTED & ~PCR(7))}},
    {3, "a value that is not quoted", {SELECTION}, .tpm = {QUOTED(ST_MADE_SELECTED & ~PCR(12))}},
    {3, "the bank of SHA-1", {SELECTION, "tpm.pcr_values"}, .tpm = {RIGHT, .sha1 = true}},
    {4, "no GPU evidence", {"policy.gpu"}, .tpm = {RIGHT}, .gpu = true},
    {5, "a nonce of the node's choice", {"policy.nonce"}, .tpm = {RIGHT}, .other_nonce = true},
    {5,
     "the asked nonce over evidence of another",
     {"tpm.binding"},
     .tpm = {RIGHT, .nonce_exchanged = true},
     .other_nonce = true},
    {7, "a quote by a key that no machine vouches for", {"tpm.chain"}, .tpm = {RIGHT, .uncertified = true}},
    {7, "a quote by the TPM of another machine", {"tpm.signature"}, .tpm = {RIGHT, .other_key = true}},
    {7, "keys of another node over this one's evidence", {"tpm.binding"}, .tpm = {RIGHT, .key_exchanged = true}},
    {8, "a key that signs anything", {"tpm.ak_attributes"}, .tpm = {KEY(ST_MADE_AK & ~RESTRICTED)}},
    {8, "a key that may leave its TPM", {"tpm.ak_attributes"}, .tpm = {KEY(ST_MADE_AK & ~FIXED_TPM)}},
    {8, "a key that was made outside", {"tpm.ak_attributes"}, .tpm = {KEY(ST_MADE_AK & ~ORIGIN)}},
    {9, "evidence a year old", {"policy.max_age_s"}, .tpm = {RIGHT}, .age = YEAR},
    {9, "evidence a second too old", {"policy.max_age_s"}, .tpm = {RIGHT}, .age = MAX_AGE + 1},
    {9, "evidence of tomorrow", {"policy.max_age_s"}, .tpm = {RIGHT}, .age = -86400},
};

/* ---- judging ---- */

/* What became of one way. */
struct answer {
    bool accepted, weak; /* by the verifier; by one without the checks that close it */
    char why[160];       /* the first refusal by another check */
};

static bool is_of(const char *check, const char *const closed_by[3])
{
    for (int i = 0; i < 3; i++)
        if (closed_by[i] && strncmp(check, closed_by[i], strlen(closed_by[i])) == 0)
            return true;
    return false;
}

static int judge(const struct st_bundle *b, const char *policy, size_t len, int64_t age, const char *const closed_by[3],
                 struct answer *out, struct st_err *e)
{
    static const uint8_t nonce[32] = {0x33};
    struct st_policy *p = NULL;
    struct st_verdict v;
    int rc = st_policy_parse(policy, len, "audit", &p, e);
    if (rc)
        return rc;
    const struct st_judge j = {
        .policy = p, .bundle = b, .time = NOW, .nonce = {nonce, sizeof nonce}, .nonce_time = NOW - age};
    rc = st_policy_judge(&j, &v, e);
    if (!rc) {
        *out = (struct answer){.accepted = v.good, .weak = !v.found.failed};
        for (size_t i = 0; i < v.found.n_check; i++) {
            const struct st_check *c = &v.found.checks[i];
            if (st_policy_tolerates(p, c))
                continue;
            if (is_of(c->name, closed_by))
                continue;
            out->weak = false;
            if (!out->why[0])
                snprintf(out->why, sizeof out->why, "%.60s: %.90s", c->name, c->detail);
        }
        st_verdict_wipe(&v);
    }
    st_policy_free(p);
    return rc;
}

static void write_policy(const struct st_made_authority *a, bool gpu, struct st_buf *out)
{
    uint8_t pcr[32];
    char hex[65];
    st_made_pcr(ST_MADE_PCR_MODEL, pcr);
    st_hex(pcr, sizeof pcr, hex);
    st_buf_add_str(out, "{\"version\": 1, \"require\": [\"tpm\"], \"roots\": {\"tpm\": ");
    st_json_quote(out, a->roots.p, a->roots.len);
    st_buf_addf(out,
                "}, \"revocation\": \"if_present\", \"optional\": [\"tpm.event_log\"], \"max_age_s\": %d, "
                "\"measurements\": {\"tpm.pcr.%d\": [\"%s\"]}%s}",
                MAX_AGE, ST_MADE_PCR_MODEL, hex, gpu ? ", \"gpu\": true, \"allow\": [\"nvgpu\"]" : "");
}

static int try_tpm(const struct st_made_authority *a, const struct way *w, struct answer *out, struct st_err *e)
{
    struct st_made_evidence ev;
    struct st_made_tpm m = w->tpm;
    struct st_buf policy = {0};
    m.nonce[0] = w->other_nonce ? 0x32 : 0x33; /* nonce_exchanged turns the one into the other */
    int rc = st_made_tpm(a, &m, &ev, e);
    if (rc)
        return rc;
    write_policy(a, w->gpu, &policy);
    rc = policy.failed ? st_fail(e, ST_MEMORY, "gaps: no memory")
                       : judge(&ev.bundle, policy.p, policy.len, w->age, w->closed_by, out, e);
    st_buf_free(&policy);
    st_made_evidence_free(&ev);
    return rc;
}

/* ---- N6: on simulated evidence, which states all three ---- */

static const struct sim_way {
    const char *what;
    const char *closed_by[3];
    bool debug, other;
    uint32_t svn;
} sim_ways[] = {
    {"right", {NULL}, false, false, SVN},
    {"a debug guest", {"policy.debug.sim"}, true, false, SVN},
    {"another measurement", {"policy.sim.measurement"}, false, true, SVN},
    {"an old patch level", {"policy.minimum.sim.svn"}, false, false, SVN - 1},
};

static int try_sim(const struct st_ed25519 *root, const struct sim_way *w, struct answer *out, struct st_err *e)
{
    struct st_sim s = {.debug = w->debug, .svn = w->svn, .time = NOW, .measurement = {w->other}};
    struct st_bundle b = {.n_item = 1, .items = {{.kind = "sim"}}, .has_binding = true};
    uint8_t report[ST_SIM_LEN], public[ST_ED25519_PUBLIC];
    char hex[65], policy[400];
    b.binding = (struct st_binding){.suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_AES_128_GCM},
                                    .hpke_key_len = 32,
                                    .nonce_len = 32,
                                    .nonce = {0x33}};
    if (st_binding_report_data(&b, 0, s.report_data, e) || st_sim_collect(root, &s, report, e))
        return e->code;
    b.items[0].data = (struct st_span){report, sizeof report};
    st_ed25519_public(root, public);
    st_hex(public, sizeof public, hex);
    int n = snprintf(policy, sizeof policy,
                     "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"%s\", \"max_age_s\": %d, "
                     "\"minimum\": {\"sim.svn\": %d}, \"measurements\": {\"sim.measurement\": [\"%064d\"]}}",
                     hex, MAX_AGE, SVN, 0);
    return judge(&b, policy, (size_t)n, 0, w->closed_by, out, e);
}

/* ---- one gap ---- */

/* right: it must be accepted, or a refusal of the others says nothing. */
static int add(struct st_gap_found *f, const char *what, bool right, const struct answer *a, struct st_err *e)
{
    if (right)
        return a->accepted ? 0 : st_fail(e, ST_INTERNAL, "gaps: the right evidence is refused: %.160s", a->why);
    f->n++;
    f->accepted += a->accepted;
    f->weak += a->weak;
    if (a->accepted && !f->first)
        f->first = what;
    if (!a->weak && !f->held[0])
        snprintf(f->held, sizeof f->held, "%.60s: %.150s", what, a->why);
    return 0;
}

static int gap_tpm(unsigned gap, struct st_gap_found *out, struct st_err *e)
{
    struct st_made_authority a;
    int rc = st_made_authority_new(&a, NOW, e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < sizeof ways / sizeof *ways; i++) {
        struct answer got;
        if (ways[i].gap != 0 && ways[i].gap != gap)
            continue;
        rc = try_tpm(&a, &ways[i], &got, e);
        if (!rc)
            rc = add(out, ways[i].what, ways[i].gap == 0, &got, e);
    }
    st_made_authority_free(&a);
    return rc;
}

static int gap_sim(struct st_gap_found *out, struct st_err *e)
{
    struct st_ed25519 *root = NULL;
    int rc = st_ed25519_new(&root, e);
    for (size_t i = 0; !rc && i < sizeof sim_ways / sizeof *sim_ways; i++) {
        struct answer got;
        rc = try_sim(root, &sim_ways[i], &got, e);
        if (!rc)
            rc = add(out, sim_ways[i].what, i == 0, &got, e);
    }
    st_ed25519_free(root);
    return rc;
}

int st_gap_try(unsigned gap, struct st_gap_found *out, struct st_err *e)
{
    *out = (struct st_gap_found){0};
    if (gap < 1 || gap > ST_GAPS)
        return st_fail(e, ST_USAGE, "gap %u: there are 1 to %d", gap, ST_GAPS);
    return gap == 6 ? gap_sim(out, e) : gap_tpm(gap, out, e);
}

/* ---- the attack ---- */

static const char *const names[ST_GAPS] = {
    "the model's PCR",         "values that nobody signed", "the quote's selection",       "GPU evidence", "the nonce",
    "measurement, debug, TCB", "link of the keys",          "attributes of the TPM's key", "age",
};

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    int rc = 0;
    if (!a->target->traffic)
        return st_fail(e, ST_UNSUPPORTED, "needs the traffic of a set-up");
    for (unsigned gap = 1; !rc && gap <= ST_GAPS; gap++) {
        struct st_gap_found f;
        struct st_row row = {.chance = 0};
        if (a->cancel && *a->cancel)
            return st_fail(e, ST_IO, "cancelled");
        rc = st_gap_try(gap, &f, e);
        if (rc)
            break;
        st_row_all(&row, f.accepted, f.n);
        row.unprotected = (double)f.weak / f.n;
        snprintf(row.variant, sizeof row.variant, "N%u, %s", gap, names[gap - 1]);
        snprintf(row.note, sizeof row.note, "%s%s%s", f.first ? "Accepted: " : "", f.first ? f.first : "",
                 gap == 6 ? "Simulated evidence; the policy is judged by the real verifier."
                          : "A TPM in software; the verifier is the real one.");
        rc = st_rows_add(rows, &row, e);
    }
    return rc;
}

const struct st_attack st_atk_gaps = {.name = "verifier-gaps",
                                      .title = "Wrong evidence shown to the verifier",
                                      .metric = "share of the ways that are accepted",
                                      .source = "docs/attestation.md; OpenPCC's verifier",
                                      .adversary = ST_ADVERSARY_GATEWAY,
                                      .needs = ST_TARGET_TRAFFIC,
                                      .run = run};

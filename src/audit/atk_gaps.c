/* Nine gaps of verifiers as attacks: evidence made right, then wrong in one place, and shown to our verifier with the
 * policy of a careful client. A gateway that hands out such evidence would get prompts into a machine that is not what
 * it says. Score: the share of the ways that are accepted. The unprotected score is of a policy that judges signatures
 * alone; what refuses even then (N7, N8) no policy can switch off.
 *
 *   N1 the model's PCR is compared with nothing     N4 GPU evidence may be missing    N7 TPM and platform are not
 * linked N2 values come from what nobody signed          N5 the node chooses the nonce     N8 the key's attributes N3
 * the quote's selection                        N6 measurement, debug, TCB        N9 old evidence counts
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
#define PCR(n) (1u << (n))
#define FIXED_TPM 0x2u
#define ORIGIN 0x20u
#define RESTRICTED 0x10000u

/* ---- the ways ---- */

static const struct way {
    unsigned gap; /* 0: the right evidence */
    const char *what;
    struct st_made_tpm tpm;
    bool gpu;         /* the policy wants one */
    bool other_nonce; /* than the client asked for */
    int64_t age;
} ways[] = {
    {.what = "right", .tpm = {RIGHT}},
    {1, "another model's PCR", {RIGHT, .other_model = true}, .age = 0},
    {1,
     "the model's PCR left out",
     {.selected = ST_MADE_SELECTED & ~PCR(12), .told = ST_MADE_SELECTED & ~PCR(12), .attributes = ST_MADE_AK},
     .age = 0},
    {2, "the value of the model's PCR edited", {RIGHT, .other_model = true, .edited = true}, .age = 0},
    {3,
     "a quote over PCR 0 with all values",
     {.selected = PCR(0), .told = ST_MADE_SELECTED, .attributes = ST_MADE_AK},
     .age = 0},
    {3,
     "a selection without PCR 7",
     {.selected = ST_MADE_SELECTED & ~PCR(7), .told = ST_MADE_SELECTED & ~PCR(7), .attributes = ST_MADE_AK},
     .age = 0},
    {3,
     "a value that is not quoted",
     {.selected = ST_MADE_SELECTED & ~PCR(12), .told = ST_MADE_SELECTED, .attributes = ST_MADE_AK},
     .age = 0},
    {3, "the bank of SHA-1", {RIGHT, .sha1 = true}, .age = 0},
    {4, "no GPU evidence", {RIGHT}, .gpu = true},
    {5, "a nonce of the node's choice", {RIGHT}, .other_nonce = true},
    {5, "the asked nonce over evidence of another", {RIGHT, .nonce_exchanged = true}, .other_nonce = true},
    {7, "a quote by the TPM of another machine", {RIGHT, .other_key = true}, .age = 0},
    {7, "keys of another node over this one's evidence", {RIGHT, .key_exchanged = true}, .age = 0},
    {8,
     "a key that signs anything",
     {.selected = ST_MADE_SELECTED, .told = ST_MADE_SELECTED, .attributes = ST_MADE_AK & ~RESTRICTED},
     .age = 0},
    {8,
     "a key that may leave its TPM",
     {.selected = ST_MADE_SELECTED, .told = ST_MADE_SELECTED, .attributes = ST_MADE_AK & ~FIXED_TPM},
     .age = 0},
    {8,
     "a key that was made outside",
     {.selected = ST_MADE_SELECTED, .told = ST_MADE_SELECTED, .attributes = ST_MADE_AK & ~ORIGIN},
     .age = 0},
    {9, "evidence a year old", {RIGHT}, .age = YEAR},
    {9, "evidence a second too old", {RIGHT}, .age = MAX_AGE + 1},
    {9, "evidence of tomorrow", {RIGHT}, .age = -86400},
};

/* ---- judging ---- */

/* signature_only: what a careless client believes, who asked for no nonce either. */
static int judge(const struct st_bundle *b, const char *policy, size_t len, bool signature_only, int64_t age,
                 bool *accepted, char why[160], struct st_err *e)
{
    static const uint8_t nonce[32] = {0x33};
    struct st_policy *p = NULL;
    struct st_verdict v;
    int rc = st_policy_parse(policy, len, "audit", &p, e);
    if (rc)
        return rc;
    const struct st_judge j = {.policy = p,
                               .bundle = b,
                               .time = NOW,
                               .nonce = {nonce, signature_only ? 0 : sizeof nonce},
                               .nonce_time = NOW - age};
    rc = st_policy_judge(&j, &v, e);
    if (!rc) {
        *accepted = v.good;
        why[0] = 0;
        for (size_t i = 0; i < v.found.n_check && !v.good && !why[0]; i++)
            if (!st_policy_tolerates(p, &v.found.checks[i]))
                snprintf(why, 160, "%.60s: %.90s", v.found.checks[i].name, v.found.checks[i].detail);
        st_verdict_wipe(&v);
    }
    st_policy_free(p);
    return rc;
}

static void write_policy(const struct st_made_authority *a, bool gpu, bool signature_only, struct st_buf *out)
{
    uint8_t pcr[32];
    char hex[65];
    st_buf_add_str(out, "{\"version\": 1, \"require\": [\"tpm\"], \"roots\": {\"tpm\": ");
    st_json_quote(out, a->roots.p, a->roots.len);
    st_buf_add_str(out, "}");
    if (signature_only)
        st_buf_add_str(out, ", \"signature_only\": true");
    else {
        st_made_pcr(ST_MADE_PCR_MODEL, pcr);
        st_hex(pcr, sizeof pcr, hex);
        st_buf_addf(out,
                    ", \"revocation\": \"if_present\", \"optional\": [\"tpm.event_log\"], \"max_age_s\": %d, "
                    "\"measurements\": {\"tpm.pcr.%d\": [\"%s\"]}%s",
                    MAX_AGE, ST_MADE_PCR_MODEL, hex, gpu ? ", \"gpu\": true, \"allow\": [\"nvgpu\"]" : "");
    }
    st_buf_add_str(out, "}");
}

static int try_tpm(const struct st_made_authority *a, const struct way *w, bool signature_only, bool *accepted,
                   char why[160], struct st_err *e)
{
    struct st_made_evidence ev;
    struct st_made_tpm m = w->tpm;
    struct st_buf policy = {0};
    m.nonce[0] = w->other_nonce ? 0x32 : 0x33; /* nonce_exchanged turns the one into the other */
    int rc = st_made_tpm(a, &m, &ev, e);
    if (rc)
        return rc;
    write_policy(a, w->gpu, signature_only, &policy);
    rc = policy.failed ? st_fail(e, ST_MEMORY, "gaps: no memory")
                       : judge(&ev.bundle, policy.p, policy.len, signature_only, w->age, accepted, why, e);
    st_buf_free(&policy);
    st_made_evidence_free(&ev);
    return rc;
}

/* ---- N6: on simulated evidence, which states all three ---- */

static const struct sim_way {
    const char *what;
    bool debug, other;
    uint32_t svn;
} sim_ways[] = {
    {"right", false, false, SVN},
    {"a debug guest", true, false, SVN},
    {"another measurement", false, true, SVN},
    {"an old patch level", false, false, SVN - 1},
};
#define N_SIM (sizeof sim_ways / sizeof *sim_ways)

static int try_sim(const struct st_ed25519 *root, const struct sim_way *w, bool signature_only, bool *accepted,
                   char why[160], struct st_err *e)
{
    struct st_sim s = {.debug = w->debug, .svn = w->svn, .time = NOW, .measurement = {w->other}};
    struct st_bundle b = {.n_item = 1, .items = {{.kind = "sim"}}, .has_binding = true};
    uint8_t report[ST_SIM_LEN], public[ST_ED25519_PUBLIC];
    char hex[65], policy[700], more[300] = ", \"signature_only\": true";
    b.binding = (struct st_binding){.suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_AES_128_GCM},
                                    .hpke_key_len = 32,
                                    .nonce_len = 32,
                                    .nonce = {0x33}};
    if (st_binding_report_data(&b, 0, s.report_data, e) || st_sim_collect(root, &s, report, e))
        return e->code;
    b.items[0].data = (struct st_span){report, sizeof report};
    st_ed25519_public(root, public);
    st_hex(public, sizeof public, hex);
    if (!signature_only)
        snprintf(
            more, sizeof more,
            ", \"max_age_s\": %d, \"minimum\": {\"sim.svn\": %d}, \"measurements\": {\"sim.measurement\": [\"%064d\"]}",
            MAX_AGE, SVN, 0);
    int n =
        snprintf(policy, sizeof policy, "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"%s\"%s}", hex, more);
    return judge(&b, policy, (size_t)n, signature_only, 0, accepted, why, e);
}

/* ---- one gap ---- */

static void add(struct st_gap_found *f, const char *what, bool full, bool lax)
{
    f->n++;
    f->accepted += full;
    f->lax += lax;
    if (full && !f->first)
        f->first = what;
}

static int refused(const char *why, struct st_err *e)
{
    return st_fail(e, ST_INTERNAL, "gaps: the right evidence is refused: %.160s", why);
}

static int gap_tpm(unsigned gap, struct st_gap_found *out, struct st_err *e)
{
    struct st_made_authority a;
    char why[160];
    int rc = st_made_authority_new(&a, NOW, e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < sizeof ways / sizeof *ways; i++) {
        bool full = false, lax = false;
        if (ways[i].gap != 0 && ways[i].gap != gap)
            continue;
        rc = try_tpm(&a, &ways[i], true, &lax, why, e);
        if (!rc)
            rc = try_tpm(&a, &ways[i], false, &full, why, e);
        if (!rc && ways[i].gap == 0 && !full)
            rc = refused(why, e);
        if (!rc && ways[i].gap != 0)
            add(out, ways[i].what, full, lax);
    }
    st_made_authority_free(&a);
    return rc;
}

static int gap_sim(struct st_gap_found *out, struct st_err *e)
{
    struct st_ed25519 *root = NULL;
    char why[160];
    int rc = st_ed25519_new(&root, e);
    for (size_t i = 0; !rc && i < N_SIM; i++) {
        bool full = false, lax = false;
        rc = try_sim(root, &sim_ways[i], true, &lax, why, e);
        if (!rc)
            rc = try_sim(root, &sim_ways[i], false, &full, why, e);
        if (!rc && i == 0 && !full)
            rc = refused(why, e);
        if (!rc && i > 0)
            add(out, sim_ways[i].what, full, lax);
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
        st_row_share(&row, f.accepted, f.n);
        row.unprotected = (double)f.lax / f.n;
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

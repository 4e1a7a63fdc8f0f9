#include "attest/tpm_policy.h"
#include "crypto/digest.h"

#include <stdlib.h>
#include <string.h>

#define CC_POLICY_NV 0x149
#define CC_POLICY_PCR 0x17f
#define EO_UNSIGNED_LE 9

static const struct {
    const char *name;
    uint32_t bank;
} banks[] = {{"sha1", ST_TPM_SHA1}, {"sha256", ST_TPM_SHA256}, {"sha384", ST_TPM_SHA384}};
#define N_BANK (sizeof banks / sizeof *banks)

uint32_t st_tpm_bank(const char *name)
{
    for (size_t i = 0; i < N_BANK; i++)
        if (strcmp(banks[i].name, name) == 0)
            return banks[i].bank;
    return 0;
}

const char *st_tpm_bank_name(uint32_t bank)
{
    for (size_t i = 0; i < N_BANK; i++)
        if (banks[i].bank == bank)
            return banks[i].name;
    return "";
}

bool st_tpm_pcrs_ok(const struct st_tpm_pcrs *p)
{
    return *st_tpm_bank_name(p->bank) && p->mask && p->mask >> ST_TPM_N_PCR == 0;
}

int st_tpm_pcrs_parse(const char *text, const char *what, struct st_tpm_pcrs *out, struct st_err *e)
{
    char bank[8] = "";
    const char *p = strchr(text, ':');
    if (p && (size_t)(p - text) < sizeof bank)
        memcpy(bank, text, (size_t)(p - text));
    *out = (struct st_tpm_pcrs){.bank = st_tpm_bank(bank)};
    while (out->bank && *p) { /* p is at a colon or comma */
        char *end;
        unsigned long n = strtoul(p + 1, &end, 10);
        if (p[1] < '0' || p[1] > '9' || n >= ST_TPM_N_PCR || (*end && *end != ','))
            break;
        out->mask |= 1u << n;
        p = end;
    }
    return out->bank && !*p ? 0
                            : st_fail(e, ST_USAGE,
                                      "%s: want sha1, sha256 or sha384, a colon and PCRs 0..23 as in sha256:7,11, got "
                                      "'%s'",
                                      what, text);
}

void st_tpm_pcrs_text(const struct st_tpm_pcrs *p, struct st_buf *out)
{
    const char *sep = ":";
    st_buf_add_str(out, st_tpm_bank_name(p->bank));
    for (unsigned i = 0; i < ST_TPM_N_PCR; i++)
        if (p->mask >> i & 1) {
            st_buf_addf(out, "%s%u", sep, i);
            sep = ",";
        }
}

static void put(uint8_t **p, uint64_t v, int n)
{
    while (n--)
        *(*p)++ = (uint8_t)(v >> (8 * n));
}

int st_tpm_counter_name(uint32_t index, uint8_t name[ST_TPM_NAME_LEN], struct st_err *e)
{
    uint8_t area[14], *p = area;
    if (index < ST_TPM_COUNTER_FIRST || index > ST_TPM_COUNTER_LAST)
        return st_fail(e, ST_INPUT, "counter: want an index in 0x%08x..0x%08x, got 0x%08x", ST_TPM_COUNTER_FIRST,
                       ST_TPM_COUNTER_LAST, index);
    put(&p, index, 4);
    put(&p, ST_TPM_SHA256, 2);
    put(&p, ST_TPM_COUNTER_ATTRIBUTES | ST_TPM_COUNTER_WRITTEN, 4);
    put(&p, 0, 2); /* no policy */
    put(&p, 8, 2); /* bytes */
    name[0] = 0;
    name[1] = ST_TPM_SHA256;
    st_sha256(area, sizeof area, name + 2);
    return 0;
}

/* digest = SHA-256(digest | command | what it was asked with) */
static void extend(uint8_t digest[32], uint32_t command, const uint8_t *asked, size_t len)
{
    uint8_t in[32 + 4 + 96], *p = in + 32;
    memcpy(in, digest, 32);
    put(&p, command, 4);
    memcpy(p, asked, len);
    st_sha256(in, (size_t)(p - in) + len, digest);
}

int st_tpm_policy_pcrs(uint8_t digest[32], const struct st_tpm_values *v, struct st_err *e)
{
    struct st_digest d;
    uint8_t asked[10 + 32], *p = asked;
    size_t n = st_tpm_hash_len(v->pcrs.bank);
    if (!st_tpm_pcrs_ok(&v->pcrs))
        return st_fail(e, ST_INTERNAL, "policy: no PCRs");
    if (st_digest_init(&d, e))
        return e->code;
    for (unsigned i = 0; i < ST_TPM_N_PCR; i++)
        if (v->pcrs.mask >> i & 1)
            st_digest_add(&d, v->of[i], n);
    put(&p, 1, 4); /* TPML_PCR_SELECTION of one bank */
    put(&p, v->pcrs.bank, 2);
    put(&p, 3, 1);
    for (int i = 0; i < 24; i += 8)
        put(&p, v->pcrs.mask >> i & 0xff, 1);
    st_digest_end(&d, p);
    extend(digest, CC_POLICY_PCR, asked, sizeof asked);
    return 0;
}

int st_tpm_policy_counter(uint8_t digest[32], uint32_t index, uint64_t limit, struct st_err *e)
{
    uint8_t args[12], asked[32 + ST_TPM_NAME_LEN], *p = args;
    put(&p, limit, 8);
    put(&p, 0, 2); /* offset */
    put(&p, EO_UNSIGNED_LE, 2);
    st_sha256(args, sizeof args, asked);
    if (st_tpm_counter_name(index, asked + 32, e))
        return e->code;
    extend(digest, CC_POLICY_NV, asked, sizeof asked);
    return 0;
}

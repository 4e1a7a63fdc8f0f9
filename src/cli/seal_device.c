/* sotto seal device: what a publisher needs to know of this machine's TPM (protect/sealed/device.h). */
#include "cli/key_open.h"
#include "cli/seal.h"

#include <stdlib.h>
#include <string.h>

int st_seal_counter(const char *arg, uint32_t *index, struct st_err *e)
{
    char *end;
    *index = 0;
    if (strcmp(arg, "new") == 0)
        return 0;
    unsigned long n = strtoul(arg, &end, 16);
    if (strncmp(arg, "0x", 2) != 0 || *end || n < ST_TPM_COUNTER_FIRST || n > ST_TPM_COUNTER_LAST)
        return st_fail(e, ST_USAGE, "--counter: want `new` or an index in 0x%08x..0x%08x, got '%.40s'",
                       ST_TPM_COUNTER_FIRST, ST_TPM_COUNTER_LAST, arg);
    *index = (uint32_t)n;
    return 0;
}

int st_seal_storage_key(const char *arg, enum st_tpm_storage_key *out, struct st_err *e)
{
    if (strcmp(arg, "ecc") != 0 && strcmp(arg, "rsa") != 0)
        return st_fail(e, ST_USAGE, "--storage-key: want ecc or rsa, got '%.40s'", arg);
    *out = arg[0] == 'r' ? ST_TPM_STORAGE_RSA : ST_TPM_STORAGE_ECC;
    return 0;
}

/* A PCR that starts say nothing of: as it was reset, all zeros or all ones. */
static void warn_unmeasured(const struct st_cli *cli, const struct st_tpm_values *v)
{
    const size_t n = st_tpm_hash_len(v->pcrs.bank);
    struct st_tpm_pcrs untouched = {v->pcrs.bank, 0};
    struct st_buf which = {0};
    for (unsigned i = 0; i < ST_TPM_N_PCR; i++) {
        bool same = v->pcrs.mask >> i & 1 && (v->of[i][0] == 0 || v->of[i][0] == 0xff);
        for (size_t k = 1; same && k < n; k++)
            same = v->of[i][k] == v->of[i][0];
        untouched.mask |= (uint32_t)same << i;
    }
    if (!untouched.mask || cli->quiet)
        return;
    st_tpm_pcrs_text(&untouched, &which);
    fprintf(stderr, "sotto: nothing was measured into PCRs %s: they hold whatever this machine starts\n",
            which.failed ? "" : which.p);
    st_buf_free(&which);
}

int st_seal_device(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e)
{
    struct st_sealed_device_opts asked = o->device;
    struct st_sealed_device d;
    struct st_buf text = {0};
    struct st_buf pem = {0};
    if (asked.ak && !o->certificate)
        return st_fail(e, ST_USAGE, "seal device: --tpm-ak goes with --certify");
    asked.tcti = st_key_tcti(cli);
    int rc = asked.pcrs.bank ? 0 : st_tpm_pcrs_parse(ST_SEALED_PCRS, "PCRs", &asked.pcrs, e);
    if (!rc && o->certificate)
        rc = st_file_read(o->certificate, ST_SEALED_DEVICE_MAX / 2, &pem, e);
    asked.certificates = (struct st_span){(const uint8_t *)pem.p, pem.len};
    if (!rc)
        rc = st_sealed_device_read(&asked, &text, e);
    if (!rc)
        rc = st_sealed_device_parse((struct st_span){(const uint8_t *)text.p, text.len}, "TPM", &d, e);
    if (!rc) {
        warn_unmeasured(cli, &d.values);
        fputs(text.p, stdout);
        st_sealed_device_free(&d);
    }
    st_buf_free(&pem);
    st_buf_free(&text);
    return rc;
}

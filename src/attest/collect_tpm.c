/* TPM 2.0: a quote over PCRs 0 to 14, with values, key, certificate and the firmware's event log. */
#include "attest/bundle.h"
#include "attest/collector.h"
#include "attest/tpm_device.h"
#include "base/file.h"
#include "crypto/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_LOG "/sys/kernel/security/tpm0/binary_bios_measurements"

struct tpm {
    uint16_t port;
    struct st_tpm_device *device;
    struct st_tpm_state boot; /* at open(); every quote must be of it */
    struct st_buf certs, event_log;
};

static void tpm_close(void *h)
{
    struct tpm *t = h;
    st_tpm_device_close(t->device);
    st_buf_free(&t->certs);
    st_buf_free(&t->event_log);
    free(t);
}

/* A file of securityfs says that it is empty: read to its end, not to its size. */
static int read_log(const char *path, struct st_buf *out, struct st_err *e)
{
    char part[8192];
    size_t n;
    FILE *f = fopen(path, "rbe");
    if (!f)
        return st_fail(e, ST_IO, "%s: cannot be opened: the TPM's event log", path);
    while ((n = fread(part, 1, sizeof part, f)) > 0 && out->len <= ST_EVIDENCE_MAX_BYTES)
        st_buf_add(out, part, n);
    bool bad = ferror(f) != 0;
    fclose(f);
    if (bad)
        return st_fail(e, ST_IO, "%s: cannot be read", path);
    return out->failed || out->len > ST_EVIDENCE_MAX_BYTES
               ? st_fail(e, ST_INPUT, "%s: want at most %zu bytes of event log", path, ST_EVIDENCE_MAX_BYTES)
               : 0;
}

static int read_files(struct tpm *t, const struct st_collect_opts *o, struct st_err *e)
{
    if (o->tpm_certs && st_file_read(o->tpm_certs, ST_EVIDENCE_MAX_BYTES, &t->certs, e))
        return e->code;
    if (o->tpm_certs &&
        !(st_endorsement_recognise((const uint8_t *)t->certs.p, t->certs.len) & 1u << ST_ENDORSEMENT_CERTS))
        return st_fail(e, ST_INPUT, "%s: want certificates of the attestation key", o->tpm_certs);
    if (o->event_log)
        return read_log(o->event_log, &t->event_log, e);
    return st_path_exists(EVENT_LOG) ? read_log(EVENT_LOG, &t->event_log, e) : 0;
}

static int tpm_open(const struct st_collect_opts *o, void **h, struct st_err *e)
{
    struct tpm *t = calloc(1, sizeof *t);
    if (!t)
        return st_fail(e, ST_MEMORY, "tpm: no memory");
    t->port = st_tpm_device_port(o->tcti);
    int rc = read_files(t, o, e);
    if (!rc)
        rc = st_tpm_device_open(o->tcti, o->tpm_ak, &t->device, e);
    if (!rc)
        rc = st_tpm_device_state(t->device, &t->boot, e);
    if (rc)
        tpm_close(t);
    else
        *h = t;
    return rc;
}

static int tpm_unchanged(void *h, struct st_err *e)
{
    struct tpm *t = h;
    struct st_tpm_state now;
    if (st_tpm_device_state(t->device, &now, e))
        return e->code;
    for (unsigned i = 0; i < ST_TPM_QUOTED_PCRS; i++)
        if (memcmp(now.pcrs[i], t->boot.pcrs[i], sizeof now.pcrs[i]) != 0)
            return st_fail(e, ST_VERIFY, "TPM: PCR %u was extended since this program started", i);
    if (now.reset_count != t->boot.reset_count || now.restart_count != t->boot.restart_count)
        return st_fail(e, ST_VERIFY, "TPM: it started anew, or woke up, since this program started");
    return 0;
}

static void write_pcrs(const struct st_tpm_state *s, struct st_buf *out)
{
    st_buf_add_str(out, "{\"pcrs\": {\"sha256\": {");
    for (unsigned i = 0; i < ST_TPM_QUOTED_PCRS; i++) {
        char hex[65];
        st_hex(s->pcrs[i], sizeof s->pcrs[i], hex);
        st_buf_addf(out, "%s\"%u\": \"%s\"", i ? ", " : "", i, hex);
    }
    st_buf_add_str(out, "}}}");
}

static int endorse_all(const struct tpm *t, const struct st_buf *signature, st_endorse_fn *endorse, void *ctx,
                       struct st_err *e)
{
    struct st_buf pcrs = {0};
    const struct st_span ak = st_tpm_device_ak(t->device);
    write_pcrs(&t->boot, &pcrs);
    int rc = pcrs.failed || signature->failed ? st_fail(e, ST_MEMORY, "tpm: no memory") : 0;
    const struct {
        enum st_endorsement_type type;
        const void *p;
        size_t len;
    } all[] = {{ST_ENDORSEMENT_SIGNATURE, signature->p, signature->len},
               {ST_ENDORSEMENT_AK_PUBLIC, ak.p, ak.len},
               {ST_ENDORSEMENT_PCRS, pcrs.p, pcrs.len},
               {ST_ENDORSEMENT_CERTS, t->certs.p, t->certs.len},
               {ST_ENDORSEMENT_EVENT_LOG, t->event_log.p, t->event_log.len}};
    for (size_t i = 0; i < sizeof all / sizeof *all && !rc; i++)
        if (all[i].len)
            rc = endorse(ctx, all[i].type, all[i].p, all[i].len, e);
    st_buf_free(&pcrs);
    return rc;
}

static int tpm_collect(void *h, const uint8_t *data, size_t len, struct st_buf *evidence, st_endorse_fn *endorse,
                       void *ctx, struct st_err *e)
{
    struct tpm *t = h;
    struct st_buf signature = {0};
    uint8_t quoted[32], expected[32];
    int rc = tpm_unchanged(h, e);
    if (!rc)
        rc = st_tpm_device_quote(t->device, data, len, evidence, &signature, quoted, e);
    st_sha256(t->boot.pcrs, sizeof t->boot.pcrs, expected);
    if (!rc && memcmp(quoted, expected, sizeof quoted) != 0)
        rc = st_fail(e, ST_VERIFY, "TPM: a PCR was extended since this program started");
    if (!rc)
        rc = endorse_all(t, &signature, endorse, ctx, e);
    st_buf_free(&signature);
    return rc;
}

static void tpm_needs(const void *h, struct st_collect_needs *out)
{
    out->port = ((const struct tpm *)h)->port;
}

const struct st_collector st_collector_tpm = {.kind = "tpm",
                                              .endorsements = 1u << ST_ENDORSEMENT_CRL,
                                              .open = tpm_open,
                                              .collect = tpm_collect,
                                              .unchanged = tpm_unchanged,
                                              .needs = tpm_needs,
                                              .close = tpm_close};

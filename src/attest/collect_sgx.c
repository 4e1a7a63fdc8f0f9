/* SGX under Gramine: data written to /dev/attestation/user_report_data, the quote read from /dev/attestation/quote
 * (Gramine, "Attestation and Secret Provisioning"). Both files belong to this process alone, so nobody else's data can
 * come in between. */
#include "attest/collector.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GRAMINE "/dev/attestation"
#define QUOTE_MAX ((size_t)64 << 10)
#define USER_DATA 64

/* These files say nothing of their size. */
static int read_file(const char *dir, const char *name, size_t max, struct st_buf *out, struct st_err *e)
{
    char path[ST_PATH_MAX], part[4096];
    ssize_t n = 0;
    if (st_path_join(path, sizeof path, dir, name, e))
        return e->code;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && out->len <= max && (n = read(fd, part, sizeof part)) > 0)
        st_buf_add(out, part, (size_t)n);
    int err = errno;
    if (fd >= 0)
        close(fd);
    if (fd < 0 || n < 0)
        return st_fail(e, ST_IO, "sgx: %s: %s", path, strerror(err));
    if (out->failed)
        return st_fail(e, ST_MEMORY, "sgx: no memory");
    return out->len && out->len <= max ? 0 : st_fail(e, ST_INPUT, "sgx: %s: want 1..%zu bytes", path, max);
}

static int sgx_open(const struct st_collect_opts *o, void **h, struct st_err *e)
{
    const char *dir = o->gramine ? o->gramine : GRAMINE;
    struct st_buf type = {0};
    int rc = read_file(dir, "attestation_type", 64, &type, e);
    if (rc == ST_IO)
        rc = st_fail(e, ST_UNSUPPORTED, "sgx: no Gramine around this process: %s/attestation_type cannot be read", dir);
    /* "none": no remote attestation was configured; "epid" has ended. */
    if (!rc && (type.len < 4 || memcmp(type.p, "dcap", 4) != 0))
        rc = st_fail(e, ST_UNSUPPORTED, "sgx: %s/attestation_type: want dcap (sgx.remote_attestation of the manifest)",
                     dir);
    st_buf_free(&type);
    if (!rc && !(*h = strdup(dir)))
        rc = st_fail(e, ST_MEMORY, "sgx: no memory");
    return rc;
}

static int sgx_collect(void *h, const uint8_t *data, size_t len, struct st_buf *evidence, st_endorse_fn *endorse,
                       void *ctx, struct st_err *e)
{
    char path[ST_PATH_MAX];
    uint8_t user[USER_DATA] = {0};
    (void)endorse;
    (void)ctx;
    if (len > sizeof user)
        return st_fail(e, ST_INTERNAL, "sgx: %zu bytes of report data", len);
    memcpy(user, data, len);
    if (st_path_join(path, sizeof path, h, "user_report_data", e))
        return e->code;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : write(fd, user, sizeof user);
    int err = errno;
    if (fd >= 0)
        close(fd);
    if (n != (ssize_t)sizeof user)
        return st_fail(e, ST_IO, "sgx: %s: %s", path, n < 0 ? strerror(err) : "short write");
    return read_file(h, "quote", QUOTE_MAX, evidence, e);
}

static void sgx_needs(const void *h, struct st_collect_needs *out)
{
    st_collect_needs_write(out, h);
}

const struct st_collector st_collector_sgx = {
    .kind = "sgx",
    .endorsements = 1u << ST_ENDORSEMENT_CERTS | 1u << ST_ENDORSEMENT_CRL | 1u << ST_ENDORSEMENT_COLLATERAL |
                    1u << ST_ENDORSEMENT_TCB_INFO | 1u << ST_ENDORSEMENT_QE_IDENTITY,
    .open = sgx_open,
    .collect = sgx_collect,
    .needs = sgx_needs,
    .close = free};

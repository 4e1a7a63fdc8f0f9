/* Intel TDX: quotes from configfs-tsm. Collateral is not the machine's: it comes with the directory of endorsements.
 * Software in the guest can extend RTMRs at any time; Linux 6.16 and later show them (Documentation/ABI/testing/
 * sysfs-devices-virtual-misc-tdx_guest), and then a change is noticed. On older kernels it shows in the next quote
 * only. */
#include "attest/collect_tsm.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEASUREMENTS "/sys/devices/virtual/misc/tdx_guest/measurements"
#define N_RTMR 4
#define RTMR 48

static const char provider[] = "tdx_guest";

struct tdx {
    char *dir, *measurements;
    bool watched;
    uint8_t rtmrs[N_RTMR][RTMR]; /* at open() */
};

static void tdx_close(void *h)
{
    struct tdx *t = h;
    free(t->dir);
    free(t->measurements);
    free(t);
}

static int read_rtmrs(const struct tdx *t, uint8_t out[N_RTMR][RTMR], struct st_err *e)
{
    for (int i = 0; i < N_RTMR; i++) {
        char path[ST_PATH_MAX];
        snprintf(path, sizeof path, "%s/rtmr%d:sha384", t->measurements, i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, out[i], RTMR);
        int err = errno;
        if (fd >= 0)
            close(fd);
        if (n != RTMR)
            return st_fail(e, ST_IO, "tdx: %s: %s", path, n < 0 ? strerror(err) : "want 48 bytes");
    }
    return 0;
}

static int tdx_unchanged(void *h, struct st_err *e)
{
    const struct tdx *t = h;
    uint8_t now[N_RTMR][RTMR];
    if (!t->watched)
        return 0;
    if (read_rtmrs(t, now, e))
        return e->code;
    for (int i = 0; i < N_RTMR; i++)
        if (memcmp(now[i], t->rtmrs[i], RTMR) != 0)
            return st_fail(e, ST_VERIFY, "tdx: RTMR %d was extended since this program started", i);
    return 0;
}

static int tdx_open(const struct st_collect_opts *o, void **h, struct st_err *e)
{
    const char *dir = o->tsm ? o->tsm : ST_TSM_DIR;
    if (st_tsm_probe(dir, provider, e))
        return st_err_prefix(e, "tdx");
    struct tdx *t = calloc(1, sizeof *t);
    if (!t)
        return st_fail(e, ST_MEMORY, "tdx: no memory");
    t->dir = strdup(dir);
    t->measurements = strdup(o->tdx_measurements ? o->tdx_measurements : MEASUREMENTS);
    int rc = t->dir && t->measurements ? 0 : st_fail(e, ST_MEMORY, "tdx: no memory");
    t->watched = !rc && st_path_exists(t->measurements);
    if (t->watched)
        rc = read_rtmrs(t, t->rtmrs, e);
    if (rc)
        tdx_close(t);
    else
        *h = t;
    return rc;
}

static int tdx_collect(void *h, const uint8_t *data, size_t len, struct st_buf *evidence, st_endorse_fn *endorse,
                       void *ctx, struct st_err *e)
{
    const struct tdx *t = h;
    (void)endorse;
    (void)ctx;
    if (tdx_unchanged(h, e))
        return e->code;
    return st_tsm_report(t->dir, provider, data, len, evidence, NULL, e) ? st_err_prefix(e, "tdx") : 0;
}

static void tdx_needs(const void *h, struct st_collect_needs *out)
{
    const struct tdx *t = h;
    st_collect_needs_write(out, t->dir);
    st_collect_needs_read(out, t->measurements);
}

const struct st_collector st_collector_tdx = {
    .kind = "tdx",
    .endorsements = 1u << ST_ENDORSEMENT_CERTS | 1u << ST_ENDORSEMENT_CRL | 1u << ST_ENDORSEMENT_COLLATERAL |
                    1u << ST_ENDORSEMENT_TCB_INFO | 1u << ST_ENDORSEMENT_QE_IDENTITY,
    .open = tdx_open,
    .collect = tdx_collect,
    .unchanged = tdx_unchanged,
    .needs = tdx_needs,
    .close = tdx_close};

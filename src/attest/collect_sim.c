/* Simulated evidence: whoever holds the key file makes it, on any machine. */
#include "attest/collector.h"
#include "attest/ev_sim.h"
#include "base/file.h"
#include "base/hooks.h"
#include "crypto/digest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void put(uint8_t *p, uint64_t v, size_t len)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

int st_sim_collect(const struct st_ed25519 *root, const struct st_sim *s, uint8_t out[ST_SIM_LEN], struct st_err *e)
{
    memset(out, 0, ST_SIM_LEN);
    memcpy(out, "SOTTOSIM", 8);
    put(out + 8, 1, 4);
    put(out + 12, s->debug, 4);
    put(out + 16, s->svn, 4);
    put(out + 24, (uint64_t)s->time, 8);
    memcpy(out + 32, s->measurement, sizeof s->measurement);
    memcpy(out + 64, s->report_data, sizeof s->report_data);
    return st_ed25519_sign(root, out, ST_SIM_SIGNED, out + ST_SIM_SIGNED, e);
}

struct sim {
    char *path;
    struct stat file; /* as it was at open() */
    struct st_ed25519 *root;
    uint8_t measurement[32];
};

static int read_key(const char *path, struct st_ed25519 **out, struct st_err *e)
{
    struct st_buf text = {0};
    uint8_t seed[ST_ED25519_SEED];
    int rc = st_file_read(path, 2 * sizeof seed + 2, &text, e);
    while (!rc && text.len && (text.p[text.len - 1] == '\n' || text.p[text.len - 1] == '\r'))
        text.len--;
    if (!rc && (text.len != 2 * sizeof seed || st_unhex(text.p, text.len, seed, sizeof seed, path, e)))
        rc = st_fail(e, ST_INPUT, "%s: want an Ed25519 seed: %zu hexadecimal digits", path, 2 * sizeof seed);
    if (!rc)
        rc = st_ed25519_import(seed, out, e);
    explicit_bzero(seed, sizeof seed);
    st_buf_wipe(&text);
    return rc;
}

int st_collect_sim_root(const char *key_file, uint8_t out[32], struct st_err *e)
{
    struct st_ed25519 *k = NULL;
    int rc = read_key(key_file, &k, e);
    if (!rc)
        st_ed25519_public(k, out);
    st_ed25519_free(k);
    return rc;
}

static void sim_close(void *h)
{
    struct sim *s = h;
    st_ed25519_free(s->root);
    free(s->path);
    free(s);
}

static int sim_open(const struct st_collect_opts *o, void **h, struct st_err *e)
{
    if (!o->sim_key)
        return st_fail(e, ST_UNSUPPORTED, "sim: no file of its signing key was named");
    struct sim *s = calloc(1, sizeof *s);
    if (!s)
        return st_fail(e, ST_MEMORY, "sim: no memory");
    s->path = strdup(o->sim_key);
    int rc = s->path ? read_key(s->path, &s->root, e) : st_fail(e, ST_MEMORY, "sim: no memory");
    if (!rc && stat(s->path, &s->file) != 0)
        rc = st_fail(e, ST_IO, "%s: %s", s->path, strerror(errno));
    if (rc) {
        sim_close(s);
        return rc;
    }
    memcpy(s->measurement, o->sim_measurement, sizeof s->measurement);
    *h = s;
    return 0;
}

static int sim_collect(void *h, const uint8_t *data, size_t len, struct st_buf *evidence, st_endorse_fn *endorse,
                       void *ctx, struct st_err *e)
{
    const struct sim *s = h;
    struct st_sim statement = {.time = st_unix_time()};
    uint8_t bytes[ST_SIM_LEN];
    (void)endorse;
    (void)ctx;
    if (len > sizeof statement.report_data)
        return st_fail(e, ST_INTERNAL, "sim: %zu bytes of report data", len);
    memcpy(statement.measurement, s->measurement, sizeof s->measurement);
    memcpy(statement.report_data, data, len);
    if (st_sim_collect(s->root, &statement, bytes, e))
        return e->code;
    st_buf_add(evidence, bytes, sizeof bytes);
    return 0;
}

/* There is no machine that could change: the key file stands for it. */
static int sim_unchanged(void *h, struct st_err *e)
{
    const struct sim *s = h;
    struct stat now;
    if (stat(s->path, &now) == 0 && now.st_dev == s->file.st_dev && now.st_ino == s->file.st_ino &&
        now.st_size == s->file.st_size && now.st_mtim.tv_sec == s->file.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == s->file.st_mtim.tv_nsec)
        return 0;
    return st_fail(e, ST_VERIFY, "sim: %s is no longer what it was", s->path);
}

const struct st_collector st_collector_sim = {
    .kind = "sim", .open = sim_open, .collect = sim_collect, .unchanged = sim_unchanged, .close = sim_close};

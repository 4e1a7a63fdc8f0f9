#include "service/conf_receipts.h"
#include "base/file.h"
#include "base/hooks.h"
#include "crypto/digest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

int st_conf_receipts_open(const char *dir, struct st_err *e)
{
    struct stat sb;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return st_fail(e, ST_IO, "%.400s: %s", dir, strerror(errno));
    if (stat(dir, &sb) != 0 || !S_ISDIR(sb.st_mode))
        return st_fail(e, ST_IO, "%.400s: want a directory", dir);
    if (sb.st_mode & 077)
        return st_fail(e, ST_POLICY, "%.400s: others can read it (mode %03o), want 0700", dir,
                       (unsigned)sb.st_mode & 0777u);
    return 0;
}

static int keep(const char *dir, const char *id, const char *kind, struct st_span s, struct st_err *e)
{
    char path[ST_PATH_MAX], name[160];
    snprintf(name, sizeof name, "%s.%s", id, kind);
    int rc = st_path_join(path, sizeof path, dir, name, e);
    return rc ? rc : st_file_write(path, s.p, s.len, 0600, false, e);
}

/* The evidence that certifies the key and the checkpoint that says its age, unless they are there already. */
static int keep_bundle(const char *dir, const struct st_conf_nodes *nodes, const uint8_t digest[32], struct st_err *e)
{
    char path[ST_PATH_MAX], hex[65], name[80];
    struct st_buf b = {0}, note = {0};
    st_hex(digest, 32, hex);
    snprintf(name, sizeof name, "%s.bundle", hex);
    int rc = st_path_join(path, sizeof path, dir, name, e);
    if (!rc && !st_path_exists(path)) {
        if (!st_conf_nodes_bundle(nodes, digest, &b, &note))
            rc = st_fail(e, ST_IO, "%s: the evidence is not there any more", name);
        if (!rc && note.len)
            rc = keep(dir, hex, "checkpoint", (struct st_span){(const uint8_t *)note.p, note.len}, e);
        if (!rc)
            rc = st_file_write(path, b.p, b.len, 0600, false, e);
    }
    st_buf_free(&b);
    st_buf_free(&note);
    return rc;
}

int st_conf_receipt_keep(const struct st_conf_kept *k, const struct st_conf_nodes *nodes, const uint8_t bundle[32],
                         struct st_err *e)
{
    char id[64], when[32] = "";
    uint8_t rnd[6];
    char hex[13];
    struct tm tm;
    time_t t = (time_t)k->time;
    int rc = st_random(rnd, sizeof rnd, e);
    if (gmtime_r(&t, &tm))
        strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", &tm);
    st_hex(rnd, sizeof rnd, hex);
    snprintf(id, sizeof id, "%s-%s", when, hex);
    if (!rc)
        rc = keep(k->dir, id, "request", k->request, e);
    if (!rc)
        rc = keep(k->dir, id, "reply", k->reply, e);
    if (!rc)
        rc = keep_bundle(k->dir, nodes, bundle, e);
    return rc ? rc : keep(k->dir, id, "receipt", k->receipt, e);
}

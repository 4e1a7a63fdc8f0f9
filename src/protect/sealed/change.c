/* Another list of recipients for a container. */
#include "base/file.h"
#include "crypto/digest.h"
#include "protect/sealed/layout.h"
#include "protect/sealed/vault.h"
#include "protect/sealed/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The list without those dropped. */
static int drop(json_t *list, const struct st_seal_change *o, struct st_err *e)
{
    size_t n = json_array_size(list);
    bool gone[ST_RECIPIENTS_MAX] = {false};
    for (size_t i = 0; i < o->n_drop; i++) {
        if (o->drop[i] < 1 || o->drop[i] > n)
            return st_fail(e, ST_USAGE, "no recipient %u; there are %zu", o->drop[i], n);
        gone[o->drop[i] - 1] = true;
    }
    for (size_t i = n; i-- > 0;)
        if (gone[i])
            json_array_remove(list, i);
    return 0;
}

static int make_list(const struct st_container *c, const struct st_container_about *about,
                     const struct st_seal_change *o, const struct st_secret *content_key, struct st_buf *out,
                     struct st_err *e)
{
    const struct st_wrap_to to = {.id = about->id,
                                  .version = about->version,
                                  .content_key = content_key,
                                  .passphrase = o->passphrase,
                                  .cost = o->cost,
                                  .tcti = o->tcti,
                                  .tpm_roots = o->tpm_roots};
    json_t *list = NULL;
    int rc = st_recipients_parse(st_container_recipients(c), c->path, &list, e);
    if (!rc)
        rc = drop(list, o, e);
    for (size_t i = 0; !rc && i < o->n_add; i++)
        rc = st_recipient_add(list, o->add[i], to, e);
    if (!rc && json_array_size(list) == 0)
        rc = st_fail(e, ST_USAGE, "no recipient would be left: nobody could open it");
    if (!rc)
        rc = st_sealed_recipients(list, 0, out, e);
    json_decref(list);
    return rc;
}

/* The content key follows from the publisher's, and must be the one that made the header. */
static int derive(const struct st_container *c, const struct st_container_about *about, const struct st_seal_change *o,
                  struct st_ed25519 **publisher, struct st_secret *content_key, struct st_err *e)
{
    uint8_t public[ST_ED25519_PUBLIC], mac[32];
    char given[2 * ST_ED25519_PUBLIC + 1], wanted[2 * ST_ED25519_PUBLIC + 1];
    int rc = st_ed25519_import(o->seed->p, publisher, e);
    if (rc)
        return rc;
    st_ed25519_public(*publisher, public);
    if (memcmp(public, about->publisher, sizeof public) != 0) {
        st_hex(public, sizeof public, given);
        st_hex(about->publisher, sizeof about->publisher, wanted);
        return st_fail(e, ST_VERIFY, "%s: the key is not its publisher's: want that of %s, got that of %s (--sign-key)",
                       c->path, wanted, given);
    }
    rc = st_vault_content_key(o->seed->p, about->id, content_key, e);
    if (!rc)
        rc = st_vault_mac(content_key, about->id, about->digest, mac, e);
    if (!rc && CRYPTO_memcmp(mac, st_container_mac(c), sizeof mac) != 0)
        rc = st_fail(e, ST_VERIFY, "%s: was sealed with another key than its publisher's key gives", c->path);
    return rc;
}

/* Bytes from `at` to the end, by way of memory. */
static int copy_by_hand(int from, off_t at, int to)
{
    static const size_t step = (size_t)1 << 20;
    struct st_buf piece = {0};
    void *p = st_buf_room(&piece, step);
    ssize_t n = p ? 1 : -1;
    while (n > 0 || (n < 0 && p && errno == EINTR)) {
        n = pread(from, p, step, at);
        if (n > 0 && write(to, p, (size_t)n) != n)
            n = -1;
        at += n > 0 ? n : 0;
    }
    st_buf_free(&piece);
    return n < 0 ? -1 : 0;
}

/* The same, shared with the old file where the file system can. */
static int copy_rest(int from, off_t at, int to)
{
    for (;;) {
        ssize_t n = copy_file_range(from, &at, to, NULL, (size_t)1 << 30, 0);
        if (n == 0)
            return 0;
        if (n < 0 && (errno == EXDEV || errno == ENOSYS || errno == EINVAL || errno == EOPNOTSUPP))
            return copy_by_hand(from, at, to);
        if (n < 0 && errno != EINTR)
            return -1;
    }
}

static int write_copy(const struct st_container *c, const struct st_container_about *about, const struct st_buf *head,
                      const char *out, struct st_err *e)
{
    const char *path = out ? out : c->path;
    char parent[ST_PATH_MAX];
    struct st_file_out f;
    struct stat sb;
    const off_t digests_at =
        (off_t)(c->recipients.p + c->recipients.len + ST_CONTAINER_SIGNATURE - (const uint8_t *)c->head);
    int from = open(c->path, O_RDONLY | O_CLOEXEC);
    if (from < 0 || fstat(from, &sb) != 0) {
        int rc = st_fail(e, ST_IO, "%s: cannot open: %s", c->path, strerror(errno));
        if (from >= 0)
            close(from);
        return rc;
    }
    int rc = st_file_begin(&f, path, sb.st_mode & 0666, e); /* who could not read the old one cannot read the new one */
    if (rc) {
        close(from);
        return rc;
    }
    rc = st_file_put(&f, head->p, head->len, e);
    if (!rc && copy_rest(from, digests_at, f.fd) != 0)
        rc = st_fail(e, ST_IO, "%s: cannot write: %s", path, strerror(errno));
    if (!rc) /* the file could have been another one by the time it was copied */
        rc = st_sealed_read_back(f.tmp, about->digest, e);
    if (!rc) {
        rc = st_file_commit(&f, out == NULL, e);
        snprintf(parent, sizeof parent, "%s", path);
        if (!rc)
            rc = st_dir_sync(dirname(parent), e);
    } else
        st_file_abort(&f);
    close(from);
    return rc;
}

int st_seal_change(const struct st_container *c, const struct st_seal_change *o, struct st_err *e)
{
    struct st_container_about about;
    struct st_secret content_key = {0};
    struct st_ed25519 *publisher = NULL;
    struct st_buf list = {0}, head = {0};
    st_container_about(c, &about);
    int rc = derive(c, &about, o, &publisher, &content_key, e);
    if (!rc)
        rc = make_list(c, &about, o, &content_key, &list, e);
    const struct st_sealed_head h = {.header = c->header,
                                     .recipients = {(const uint8_t *)list.p, list.len},
                                     .n_segment = c->n_segment,
                                     .content_key = &content_key,
                                     .publisher = publisher};
    if (!rc)
        rc = st_sealed_write_head(&h, &about, &head, e);
    if (!rc)
        rc = write_copy(c, &about, &head, o->out, e);
    st_secret_wipe(&content_key);
    st_ed25519_free(publisher);
    st_buf_free(&list);
    st_buf_free(&head);
    return rc;
}

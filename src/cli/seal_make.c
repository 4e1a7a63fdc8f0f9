/* sotto seal SRC DST, and the publisher's key. */
#include "base/log.h"
#include "base/mem.h"
#include "cli/key_open.h"
#include "cli/seal.h"
#include "cli/sign_key.h"
#include "crypto/digest.h"
#include "crypto/hpke_file.h"
#include "text/json.h"

#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

/* ---- the publisher's key ---- */

static int default_key(char out[ST_PATH_MAX], struct st_err *e)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n = xdg && *xdg     ? snprintf(out, ST_PATH_MAX, "%s/sotto/publisher.key", xdg)
            : home && *home ? snprintf(out, ST_PATH_MAX, "%s/.config/sotto/publisher.key", home)
                            : 0;
    return n > 0 && n < ST_PATH_MAX
               ? 0
               : st_fail(e, ST_USAGE, "seal: want --sign-key FILE: neither XDG_CONFIG_HOME nor HOME says where");
}

/* Creates the file and FILE.pub, which is for --publisher, and says whose key it is now. */
static int create_key(const char *path, char public_hex[65], struct st_err *e)
{
    struct st_ed25519 *k;
    uint8_t public[ST_ED25519_PUBLIC];
    char pub[ST_PATH_MAX], line[66];
    if (snprintf(pub, sizeof pub, "%s.pub", path) >= (int)sizeof pub)
        return st_fail(e, ST_USAGE, "%.100s...: the path is too long", path);
    if (st_path_exists(pub))
        return st_fail(e, ST_IO, "%s: exists already; not overwritten", pub);
    int rc = st_sign_key_create(path, &k, e);
    if (rc)
        return rc;
    st_ed25519_public(k, public);
    st_hex(public, sizeof public, public_hex);
    st_ed25519_free(k);
    snprintf(line, sizeof line, "%s\n", public_hex);
    return st_file_write(pub, line, strlen(line), 0644, false, e);
}

int st_seal_seed(const struct st_seal_cmd *o, bool make, struct st_secret *out, struct st_err *e)
{
    char path[ST_PATH_MAX], dir[ST_PATH_MAX], hex[65];
    *out = (struct st_secret){0};
    if (o->sign_key)
        return st_sign_key_seed(o->sign_key, out, e);
    int rc = default_key(path, e);
    if (!rc && make && !st_path_exists(path)) {
        memcpy(dir, path, sizeof dir);
        rc = st_dir_make(dirname(dir), e);
        if (!rc)
            rc = create_key(path, hex, e);
        if (!rc)
            st_log(ST_LOG_WARN,
                   "%s: made; this key opens whatever is sealed with it: keep it, and keep it secret. Its "
                   "public half is %s",
                   path, hex);
    }
    return rc ? rc : st_sign_key_seed(path, out, e);
}

/* One that opens what is sealed for it. */
static int create_hpke(const char *path, char public_hex[65], struct st_err *e)
{
    uint8_t public[ST_HPKE_X25519_LEN];
    int rc = st_hpke_file_create(path, public, e);
    if (!rc)
        st_hex(public, sizeof public, public_hex);
    return rc;
}

int st_seal_key(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e)
{
    const char *path = cli->args[1];
    char hex[65];
    struct st_buf b = {0};
    int rc = o->hpke ? create_hpke(path, hex, e) : create_key(path, hex, e);
    if (rc)
        return rc;
    if (cli->json) {
        st_buf_add_str(&b, "{\"file\": ");
        st_json_quote(&b, path, strlen(path));
        st_buf_addf(&b, ", \"%s\": \"%s\"}\n", o->hpke ? "public" : "publisher", hex);
        fputs(b.p ? b.p : "", stdout);
        st_buf_free(&b);
    } else if (o->hpke)
        printf("%s: made; it opens what is sealed for it (--recipient hpke:%s.pub)\npublic  %s\n", path, path, hex);
    else
        printf("%s: made; it opens whatever is sealed with it. Others pin --publisher %s.pub\npublisher  %s\n", path,
               path, hex);
    return 0;
}

/* ---- sealing ---- */

/* Without a recipient: what there is. */
static int no_recipient(struct st_err *e)
{
    struct st_buf b = {0};
    for (size_t i = 0; st_recipient_kind(i); i++)
        st_buf_addf(&b, "%s--recipient %s", i ? "; " : "", st_recipient_kind(i)->help);
    int rc = st_fail(e, ST_USAGE, "seal: who may open it? %s", b.p ? b.p : "");
    st_buf_free(&b);
    return rc;
}

/* A passphrase alone is a recipient; one that no recipient uses is a mistake. */
static int settle_recipients(const struct st_seal_cmd *o, bool has_passphrase, const char **list, size_t *n,
                             struct st_err *e)
{
    bool used = false;
    for (*n = 0; *n < o->n_recipient; ++*n) {
        list[*n] = o->recipients[*n];
        used = used || strncmp(list[*n], "passphrase", strlen("passphrase")) == 0;
    }
    if (!*n && !has_passphrase)
        return no_recipient(e);
    if (!*n)
        list[(*n)++] = "passphrase";
    else if (has_passphrase && !used)
        return st_fail(e, ST_USAGE, "seal: a passphrase is given, but no --recipient passphrase that uses it");
    return 0;
}

static void add_text(struct st_buf *b, const char *dst, const struct st_seal_report *r)
{
    char inside[ST_MEM_TEXT], all[ST_MEM_TEXT], hex[65];
    st_hex(r->about.publisher, 32, hex);
    st_buf_addf(b, "%s: sealed, version %" PRIu64 ", policy %s: %zu of %zu tensors inside, %s of %s", dst,
                r->about.version, r->policy, r->n_inside, r->n_tensor, st_mem_text(r->inside, inside),
                st_mem_text(r->bytes, all));
    if (r->n_kept)
        st_buf_addf(b, " (%zu entries of an earlier run)", r->n_kept);
    st_buf_addf(b, "\npublisher  %s\n", hex);
}

static void add_json(struct st_buf *b, const char *src, const char *dst, const struct st_seal_report *r)
{
    char id[33], publisher[65], digest[65];
    st_hex(r->about.id, 16, id);
    st_hex(r->about.publisher, 32, publisher);
    st_hex(r->about.digest, 32, digest);
    st_buf_add_str(b, "{\"source\": ");
    st_json_quote(b, src, strlen(src));
    st_buf_add_str(b, ", \"result\": ");
    st_json_quote(b, dst, strlen(dst));
    st_buf_addf(
        b,
        ", \"kind\": \"%s\", \"id\": \"%s\", \"version\": %" PRIu64
        ", \"policy\": \"%s\", \"publisher\": \"%s\", \"digest\": \"%s\", \"tensors\": %zu, "
        "\"inside_tensors\": %zu, \"files\": %zu, \"kept_entries\": %zu, \"bytes\": %" PRIu64
        ", \"inside_bytes\": %" PRIu64 ", \"file_bytes\": %" PRIu64 ", \"seconds\": %.3f, \"peak_rss_bytes\": %zu}\n",
        r->about.kind == ST_CONTAINER_MODEL ? "model" : "adapter", id, r->about.version, r->policy, publisher, digest,
        r->n_tensor, r->n_inside, r->n_file, r->n_kept, r->bytes, r->inside, r->file_bytes, r->seconds, st_mem_peak());
}

static int report(const struct st_cli *cli, const struct st_seal_report *r, struct st_err *e)
{
    struct st_buf b = {0};
    int rc = 0;
    if (r->moved[0])
        st_log(ST_LOG_WARN,
               "%s: lies outside, open to everybody: it serves two roles, and the policy puts one of them "
               "there",
               r->moved);
    if (r->no_tokenizer)
        st_log(ST_LOG_WARN, "%s: has no tokenizer; whoever runs it must name one (--tokenizer)", cli->args[1]);
    if (cli->json)
        add_json(&b, cli->args[0], cli->args[1], r);
    else
        add_text(&b, cli->args[1], r);
    if (b.failed)
        rc = st_fail(e, ST_MEMORY, "no memory for the report");
    else
        fputs(b.p, stdout);
    st_buf_free(&b);
    return rc;
}

int st_seal_make(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e)
{
    const char *list[ST_RECIPIENTS_MAX + 1];
    struct st_secret passphrase = {0}, seed = {0};
    struct st_seal_report r;
    struct st_seal_opts so = {.policy = o->policy,
                              .attention = o->attention,
                              .name = o->name,
                              .tokenizer = cli->tokenizer,
                              .version = o->version,
                              .recipients = list,
                              .tcti = st_key_tcti(cli),
                              .tpm_roots = o->tpm_roots,
                              .n_threads = cli->n_threads,
                              .progress = !cli->quiet,
                              .restart = o->restart};
    st_secret_process();
    int rc = st_key_passphrase(cli, true, &passphrase, e);
    if (!rc)
        rc = settle_recipients(o, passphrase.p != NULL, list, &so.n_recipient, e);
    if (!rc)
        rc = st_seal_seed(o, true, &seed, e);
    if (!rc) {
        so.passphrase = passphrase.p ? &passphrase : NULL;
        so.seed = &seed;
        rc = st_seal(cli->args[0], cli->args[1], &so, &r, e);
    }
    st_secret_wipe(&passphrase);
    st_secret_wipe(&seed);
    return rc ? rc : report(cli, &r, e);
}

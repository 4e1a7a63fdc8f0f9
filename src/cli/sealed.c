#include "cli/sealed.h"
#include "base/locked.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/key_open.h"
#include "crypto/digest.h"
#include "protect/sealed/recipient.h"
#include "service/release_client.h"
#include "text/json.h"

#include <inttypes.h>
#include <string.h>

/* ---- whose it is ---- */

/* 64 hexadecimal digits, or a file that holds them. */
static int read_publisher(const char *given, uint8_t key[32], struct st_err *e)
{
    struct st_buf text = {0};
    if (strlen(given) == 64 && !st_unhex(given, 64, key, 32, "--publisher", e))
        return 0;
    *e = (struct st_err){0};
    if (!st_path_exists(given))
        return st_fail(e, ST_IO, "--publisher: want 64 hexadecimal digits or a file of them; there is no '%.200s'",
                       given);
    int rc = st_file_read(given, 256, &text, e);
    while (!rc && text.len && strchr(" \t\r\n", text.p[text.len - 1]))
        text.len--;
    if (!rc && (text.len != 64 || st_unhex(text.p, text.len, key, 32, given, e)))
        rc = st_fail(e, ST_INPUT, "--publisher: %s: want an Ed25519 public key, 64 hexadecimal digits", given);
    st_buf_free(&text);
    return rc;
}

static int open_container(const struct st_cli *cli, const char *path, struct st_sealed_file *f, struct st_err *e)
{
    uint8_t key[32];
    f->pinned = cli->sealed.publisher != NULL;
    if (!f->pinned)
        return st_container_open(path, &f->container, e);
    return read_publisher(cli->sealed.publisher, key, e) || st_container_open_by(path, key, &f->container, e) ? e->code
                                                                                                              : 0;
}

static int check_about(const struct st_cli *cli, const char *path, enum st_container_kind kind,
                       struct st_sealed_file *f, struct st_err *e)
{
    struct st_container_about about;
    st_container_about(f->container, &about);
    st_hex(about.publisher, sizeof about.publisher, f->publisher);
    if (about.kind != kind)
        return st_fail(e, ST_INPUT, "%s: is a sealed %s; want a%s", path,
                       about.kind == ST_CONTAINER_ADAPTER ? "adapter" : "model",
                       kind == ST_CONTAINER_ADAPTER ? "n adapter" : " model");
    if (about.version < cli->sealed.min_version)
        return st_fail(e, ST_POLICY, "%s: is version %" PRIu64 "; --min-version wants %" PRIu64 " or later", path,
                       about.version, cli->sealed.min_version);
    if (!f->pinned)
        st_log(ST_LOG_INFO, "%s: publisher: not pinned, %s (--publisher)", path, f->publisher);
    return 0;
}

/* ---- its key ---- */

/* The owner's release service, asked about one container. */
struct release {
    struct st_release_client client;
    struct st_collect_opts collect;
    struct st_release_for what;
};

static int ask_release(void *ctx, const json_t *entry, struct st_secret *content_key, struct st_err *e)
{
    const struct release *r = ctx;
    return st_release_ask(&r->client, &r->what, entry, content_key, e);
}

static int prepare_release(const struct st_cli *cli, const struct st_container *c, struct release *r, struct st_err *e)
{
    const struct st_cli_sealed *s = &cli->sealed;
    struct st_container_about about;
    if (!s->release != !s->evidence.n_kind)
        return st_fail(e, ST_USAGE, "want both --release URL and --evidence KINDS, or neither");
    if (st_evidence_has(&s->evidence, "sim") && !s->evidence.collect.sim_key)
        return st_fail(e, ST_USAGE, "--evidence sim wants --sim-key FILE");
    r->collect = s->evidence.collect;
    r->collect.tcti = st_key_tcti(cli);
    r->client = (struct st_release_client){.url = s->release,
                                           .ca_bundle = s->release_ca,
                                           .kinds = s->evidence.kinds,
                                           .n_kind = s->evidence.n_kind,
                                           .collect = &r->collect};
    st_container_about(c, &about);
    memcpy(r->what.id, about.id, sizeof about.id);
    memcpy(r->what.digest, about.digest, sizeof about.digest);
    r->what.version = about.version;
    return 0;
}

static int open_vault(const struct st_cli *cli, struct st_sealed_file *f, struct st_err *e)
{
    struct st_secret passphrase = {0}, key = {0};
    struct release release = {0};
    int rc = prepare_release(cli, f->container, &release, e);
    if (!rc)
        rc = st_key_passphrase(cli, false, &passphrase, e);
    const struct st_unlock u = {.passphrase = passphrase.p ? &passphrase : NULL,
                                .tcti = st_key_tcti(cli),
                                .hpke_key = cli->sealed.hpke_key,
                                .release = cli->sealed.release ? ask_release : NULL,
                                .release_ctx = &release};
    if (!rc)
        rc = st_recipient_open(f->container, &u, &key, e);
    if (!rc)
        rc = st_vault_new(f->container, &key, cli->masked.allow_unlocked, &f->vault, e);
    st_secret_wipe(&key);
    st_secret_wipe(&passphrase);
    return rc;
}

int st_sealed_unlock(const struct st_cli *cli, const char *path, enum st_container_kind kind,
                     struct st_sealed_file *out, struct st_err *e)
{
    *out = (struct st_sealed_file){0};
    int rc = open_container(cli, path, out, e);
    if (!rc)
        rc = check_about(cli, path, kind, out, e);
    if (!rc)
        rc = open_vault(cli, out, e);
    if (rc)
        st_sealed_file_close(out);
    else
        *e = (struct st_err){0}; /* what is verified starts as failed, and leaves that behind */
    return rc;
}

void st_sealed_file_close(struct st_sealed_file *f)
{
    if (f->vault)
        st_vault_free(f->vault);
    if (f->container)
        st_container_close(f->container);
    *f = (struct st_sealed_file){0};
}

/* ---- the model ---- */

int st_sealed_unwanted(const struct st_cli *cli, struct st_err *e)
{
    if (cli->sealed.first)
        return st_fail(e, ST_USAGE, "--%s: only with a sealed model", cli->sealed.first);
    if (cli->sealed.first_evidence && !cli->masked.private_weights)
        return st_fail(e, ST_USAGE, "--%s: only with a sealed model, or --private-weights", cli->sealed.first_evidence);
    return 0;
}

int st_sealed_hold(const struct st_cli *cli, struct st_sealed_side *s, const struct st_model *model,
                   struct st_engine_opts *eo, struct st_err *e)
{
    const struct st_sealed_store_opts o = {.memory = cli->sealed.memory,
                                           .n_threads = cli->n_threads,
                                           .allow_unlocked = cli->masked.allow_unlocked,
                                           .progress = !cli->quiet};
    if (st_sealed_store_new(s->file.vault, model, &o, &s->store, e))
        return e->code;
    eo->store = st_sealed_store(s->store);
    eo->secret = true;
    eo->allow_unlocked = cli->masked.allow_unlocked;
    return 0;
}

void st_sealed_close(struct st_sealed_side *s)
{
    if (s->store)
        st_sealed_store_free(s->store);
    s->store = NULL;
    st_sealed_file_close(&s->file);
}

/* ---- what is said of it ---- */

static const char *memory_words(const struct st_sealed_store_stats *m)
{
    if (strcmp(m->memory, "memfd_secret") == 0)
        return "memfd_secret (the kernel does not map it)";
    return strcmp(m->memory, "locked") == 0 ? "locked memory" : "memory that is not locked";
}

void st_sealed_text(const struct st_sealed_side *s, struct st_buf *b)
{
    char all[ST_MEM_TEXT], kept[ST_MEM_TEXT];
    struct st_container_about about;
    struct st_sealed_store_stats m;
    if (!s->store)
        return;
    st_container_about(s->file.container, &about);
    st_sealed_store_stats(s->store, &m);
    st_buf_addf(b, "sealed: %s, version %" PRIu64 ", policy %s\n", about.name, about.version, about.policy);
    st_buf_addf(b, "publisher: %s%s\n", s->file.pinned ? "" : "not pinned, ", s->file.publisher);
    st_buf_addf(b, "decrypted: %s of %s at a time, in %s\n", st_mem_text((size_t)(m.resident + m.ring), kept),
                st_mem_text((size_t)m.bytes, all), memory_words(&m));
}

void st_sealed_json(const struct st_sealed_side *s, struct st_buf *b)
{
    struct st_container_about about;
    struct st_sealed_store_stats m;
    if (!s->store)
        return;
    st_container_about(s->file.container, &about);
    st_sealed_store_stats(s->store, &m);
    st_buf_add_str(b, "\"name\":");
    st_json_quote(b, about.name, strlen(about.name));
    st_buf_add_str(b, ",\"policy\":");
    st_json_quote(b, about.policy, strlen(about.policy));
    st_buf_addf(b, ",\"version\":%" PRIu64 ",\"publisher\":\"%s\",\"publisher_pinned\":%s", about.version,
                s->file.publisher, s->file.pinned ? "true" : "false");
    st_buf_addf(b, ",\"memory\":\"%s\",\"bytes\":%" PRIu64 ",\"resident\":%" PRIu64 ",\"ring\":%" PRIu64 ",", m.memory,
                m.bytes, m.resident, m.ring);
}

const char *st_sealed_warning(bool swaps)
{
    if (st_locked_all())
        return NULL;
    return swaps ? "decrypted weights lie in memory that is not locked: they may reach a swap area"
                 : "decrypted weights lie in memory that is not locked: raise the limit (ulimit -l), or give less to "
                   "--enclave-memory";
}

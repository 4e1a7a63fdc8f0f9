#include "protect/sealed/writer.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/stage.h"
#include "crypto/digest.h"
#include "protect/sealed/encrypt.h"
#include "protect/sealed/layout.h"
#include "protect/sealed/vault.h"
#include "text/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_BYTES_MAX 127

/* Everything of one sealing. */
struct build {
    const struct st_seal_opts *o;
    struct st_placement placement;
    struct st_contents contents;
    struct st_container_about about;
    struct st_ed25519 *publisher;
    struct st_secret content_key, segment_key;
    struct st_buf entries, header, recipients;
    uint32_t room; /* of recipients in the file */
    struct st_stage stage;
    struct st_journal journal;
    struct st_sealed_layout layout;
    uint8_t *digests;
    int fd;
    size_t n_kept;
};

/* ---- what is asked for ---- */

static int check_name(const char *name, struct st_err *e)
{
    size_t len = strlen(name);
    bool ok = len > 0 && len <= NAME_BYTES_MAX && st_utf8_valid(name, len);
    for (size_t i = 0; ok && i < len; i++)
        ok = (unsigned char)name[i] >= ' ' && name[i] != 0x7f &&
             !((unsigned char)name[i] == 0xc2 && (unsigned char)name[i + 1] < 0xa0);
    return ok ? 0 : st_fail(e, ST_USAGE, "name: want 1..%d bytes of text", NAME_BYTES_MAX);
}

/* The last component of the source's path, as the engine names a model. */
static int default_name(const char *src, char out[NAME_BYTES_MAX + 1], struct st_err *e)
{
    char *real = realpath(src, NULL);
    const char *slash = real ? strrchr(real, '/') : NULL;
    int n = real ? snprintf(out, NAME_BYTES_MAX + 1, "%s", slash ? slash + 1 : real) : -1;
    free(real);
    if (n < 0)
        return st_fail(e, ST_IO, "%s: %s", src, strerror(errno));
    return n > NAME_BYTES_MAX ? st_fail(e, ST_USAGE, "%s: its name is too long; want --name NAME", src) : 0;
}

static int read_opts(struct build *b, const char *src, char name[NAME_BYTES_MAX + 1], struct st_err *e)
{
    const struct st_seal_opts *o = b->o;
    if (!o->n_recipient)
        return st_fail(e, ST_USAGE, "no recipient: nobody could open it");
    if (o->version > INT64_MAX)
        return st_fail(e, ST_USAGE, "version: want 1..%" PRId64, INT64_MAX);
    int rc = o->name ? 0 : default_name(src, name, e);
    if (!rc)
        rc = check_name(o->name ? o->name : name, e);
    if (!rc)
        rc = st_placement_read(o->policy ? o->policy : "all-inside", o->attention, &b->placement, e);
    if (!rc)
        rc = st_ed25519_import(o->seed->p, &b->publisher, e);
    if (rc)
        return rc;
    b->about = (struct st_container_about){.version = o->version ? o->version : 1,
                                           .created = st_unix_time(),
                                           .name = o->name ? o->name : name,
                                           .policy = b->placement.name};
    st_ed25519_public(b->publisher, b->about.publisher);
    return st_random(b->about.id, sizeof b->about.id, e);
}

static int read_source(struct build *b, const char *src, struct st_err *e)
{
    const struct st_contents_opts o = {.placement = &b->placement,
                                       .tokenizer = b->o->tokenizer,
                                       .n_threads = b->o->n_threads,
                                       .progress = b->o->progress};
    int rc = st_contents_open(src, &o, &b->contents, e);
    b->about.kind = b->contents.kind;
    return rc ? rc : st_sealed_entries(&b->contents, &b->entries, e);
}

/* ---- resuming ---- */

enum { FACT_SOURCE, FACT_PUBLISHER, FACT_VERSION, FACT_NAME, FACT_POLICY, FACT_RECIPIENTS, FACT_LAYOUT, FACT_BEGUN };

static void put_hash(struct st_journal_fact *f, const struct st_buf *b)
{
    uint8_t hash[32];
    st_sha256(b->p, b->len, hash);
    st_hex(hash, sizeof hash, f->value);
}

/* What the staging directory was begun for. Entries cover names, places and shapes; files are hashed with them, since
 * the source's digest does not cover a tokenizer that was named. */
static int fill_head(const struct build *b, struct st_journal_head *h, struct st_err *e)
{
    struct st_buf specs = {0}, layout = {0};
    char id[33];
    *h = (struct st_journal_head){
        .title = "sotto seal journal 1",
        .n = ST_JOURNAL_FACTS,
        .fact = {[FACT_SOURCE] = {.name = "source", .differs = "begun from another source"},
                 [FACT_PUBLISHER] = {.name = "publisher", .differs = "begun with another publisher's key"},
                 [FACT_VERSION] = {.name = "version", .differs = "begun for another --version"},
                 [FACT_NAME] = {.name = "name", .differs = "begun for another --name"},
                 [FACT_POLICY] = {.name = "policy", .differs = "begun with another --policy"},
                 [FACT_RECIPIENTS] = {.name = "recipients", .differs = "begun for other recipients"},
                 [FACT_LAYOUT] = {.name = "layout", .differs = "begun for other files or another layout"},
                 [FACT_BEGUN] = {.name = "begun", .kept = true}}};
    for (size_t i = 0; i < b->o->n_recipient; i++)
        st_buf_addf(&specs, "%s\n", b->o->recipients[i]);
    st_buf_add(&layout, b->entries.p, b->entries.len);
    for (size_t i = 0; i < b->contents.n_file; i++)
        st_buf_add(&layout, b->contents.file[i].p, b->contents.file[i].len);
    if (!specs.failed && !layout.failed) {
        st_hex(b->contents.digest, 32, h->fact[FACT_SOURCE].value);
        st_hex(b->about.publisher, 32, h->fact[FACT_PUBLISHER].value);
        snprintf(h->fact[FACT_VERSION].value, 32, "%" PRIu64, b->about.version);
        snprintf(h->fact[FACT_NAME].value, sizeof h->fact->value, "%s", b->about.name);
        int at = snprintf(h->fact[FACT_POLICY].value, sizeof h->fact->value, "%s ", b->placement.name);
        for (int r = 1; r < ST_ROLE_COUNT; r++)
            h->fact[FACT_POLICY].value[at++] = b->placement.of[r] == ST_CONTAINER_INSIDE ? 'i' : 'o';
        put_hash(&h->fact[FACT_RECIPIENTS], &specs);
        put_hash(&h->fact[FACT_LAYOUT], &layout);
        st_hex(b->about.id, sizeof b->about.id, id);
        snprintf(h->fact[FACT_BEGUN].value, sizeof h->fact->value, "%s %" PRId64 " %u", id, b->about.created, b->room);
    }
    int rc = specs.failed || layout.failed ? st_fail(e, ST_MEMORY, "journal: out of memory") : 0;
    st_buf_free(&specs);
    st_buf_free(&layout);
    return rc;
}

/* Id, time and room of recipients are those of the run that began. */
static int take_begun(struct build *b, const char *text, struct st_err *e)
{
    int end = 0;
    bool ok = strlen(text) > 33 && text[32] == ' ' &&
              st_unhex(text, 32, b->about.id, sizeof b->about.id, "journal", e) == 0 &&
              sscanf(text + 33, "%" SCNd64 " %" SCNu32 "%n", &b->about.created, &b->room, &end) == 2 &&
              text[33 + end] == 0 && b->about.created >= 0 && b->room <= ST_CONTAINER_RECIPIENTS_MAX;
    return ok ? 0 : st_fail(e, ST_INPUT, "%s: journal: damaged: begun; start over with --restart", b->stage.dir);
}

/* Wraps for the key that is settled: of the id of the run that began, so that what it finished stays. */
static int wrap_key(struct build *b, struct st_err *e)
{
    const struct st_wrap_to to = {.id = b->about.id,
                                  .version = b->about.version,
                                  .content_key = &b->content_key,
                                  .passphrase = b->o->passphrase,
                                  .cost = b->o->cost,
                                  .tcti = b->o->tcti,
                                  .tpm_roots = b->o->tpm_roots};
    json_t *list = json_array();
    int rc = list ? 0 : st_fail(e, ST_MEMORY, "recipients: out of memory");
    for (size_t i = 0; !rc && i < b->o->n_recipient; i++)
        rc = st_recipient_add(list, b->o->recipients[i], to, e);
    st_buf_clear(&b->recipients);
    if (!rc)
        rc = st_sealed_recipients(list, b->room, &b->recipients, e);
    if (!rc)
        b->room = (uint32_t)b->recipients.len;
    json_decref(list);
    return rc;
}

static int derive(struct build *b, struct st_err *e)
{
    st_secret_wipe(&b->content_key);
    st_secret_wipe(&b->segment_key);
    int rc = st_vault_content_key(b->o->seed->p, b->about.id, &b->content_key, e);
    return rc ? rc : st_vault_segment_key(&b->content_key, b->about.id, &b->segment_key, e);
}

/* Begins the journal, or takes up the one that is there. The wraps come first: a recipient that is not there shows
 * before anything is written, and they say how much room they need. */
static int bind(struct build *b, struct st_err *e)
{
    char path[ST_PATH_MAX], cause[sizeof e->msg];
    struct st_journal_head head;
    uint8_t id[16];
    memcpy(id, b->about.id, sizeof id);
    int rc = derive(b, e);
    if (!rc)
        rc = wrap_key(b, e);
    if (!rc)
        rc = fill_head(b, &head, e);
    if (!rc)
        rc = st_stage_journal(&b->stage, path, e);
    if (rc)
        return rc;
    if (b->o->restart)
        st_stage_restart(&b->stage);
    rc = st_journal_open(&b->journal, path, &head, e);
    if (rc == ST_USAGE || rc == ST_INPUT) {
        memcpy(cause, e->msg, sizeof cause);
        return st_fail(e, rc, "%.200s: %.250s; start over with --restart", b->stage.dir, cause);
    }
    if (!rc)
        rc = take_begun(b, head.fact[FACT_BEGUN].value, e);
    if (rc || memcmp(id, b->about.id, sizeof id) == 0)
        return rc;
    rc = derive(b, e);
    return rc ? rc : wrap_key(b, e);
}

/* ---- writing ---- */

static int lay_out(struct build *b, struct st_err *e)
{
    static const uint8_t none[32];
    int rc = st_sealed_header(&b->about, none, (struct st_span){(const uint8_t *)b->entries.p, b->entries.len},
                              &b->header, e);
    if (!rc)
        rc = st_sealed_lay_out(&b->contents, b->header.len, b->room, &b->layout, e);
    if (!rc)
        rc = st_alloc(&b->digests, b->contents.n_segment, ST_CONTAINER_HASH, "digests", e);
    return rc ? rc : st_stage_file(b->stage.result, b->layout.total, &b->fd, e);
}

static int encrypt(struct build *b, struct st_err *e)
{
    struct st_sealed_encrypt w = {.contents = &b->contents,
                                  .layout = &b->layout,
                                  .about = &b->about,
                                  .segment_key = &b->segment_key,
                                  .journal = &b->journal,
                                  .fd = b->fd,
                                  .n_threads = b->o->n_threads,
                                  .progress = b->o->progress,
                                  .digests = b->digests};
    if (b->journal.n_found)
        st_log(ST_LOG_INFO, "%s: goes on; %zu of %zu entries were finished before", b->stage.final, b->journal.n_found,
               b->contents.n);
    int rc = st_sealed_encrypt(&w, e);
    b->n_kept = w.n_kept;
    return rc ? st_err_prefix(e, "%.200s", b->stage.dir) : 0;
}

/* The head comes last: until then the file is no container. */
static int write_head(struct build *b, struct st_err *e)
{
    struct st_buf head = {0};
    uint8_t hash[32];
    size_t len = (size_t)b->contents.n_segment * ST_CONTAINER_HASH;
    st_sha256(b->digests, len, hash);
    st_buf_clear(&b->header);
    int rc = st_sealed_header(&b->about, hash, (struct st_span){(const uint8_t *)b->entries.p, b->entries.len},
                              &b->header, e);
    const struct st_sealed_head h = {.header = {(const uint8_t *)b->header.p, b->header.len},
                                     .recipients = {(const uint8_t *)b->recipients.p, b->recipients.len},
                                     .n_segment = b->contents.n_segment,
                                     .content_key = &b->content_key,
                                     .publisher = b->publisher};
    if (!rc)
        rc = st_sealed_write_head(&h, &b->about, &head, e);
    if (!rc && head.len != b->layout.digests_at)
        rc = st_fail(e, ST_INTERNAL, "container: a head of %zu bytes where %" PRIu64 " were left", head.len,
                     b->layout.digests_at);
    if (!rc && (st_stage_write(b->fd, b->layout.digests_at, b->digests, len) != 0 ||
                st_stage_write(b->fd, 0, head.p, head.len) != 0 || fsync(b->fd) != 0))
        rc = st_fail(e, ST_IO, "%s: cannot write: %s", b->stage.result, strerror(errno));
    st_buf_free(&head);
    return rc;
}

/* Nothing stays of a container that is neither the old nor the new of its source. */
static int check_source(struct build *b, struct st_err *e)
{
    int rc = st_unchanged_check(&b->contents.source, e);
    if (rc)
        st_stage_restart(&b->stage);
    return rc;
}

static void fill_report(const struct build *b, double seconds, struct st_seal_report *r)
{
    *r = (struct st_seal_report){.about = b->about,
                                 .bytes = b->contents.bytes,
                                 .inside = b->contents.inside,
                                 .file_bytes = b->layout.total,
                                 .n_file = b->contents.n_file,
                                 .n_tensor = b->contents.n - b->contents.n_file,
                                 .n_kept = b->n_kept,
                                 .no_tokenizer = b->contents.no_tokenizer,
                                 .seconds = seconds};
    for (size_t i = 0; i < b->contents.n; i++)
        r->n_inside += b->contents.at[i].place == ST_CONTAINER_INSIDE;
    memcpy(r->moved, b->contents.moved, sizeof r->moved);
    memcpy(r->policy, b->placement.name, sizeof r->policy);
    r->about.name = NULL;
    r->about.policy = NULL;
}

static void wipe(struct build *b)
{
    if (b->fd >= 0)
        close(b->fd);
    st_journal_close(&b->journal);
    st_stage_close(&b->stage);
    st_secret_wipe(&b->content_key);
    st_secret_wipe(&b->segment_key);
    st_ed25519_free(b->publisher);
    st_contents_close(&b->contents);
    st_buf_free(&b->entries);
    st_buf_free(&b->header);
    st_buf_free(&b->recipients);
    free(b->layout.at);
    free(b->digests);
}

int st_seal(const char *src, const char *dst, const struct st_seal_opts *o, struct st_seal_report *report,
            struct st_err *e)
{
    struct build b = {.o = o, .fd = -1};
    char name[NAME_BYTES_MAX + 1] = "";
    double start = st_now();
    int rc = read_opts(&b, src, name, e);
    if (!rc)
        rc = st_stage_open(&b.stage, dst, ".part", "a sealing", e);
    if (!rc)
        rc = read_source(&b, src, e);
    if (!rc)
        rc = bind(&b, e);
    if (!rc)
        rc = lay_out(&b, e);
    if (!rc)
        rc = encrypt(&b, e);
    if (!rc)
        rc = check_source(&b, e);
    if (!rc)
        rc = write_head(&b, e);
    if (!rc)
        rc = st_sealed_read_back(b.stage.result, b.about.digest, e);
    if (!rc)
        rc = st_stage_publish(&b.stage, e);
    if (rc)
        st_stage_keep(&b.stage, b.journal.n_found + b.journal.n_noted, e);
    else
        fill_report(&b, st_now() - start, report);
    wipe(&b);
    return rc;
}

/* sotto log add: hands an entry in, and looks whether it came to stand where the log said. */
#include "attest/statement.h"
#include "base/hooks.h"
#include "channel/confidential.h"
#include "cli/log.h"
#include "cli/log_source.h"
#include "service/api_keys.h"
#include "text/json.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static int take(const char *option, const char *text, char *out, size_t cap, struct st_err *e)
{
    if (!text || !*text || strlen(text) >= cap)
        return st_fail(e, ST_USAGE, "%s: want 1 to %zu bytes", option, cap - 1);
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int read_entry(const struct st_log_cmd *o, struct st_buf *entry, struct st_err *e)
{
    struct st_statement s = {0};
    if (!o->file == !o->claim)
        return st_fail(e, ST_USAGE, "log add: want --file FILE, or --claim, --value and --release");
    if (o->file)
        return st_file_read(o->file, ST_TILE_MAX_ENTRY, entry, e);
    if (take("--claim", o->claim, s.claim, sizeof s.claim, e) ||
        take("--value", o->value, s.value, sizeof s.value, e) ||
        take("--release", o->release, s.release, sizeof s.release, e))
        return e->code;
    st_statement_write(&s, entry);
    return entry->failed ? st_fail(e, ST_MEMORY, "out of memory") : 0;
}

/* The size of the tree that is shown. What is added is looked up, not proved: that is for `prove` and for monitors. */
static int shown_size(struct st_log_source *s, uint64_t *size, struct st_err *e)
{
    struct st_buf b = {0};
    struct st_note n = {0};
    struct st_checkpoint c = {0};
    int rc = st_log_source_get(s, "checkpoint", ST_NOTE_MAX_BYTES, &b, e);
    if (!rc)
        rc = st_note_parse(b.p ? b.p : "", b.len, &n, e);
    if (!rc) {
        rc = st_checkpoint_parse(n.text, &c, e);
        *size = c.size;
        st_note_wipe(&n);
    }
    st_buf_free(&b);
    return rc;
}

/* VERIFY when another entry stands there: the log has forgotten ours. */
static int compare(struct st_log_source *s, uint64_t index, uint64_t size, const struct st_buf *entry, struct st_err *e)
{
    struct st_buf b = {0};
    const struct st_tile t = st_tile_at(ST_TILE_ENTRIES, index / ST_TILE_WIDTH, size);
    int rc = st_log_source_tile(s, &t, &b, e);
    struct st_span rest = {(const uint8_t *)b.p, b.len}, one = {0};
    for (uint64_t i = 0; i <= index % ST_TILE_WIDTH && !rc; i++)
        rc = rest.len ? st_entry_next(&rest, &one, NULL, e) : st_fail(e, ST_INPUT, "log: a bundle is too short");
    if (!rc && (one.len != entry->len || memcmp(one.p, entry->p, one.len) != 0))
        rc = st_fail(e, ST_VERIFY, "log: entry %" PRIu64 " is another one: hand it in again", index);
    st_buf_free(&b);
    return rc;
}

static int wait_for(struct st_log_source *s, uint64_t index, const struct st_buf *entry, double wait_s,
                    struct st_err *e)
{
    const double end = st_now() + wait_s;
    const struct timespec pause = {0, 200000000};
    uint64_t size = 0;
    do {
        if (shown_size(s, &size, e))
            return e->code;
        if (size > index)
            return compare(s, index, size, entry, e);
        nanosleep(&pause, NULL);
    } while (st_now() < end);
    return st_fail(e, ST_IO, "log: entry %" PRIu64 " is not there after %.0f s", index, wait_s);
}

/* {"index": N}, or what the log says against it. */
static int read_answer(int status, const struct st_buf *answer, uint64_t *index, struct st_err *e)
{
    json_t *o = NULL;
    int64_t at = -1;
    const char *why = NULL;
    struct st_err ignored;
    if (answer->len && st_json_parse(answer->p, answer->len, "log", &o, &ignored) == 0 && json_is_object(o)) {
        if (st_json_int(o, "log", "index", 0, INT64_MAX, &at, &ignored) ||
            st_json_str(o, "log", "error", &why, &ignored))
            at = -1;
    }
    int rc = status == 202 && at >= 0
                 ? 0
                 : st_fail(e, status == 403 ? ST_POLICY : ST_IO, "log: status %d%s%.300s", status, why ? ": " : "",
                           why             ? why
                           : status == 403 ? ": it does not know this key for entries"
                                           : "");
    *index = (uint64_t)at;
    json_decref(o);
    return rc;
}

int st_log_add(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e)
{
    struct st_log_source s = {0};
    struct st_buf entry = {0}, body = {0}, key = {0}, answer = {0};
    uint64_t index = 0;
    int status = 0;
    if (!o->key_file)
        return st_fail(e, ST_USAGE, "log add: want --key-file FILE");
    int rc = st_api_key_first(o->key_file, &key, e);
    if (!rc)
        rc = read_entry(o, &entry, e);
    if (!rc)
        rc = st_log_source_open(&s, cli->args[1], o->ca_bundle, e);
    if (!rc) {
        st_buf_add(&body, entry.p, entry.len);
        rc = st_log_source_post(&s, &ST_LOG_PATH_ADD[1], key.p, &body, &status, &answer, e);
    }
    if (!rc)
        rc = read_answer(status, &answer, &index, e);
    if (!rc && o->wait_s > 0)
        rc = wait_for(&s, index, &entry, o->wait_s, e);
    if (!rc)
        printf(cli->json ? "{\"index\":%" PRIu64 "}\n" : "entry %" PRIu64 "\n", index);
    st_log_source_close(&s);
    st_buf_free(&entry);
    st_buf_free(&body);
    st_buf_wipe(&key);
    st_buf_free(&answer);
    return rc;
}

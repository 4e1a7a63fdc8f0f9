/* sotto log check and prove: a log read whole. */
#include "attest/log_proof.h"
#include "attest/policy.h"
#include "attest/statement.h"
#include "base/hooks.h"
#include "base/log.h"
#include "cli/log.h"
#include "cli/log_source.h"
#include "service/log_monitor.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct look {
    const struct st_cli *cli;
    const struct st_log_cmd *o;
    struct st_log_source source;
    struct st_tlog_keys keys;
    struct st_buf note;
    struct st_log_monitor_result result;
    struct st_progress bar;
    json_t *findings;
    /* prove: the last entry that states the claim's value */
    struct st_buf entry, tile;
    uint64_t index;
    bool found;
};

static int fetch(void *arg, const struct st_tile *t, struct st_buf *out, struct st_err *e)
{
    struct look *l = arg;
    return st_log_source_tile(&l->source, t, out, e);
}

static void on_finding(void *arg, const char *line)
{
    struct look *l = arg;
    json_array_append_new(l->findings, json_string(line));
    if (!l->cli->json)
        printf("%s\n", line);
}

static int on_entry(void *arg, uint64_t index, struct st_span entry, struct st_err *e)
{
    struct look *l = arg;
    struct st_statement s;
    struct st_err why;
    st_progress_update(&l->bar, index + 1);
    if (!l->o->claim || st_statement_parse(entry.p, entry.len, "entry", &s, &why) ||
        strcmp(s.claim, l->o->claim) != 0 || strcasecmp(s.value, l->o->value) != 0)
        return 0;
    st_buf_clear(&l->entry);
    st_buf_add(&l->entry, entry.p, entry.len);
    l->index = index;
    l->found = true;
    return l->entry.failed ? st_fail(e, ST_MEMORY, "out of memory") : 0;
}

/* Everything of the log that the first argument names, against what --state has seen. */
static int look(struct look *l, struct st_err *e)
{
    struct st_buf before = {0};
    struct st_witnessed w;
    if (st_log_keys(l->o, &l->keys, e) || st_log_source_open(&l->source, l->cli->args[1], l->o->ca_bundle, e) ||
        st_log_source_get(&l->source, "checkpoint", ST_NOTE_MAX_BYTES, &l->note, e))
        return e->code;
    if (l->o->state && st_path_exists(l->o->state) && st_file_read(l->o->state, ST_NOTE_MAX_BYTES, &before, e)) {
        st_buf_free(&before);
        return e->code;
    }
    const struct st_log_monitor_opts mo = {.keys = &l->keys,
                                           .note = {(const uint8_t *)l->note.p, l->note.len},
                                           .before = {(const uint8_t *)before.p, before.len},
                                           .now = st_unix_time(),
                                           .fetch = fetch,
                                           .entry = on_entry,
                                           .found = on_finding,
                                           .arg = l};
    int rc = st_checkpoint_open(l->note.p, l->note.len, &l->keys, mo.now, &w, e);
    if (!rc) {
        st_progress_start(&l->bar, "entries", "", w.checkpoint.size);
        rc = st_log_monitor(&mo, &l->result, e);
        st_progress_end(&l->bar);
    }
    if (!rc && l->result.findings == 0 && l->o->state)
        rc = st_file_write(l->o->state, l->note.p, l->note.len, 0600, true, e);
    st_buf_free(&before);
    return rc;
}

static void look_close(struct look *l)
{
    st_log_source_close(&l->source);
    st_buf_free(&l->note);
    st_buf_free(&l->entry);
    st_buf_free(&l->tile);
    json_decref(l->findings);
}

int st_log_check(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e)
{
    struct look l = {.cli = cli, .o = o, .findings = json_array()};
    const struct st_log_monitor_result *r = &l.result;
    int rc = look(&l, e);
    if (!rc && cli->json) {
        struct st_buf b = {0};
        st_json_dump(l.findings, &b);
        printf("{\"origin\":\"%s\",\"size\":%" PRIu64 ",\"witnesses\":%zu,\"time\":%" PRId64 ",\"directories\":%" PRIu64
               ",\"findings\":%s}\n",
               l.keys.origin, r->checkpoint.checkpoint.size, r->checkpoint.n_witness, r->checkpoint.time,
               r->directories, b.p ? b.p : "[]");
        st_buf_free(&b);
    } else if (!rc && r->findings == 0) {
        printf("%s: %" PRIu64 " entries, %" PRIu64 " directories, cosigned by %zu: nothing found\n", l.keys.origin,
               r->checkpoint.checkpoint.size, r->directories, r->checkpoint.n_witness);
    }
    if (!rc && r->findings)
        rc = st_fail(e, ST_VERIFY, "log %s: %" PRIu64 " findings; keep its files", l.keys.origin, r->findings);
    look_close(&l);
    return rc;
}

/* ---- prove ---- */

static int read_tile(void *ctx, const struct st_tile *t, struct st_span *bytes, struct st_err *e)
{
    struct look *l = ctx;
    st_buf_clear(&l->tile);
    int rc = st_log_source_tile(&l->source, t, &l->tile, e);
    *bytes = (struct st_span){(const uint8_t *)l->tile.p, l->tile.len};
    return rc;
}

/* Puts the proof behind those that the policy has. */
static int put_into(const char *path, const struct st_buf *proof, struct st_err *e)
{
    json_t *policy = NULL, *one = NULL;
    struct st_policy *p = NULL;
    char *text = NULL;
    int rc = st_json_read_file(path, ST_POLICY_MAX_BYTES, &policy, e);
    if (!rc)
        rc = st_json_parse(proof->p, proof->len, "proof", &one, e);
    if (!rc && !json_is_array(json_object_get(policy, "proofs")) &&
        json_object_set_new(policy, "proofs", json_array()) != 0)
        rc = st_fail(e, ST_INPUT, "%s: want a policy: an object", path);
    if (!rc && json_array_append(json_object_get(policy, "proofs"), one) != 0)
        rc = st_fail(e, ST_MEMORY, "%s: out of memory", path);
    if (!rc)
        text = json_dumps(policy, JSON_INDENT(1) | JSON_ENSURE_ASCII);
    if (!rc && !text)
        rc = st_fail(e, ST_MEMORY, "%s: out of memory", path);
    if (!rc) /* what is written must be a policy that this proof helps */
        rc = st_policy_parse(text, strlen(text), path, &p, e);
    if (!rc)
        rc = st_file_write(path, text, strlen(text), 0644, true, e);
    st_policy_free(p);
    free(text);
    json_decref(one);
    json_decref(policy);
    return rc;
}

static int prove(struct look *l, struct st_err *e)
{
    const struct st_checkpoint *c = &l->result.checkpoint.checkpoint;
    const struct st_tile_reader reader = {read_tile, l, c->size};
    const struct st_merkle_source source = st_tile_source(&reader);
    struct st_buf text = {0};
    struct st_log_proof p = {.entry = l->entry, .index = l->index, .checkpoint = l->note.p}; /* borrows */
    int rc = st_merkle_prove_inclusion(&source, l->index, c->size, &p.hashes, e);
    if (!rc)
        rc = st_log_proof_verify(&p, &l->keys, e);
    if (rc)
        return rc;
    st_log_proof_write(&p, &text);
    if (text.failed)
        rc = st_fail(e, ST_MEMORY, "out of memory");
    else if (l->o->into)
        rc = put_into(l->o->into, &text, e);
    else
        printf("%s\n", text.p);
    if (!rc && l->o->into && !l->cli->quiet)
        printf("%s: entry %" PRIu64 " of %s proves %s\n", l->o->into, l->index, l->keys.origin, l->o->claim);
    st_buf_free(&text);
    return rc;
}

int st_log_prove(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e)
{
    if (!o->claim || !o->value)
        return st_fail(e, ST_USAGE, "log prove: want --claim and --value");
    struct look l = {.cli = cli, .o = o, .findings = json_array()};
    int rc = look(&l, e);
    if (!rc && l.result.findings)
        rc = st_fail(e, ST_VERIFY, "log %s: %" PRIu64 " findings; see `sotto log check`", l.keys.origin,
                     l.result.findings);
    if (!rc && !l.found)
        rc = st_fail(e, ST_VERIFY, "log %s: no entry says that %s has this value", l.keys.origin, o->claim);
    if (!rc)
        rc = prove(&l, e);
    look_close(&l);
    return rc;
}

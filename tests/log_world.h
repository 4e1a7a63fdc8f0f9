/* A log, two witnesses and directories, made for tests. Include expect.h first. */
#ifndef ST_TESTS_LOG_WORLD_H
#define ST_TESTS_LOG_WORLD_H

#include "attest/directory.h"
#include "base/hooks.h"
#include "service/log_reply.h"
#include "service/log_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_ORIGIN "log.example/test"

struct log_world {
    char dir[64];
    struct st_ed25519 *log, *witness[2];
    struct st_tlog_keys keys; /* both witnesses must have cosigned */
};

static const char *const log_witness_name[] = {"witness.example/a", "witness.example/b"};

static inline struct st_note_key log_key_of(const struct st_ed25519 *k, const char *name, uint8_t type)
{
    struct st_err e;
    struct st_note_key out;
    uint8_t public[ST_ED25519_PUBLIC];
    st_ed25519_public(k, public);
    assert_ok(st_note_key_make(name, type, public, &out, &e), &e);
    return out;
}

static inline void log_world_open(struct log_world *w)
{
    struct st_err e;
    *w = (struct log_world){.dir = "/tmp/sotto-log-XXXXXX"};
    assert_non_null(mkdtemp(w->dir));
    assert_ok(st_ed25519_new(&w->log, &e), &e);
    w->keys = (struct st_tlog_keys){.origin = LOG_ORIGIN, .n_witness = 2, .quorum = 2};
    w->keys.log = log_key_of(w->log, LOG_ORIGIN, ST_NOTE_ED25519);
    for (int i = 0; i < 2; i++) {
        assert_ok(st_ed25519_new(&w->witness[i], &e), &e);
        w->keys.witnesses[i] = log_key_of(w->witness[i], log_witness_name[i], ST_NOTE_COSIGNATURE);
    }
}

static inline void log_world_close(struct log_world *w)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", w->dir);
    assert_int_equal(system(cmd), 0);
    st_ed25519_free(w->log);
    for (int i = 0; i < 2; i++)
        st_ed25519_free(w->witness[i]);
}

/* A path below the world's directory, in static memory that the next but three calls use again. */
static inline const char *log_path(const struct log_world *w, const char *name)
{
    static char path[4][256];
    static int n;
    n = (n + 1) % 4;
    snprintf(path[n], sizeof path[n], "%s/%s", w->dir, name);
    return path[n];
}

static inline struct st_log_store *log_store_new(const struct log_world *w, const char *name)
{
    struct st_err e;
    struct st_log_store *s;
    assert_ok(st_log_store_create(log_path(w, name), LOG_ORIGIN, w->log, &e), &e);
    assert_ok(st_log_store_open(log_path(w, name), LOG_ORIGIN, w->log, &s, &e), &e);
    return s;
}

static inline void log_append(struct st_log_store *s, const char *entry)
{
    struct st_err e;
    uint64_t index;
    assert_ok(st_log_store_append(s, entry, strlen(entry), &index, &e), &e);
}

/* A directory of one gateway, as text in static memory. */
static inline const char *log_directory(uint64_t epoch, const char *gateway)
{
    static char text[512];
    snprintf(text, sizeof text,
             "{\"version\":1,\"kind\":\"directory\",\"epoch\":%llu,\"time\":%llu,\"every\":60,\"gateways\":[{\"name\":"
             "\"%s\",\"keys\":\"AAEC\",\"price\":{\"request\":1,\"unit_bytes\":4096},\"nodes\":[]}],\"issuers\":[]}",
             (unsigned long long)epoch, (unsigned long long)epoch * 60, gateway);
    return text;
}

/* What a log with the given store would answer to a client that saw `from`; cosigned at `time` by n witnesses. The last
 * entry of the store is `entry`. */
static inline void log_answer(const struct log_world *w, struct st_log_store *s, const char *entry, uint64_t from,
                              int64_t time, int n, struct st_log_reply *out)
{
    struct st_err e;
    struct st_note note;
    *out = (struct st_log_reply){0};
    assert_ok(st_log_store_commit(s, &e), &e);
    const struct st_span bare = st_log_store_signed(s);
    st_buf_add(&out->note, bare.p, bare.len);
    assert_ok(st_note_parse(bare.p, bare.len, &note, &e), &e);
    for (int i = 0; i < n; i++)
        assert_ok(st_cosignature_sign(note.text, log_witness_name[i], w->witness[i], time, &out->note, &e), &e);
    st_note_wipe(&note);
    struct st_merkle_source source = st_log_store_source(s);
    uint64_t size = st_log_store_size(s);
    out->index = size - 1;
    if (from <= size)
        assert_ok(st_merkle_prove_consistency(&source, from, size, &out->consistency, &e), &e);
    assert_ok(st_merkle_prove_inclusion(&source, out->index, size, &out->inclusion, &e), &e);
    st_buf_add_str(&out->entry, entry);
}

#endif

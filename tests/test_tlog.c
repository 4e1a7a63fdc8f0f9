/* Checkpoints, their witnesses, and what a client remembers: rollback, forks and missing witnesses are refused. */
#include "attest/tlog.h"
#include "crypto/digest.h"
#include "expect.h"
#include "mutate.h"

#include <stdio.h>

#define NOW 1760000000
#define MAX_LEAVES 40

/* A checkpoint of a public log with its key's signature and a public witness's cosignature; other signatures on it are
 * of types and keys unknown here. */
#define PUBLIC_ORIGIN "arche2025h1.staging.ct.transparency.dev"
#define PUBLIC_LOG PUBLIC_ORIGIN "+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
#define PUBLIC_WITNESS "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
#define PUBLIC_TIME 1779573024
#define DASH "\xe2\x80\x94 "
static const char public_checkpoint[] = PUBLIC_ORIGIN
    "\n1432088532\nU7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=\n\n" DASH PUBLIC_ORIGIN
    " zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9"
    "MNL5zRNZ55lvGt0=\n" DASH PUBLIC_ORIGIN
    " ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=\n" DASH
    "remora.n621.de "
    "2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWf"
    "Bw==\n";

/* A log of ours and three witnesses. */
struct world {
    struct st_ed25519 *log, *witness[3];
    struct st_tlog_keys keys; /* two of the three are enough */
    struct st_merkle_hash leaves[MAX_LEAVES];
};

static const char *const witness_name[] = {"witness.example/a", "witness.example/b", "witness.example/c"};

static struct st_note_key key_of(const struct st_ed25519 *k, const char *name, uint8_t type)
{
    struct st_err e;
    struct st_note_key out;
    uint8_t public[ST_ED25519_PUBLIC];
    st_ed25519_public(k, public);
    assert_ok(st_note_key_make(name, type, public, &out, &e), &e);
    return out;
}

static int setup(void **state)
{
    struct st_err e;
    static struct world w;
    uint8_t seed[32] = {9};
    w = (struct world){.keys = {.origin = "log.example/sotto", .n_witness = 3, .quorum = 2}};
    assert_ok(st_ed25519_import(seed, &w.log, &e), &e);
    w.keys.log = key_of(w.log, "log.example/sotto", ST_NOTE_ED25519);
    for (uint8_t i = 0; i < 3; i++) {
        seed[1] = (uint8_t)(i + 1);
        assert_ok(st_ed25519_import(seed, &w.witness[i], &e), &e);
        w.keys.witnesses[i] = key_of(w.witness[i], witness_name[i], ST_NOTE_COSIGNATURE);
    }
    for (uint8_t i = 0; i < MAX_LEAVES; i++)
        w.leaves[i] = st_merkle_leaf(&i, 1);
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    st_ed25519_free(w->log);
    for (int i = 0; i < 3; i++)
        st_ed25519_free(w->witness[i]);
    return 0;
}

static int leaf_source(void *ctx, unsigned level, uint64_t index, struct st_merkle_hash *out, struct st_err *e)
{
    struct world *w = ctx;
    struct st_merkle_range r = {0};
    for (uint64_t i = 0; i < (uint64_t)1 << level; i++)
        assert_ok(st_merkle_append(&r, &w->leaves[(index << level) + i], NULL, e), e);
    *out = st_merkle_root(&r);
    return 0;
}

static struct st_merkle_proof growth(struct world *w, uint64_t from, uint64_t size)
{
    struct st_err e;
    struct st_merkle_proof p;
    struct st_merkle_source s = {leaf_source, w};
    assert_ok(st_merkle_prove_consistency(&s, from, size, &p, &e), &e);
    return p;
}

static const struct st_merkle_proof nothing;

/* A note of the tree of `size` leaves, cosigned by witness i at times[i] where that is not 0. */
static struct st_buf make(struct world *w, uint64_t size, const char *origin, const int64_t times[3])
{
    struct st_err e;
    struct st_buf text = {0}, out = {0};
    struct st_merkle_range r;
    struct st_merkle_source s = {leaf_source, w};
    struct st_checkpoint c = {.size = size};
    snprintf(c.origin, sizeof c.origin, "%s", origin);
    assert_ok(st_merkle_load(&s, size, &r, &e), &e);
    c.root = st_merkle_root(&r);
    assert_ok(st_checkpoint_write(&c, &text, &e), &e);
    struct st_span t = {(const uint8_t *)text.p, text.len};
    assert_ok(st_note_begin(t, &out, &e), &e);
    assert_ok(st_note_sign(t, origin, w->log, &out, &e), &e);
    for (int i = 0; i < 3; i++)
        if (times[i])
            assert_ok(st_cosignature_sign(t, witness_name[i], w->witness[i], times[i], &out, &e), &e);
    st_buf_free(&text);
    return out;
}

static struct st_buf make_at(struct world *w, uint64_t size, int64_t time)
{
    const int64_t times[] = {time, time, time};
    return make(w, size, w->keys.origin, times);
}

static int update(struct st_tlog *t, struct st_buf note, const struct st_merkle_proof *p, int64_t now, struct st_err *e)
{
    int rc = st_tlog_update(t, note.p, note.len, p, now, e);
    st_buf_free(&note);
    return rc;
}

static void a_checkpoint_of_a_public_log_opens_with_its_witness(void **state)
{
    (void)state;
    struct st_err e;
    struct st_tlog_keys keys = {.origin = PUBLIC_ORIGIN, .n_witness = 1, .quorum = 1};
    struct st_witnessed w;
    struct st_buf again = {0};
    uint8_t digest[32];
    assert_ok(st_note_key_parse(PUBLIC_LOG, strlen(PUBLIC_LOG), &keys.log, &e), &e);
    assert_ok(st_note_key_parse(PUBLIC_WITNESS, strlen(PUBLIC_WITNESS), &keys.witnesses[0], &e), &e);
    assert_ok(st_checkpoint_open(public_checkpoint, sizeof public_checkpoint - 1, &keys, PUBLIC_TIME, &w, &e), &e);
    assert_string_equal(w.checkpoint.origin, PUBLIC_ORIGIN);
    assert_int_equal(w.checkpoint.size, 1432088532);
    assert_int_equal(w.time, PUBLIC_TIME);
    assert_int_equal(w.n_witness, 1);
    assert_ok(st_checkpoint_write(&w.checkpoint, &again, &e), &e);
    assert_memory_equal(again.p, public_checkpoint, again.len);
    st_sha256(public_checkpoint, sizeof public_checkpoint - 1, digest);
    assert_memory_equal(w.digest, digest, 32);
    expect_refusal(
        st_checkpoint_open(public_checkpoint, sizeof public_checkpoint - 1, &keys, PUBLIC_TIME - 301, &w, &e), &e,
        ST_VERIFY, "1 ahead of our clock");
    st_buf_free(&again);
}

static void every_flipped_bit_of_a_signed_checkpoint_is_refused(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_witnessed out;
    const int64_t times[] = {NOW, NOW, 0};
    struct st_buf note = make(w, 21, w->keys.origin, times);
    assert_ok(st_checkpoint_open(note.p, note.len, &w->keys, NOW, &out, &e), &e);
    for (size_t at = 0; at < note.len * 8; at++) {
        note.p[at / 8] ^= (char)(1 << at % 8);
        int rc = st_checkpoint_open(note.p, note.len, &w->keys, NOW, &out, &e);
        assert_true(rc == ST_INPUT || rc == ST_VERIFY);
        assert_int_equal(out.checkpoint.size, 0);
        note.p[at / 8] ^= (char)(1 << at % 8);
    }
    for (size_t len = 0; len < note.len; len++) {
        int rc = st_checkpoint_open(note.p, len, &w->keys, NOW, &out, &e);
        assert_true(rc == ST_INPUT || rc == ST_VERIFY);
    }
    st_buf_free(&note);
}

static void texts_that_are_no_checkpoint_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_checkpoint c;
    struct st_buf out = {0};
#define ROOT "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "three lines"},
        {"log\n5\n", "three lines"},
        {"log\n5\n" ROOT "ext", "extension"},
        {"log\n5\n" ROOT "\n", "extension"},
        {"log\n5\n" ROOT "a\n\nb\n", "extension"},
        {"\n5\n" ROOT, "origin"},
        {"log\n\n" ROOT, "size"},
        {"log\n05\n" ROOT, "size"},
        {"log\n-5\n" ROOT, "size"},
        {"log\n+5\n" ROOT, "size"},
        {"log\n 5\n" ROOT, "size"},
        {"log\n5 \n" ROOT, "size"},
        {"log\n0x5\n" ROOT, "size"},
        {"log\n9223372036854775808\n" ROOT, "size"},
        {"log\n18446744073709551621\n" ROOT, "size"},
        {"log\n5\n\n", "root"},
        {"log\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I\n", "root"},
        {"log\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n", "root"},
        {"log\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxqw==\n", "root"},
        {"log\n5\n " ROOT, "root"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct st_span text = {(const uint8_t *)bad[i].text, strlen(bad[i].text)};
        expect_refusal(st_checkpoint_parse(text, &c, &e), &e, ST_INPUT, bad[i].says);
    }
    static const char good[] = "any origin + with spaces\n9223372036854775807\n" ROOT "first\nsecond\n";
    assert_ok(st_checkpoint_parse((struct st_span){(const uint8_t *)good, sizeof good - 1}, &c, &e), &e);
    assert_int_equal(c.size, ST_MERKLE_MAX_SIZE);
    assert_int_equal(c.extensions.len, strlen("first\nsecond\n"));
    assert_ok(st_checkpoint_write(&c, &out, &e), &e);
    assert_string_equal(out.p, good);
    c.size++;
    expect_refusal(st_checkpoint_write(&c, &out, &e), &e, ST_INPUT, "checkpoint");
    c.size = 1;
    strcpy(c.origin, "a\nb");
    expect_refusal(st_checkpoint_write(&c, &out, &e), &e, ST_INPUT, "checkpoint");
    st_buf_free(&out);
}

static void a_missing_witness_is_refused(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_witnessed out;
    static const struct {
        int64_t times[3];
        int rc;
    } cases[] = {{{NOW, NOW, NOW}, 0},     {{NOW, NOW, 0}, 0},         {{0, NOW, NOW}, 0},
                 {{NOW, 0, 0}, ST_VERIFY}, {{0, 0, 0}, ST_VERIFY},     {{NOW, NOW + 301, 0}, ST_VERIFY},
                 {{NOW, NOW + 300, 0}, 0}, {{NOW + 999, NOW, NOW}, 0}, {{NOW, INT64_MAX, 0}, ST_VERIFY}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct st_buf note = make(w, 9, w->keys.origin, cases[i].times);
        int rc = st_checkpoint_open(note.p, note.len, &w->keys, NOW, &out, &e);
        if (cases[i].rc)
            expect_refusal(rc, &e, ST_VERIFY, "of 3 witnesses, want 2");
        else
            assert_ok(rc, &e);
        st_buf_free(&note);
    }
}

static void the_time_is_one_that_a_quorum_vouches_for(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_witnessed out;
    const int64_t times[] = {NOW - 5000, NOW, NOW - 100};
    struct st_buf note = make(w, 9, w->keys.origin, times);
    assert_ok(st_checkpoint_open(note.p, note.len, &w->keys, NOW, &out, &e), &e);
    assert_int_equal(out.time, NOW - 100);
    assert_int_equal(out.n_witness, 3);
    struct st_tlog_keys keys = w->keys;
    keys.quorum = 3;
    assert_ok(st_checkpoint_open(note.p, note.len, &keys, NOW, &out, &e), &e);
    assert_int_equal(out.time, NOW - 5000);
    keys.quorum = 1;
    assert_ok(st_checkpoint_open(note.p, note.len, &keys, NOW, &out, &e), &e);
    assert_int_equal(out.time, NOW);
    keys.quorum = 0;
    assert_ok(st_checkpoint_open(note.p, note.len, &keys, NOW, &out, &e), &e);
    assert_int_equal(out.time, 0);
    st_buf_free(&note);
}

static void younger_cosignatures_of_one_tree_make_another_nonce(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_witnessed a, b;
    struct st_buf old = make_at(w, 5, NOW - 1000), young = make_at(w, 5, NOW);
    assert_ok(st_checkpoint_open(old.p, old.len, &w->keys, NOW, &a, &e), &e);
    assert_ok(st_checkpoint_open(young.p, young.len, &w->keys, NOW, &b, &e), &e);
    assert_memory_equal(a.checkpoint.root.b, b.checkpoint.root.b, ST_MERKLE_HASH);
    assert_int_equal(b.time - a.time, 1000);
    assert_memory_not_equal(a.digest, b.digest, 32);
    st_buf_free(&old);
    st_buf_free(&young);
}

static void a_cosignature_counts_for_its_text_time_and_key_only(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_witnessed out;
    const int64_t times[] = {NOW, 0, 0};
    struct st_note n, other;
    struct st_buf note = make(w, 9, w->keys.origin, times), ten = make_at(w, 10, NOW), copy = {0};
    int64_t time;
    /* A second cosignature of the same witness is none of a second one. */
    st_buf_add(&copy, note.p, note.len);
    assert_ok(st_note_parse(note.p, note.len, &n, &e), &e);
    assert_ok(st_cosignature_sign(n.text, witness_name[0], w->witness[0], NOW + 7, &copy, &e), &e);
    expect_refusal(st_checkpoint_open(copy.p, copy.len, &w->keys, NOW, &out, &e), &e, ST_VERIFY, "1 of 3");
    st_note_wipe(&n);
    assert_ok(st_note_parse(copy.p, copy.len, &n, &e), &e);
    assert_ok(st_cosignature_verify(&n, &w->keys.witnesses[0], &time, &e), &e);
    assert_int_equal(time, NOW + 7);
    expect_refusal(st_cosignature_verify(&n, &w->keys.witnesses[1], &time, &e), &e, ST_VERIFY, "not cosigned");
    expect_refusal(st_cosignature_verify(&n, &w->keys.log, &time, &e), &e, ST_USAGE, "signature type");
    /* That of another checkpoint refuses the whole. */
    assert_ok(st_note_parse(ten.p, ten.len, &other, &e), &e);
    st_note_add(&w->keys.witnesses[1], other.signatures[2].bytes, &copy);
    expect_refusal(st_checkpoint_open(copy.p, copy.len, &w->keys, NOW, &out, &e), &e, ST_VERIFY, "witness.example/b");
    /* So does one with bytes missing. */
    st_buf_clear(&copy);
    st_buf_add(&copy, note.p, note.len);
    st_note_add(&w->keys.witnesses[1], (struct st_span){other.signatures[2].bytes.p, 64}, &copy);
    expect_refusal(st_checkpoint_open(copy.p, copy.len, &w->keys, NOW, &out, &e), &e, ST_VERIFY, "not of its form");
    expect_refusal(st_cosignature_sign(n.text, "a", w->witness[0], -1, &copy, &e), &e, ST_USAGE, "1970");
    st_note_wipe(&n);
    st_note_wipe(&other);
    st_buf_free(&note);
    st_buf_free(&ten);
    st_buf_free(&copy);
}

static void another_log_or_key_is_refused(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_witnessed out;
    const int64_t times[] = {NOW, NOW, NOW};
    struct st_tlog_keys keys = w->keys;
    struct st_buf note = make(w, 9, "log.example/sotto", times);
    strcpy(keys.origin, "log.example/other");
    expect_refusal(st_checkpoint_open(note.p, note.len, &keys, NOW, &out, &e), &e, ST_VERIFY, "want log.example/other");
    keys = w->keys;
    keys.log = key_of(w->witness[0], "log.example/sotto", ST_NOTE_ED25519);
    keys.n_witness = keys.quorum = 0;
    expect_refusal(st_checkpoint_open(note.p, note.len, &keys, NOW, &out, &e), &e, ST_VERIFY, "not signed by");
    /* The right id over another key. */
    memcpy(keys.log.id, w->keys.log.id, 4);
    expect_refusal(st_checkpoint_open(note.p, note.len, &keys, NOW, &out, &e), &e, ST_VERIFY, "not the key's");
    st_buf_free(&note);
}

static void keys_that_make_no_sense_are_refused(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_tlog t;
    struct st_tlog_keys k = w->keys;
    k.quorum = 4;
    expect_refusal(st_tlog_init(&t, &k, &e), &e, ST_USAGE, "quorum");
    k = w->keys;
    k.n_witness = ST_TLOG_MAX_WITNESSES + 1;
    expect_refusal(st_tlog_init(&t, &k, &e), &e, ST_USAGE, "at most 16");
    k = w->keys;
    k.witnesses[2] = key_of(w->witness[0], "witness.example/again", ST_NOTE_COSIGNATURE);
    expect_refusal(st_tlog_init(&t, &k, &e), &e, ST_USAGE, "witness.example/again");
    k.witnesses[2] = key_of(w->log, "witness.example/log", ST_NOTE_COSIGNATURE);
    expect_refusal(st_tlog_init(&t, &k, &e), &e, ST_USAGE, "another role");
    k.witnesses[2] = key_of(w->witness[2], "witness.example/c", ST_NOTE_ED25519);
    expect_refusal(st_tlog_init(&t, &k, &e), &e, ST_USAGE, "signature type 4");
    k = w->keys;
    k.log.type = ST_NOTE_COSIGNATURE;
    expect_refusal(st_tlog_init(&t, &k, &e), &e, ST_USAGE, "signature type 1");
    k = w->keys;
    k.origin[0] = 0;
    expect_refusal(st_tlog_init(&t, &k, &e), &e, ST_USAGE, "origin");
}

static void a_log_that_grows_is_followed(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_tlog t, again;
    struct st_merkle_proof p;
    struct st_merkle_source s = {leaf_source, w};
    static const uint64_t sizes[] = {0, 1, 2, 7, 8, 9, 31, 32, MAX_LEAVES};
    assert_ok(st_tlog_init(&t, &w->keys, &e), &e);
    expect_refusal(st_tlog_includes(&t, (struct st_span){0}, 0, &nothing, &e), &e, ST_VERIFY, "no checkpoint");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        p = growth(w, t.last.checkpoint.size, sizes[i]);
        assert_ok(update(&t, make_at(w, sizes[i], NOW + (int64_t)i), &p, NOW, &e), &e);
        assert_int_equal(t.last.checkpoint.size, sizes[i]);
        assert_int_equal(t.last.time, NOW + (int64_t)i);
    }
    for (uint8_t i = 0; i < MAX_LEAVES; i++) {
        assert_ok(st_merkle_prove_inclusion(&s, i, MAX_LEAVES, &p, &e), &e);
        assert_ok(st_tlog_includes(&t, (struct st_span){&i, 1}, i, &p, &e), &e);
        expect_refusal(st_tlog_includes(&t, (struct st_span){&i, 1}, i ^ 1u, &p, &e), &e, ST_VERIFY, "not proved");
        uint8_t other = i ^ 64;
        expect_refusal(st_tlog_includes(&t, (struct st_span){&other, 1}, i, &p, &e), &e, ST_VERIFY, "not proved");
    }
    /* What is stored is taken up again, however old it is; what is damaged is not. */
    assert_ok(st_tlog_init(&again, &w->keys, &e), &e);
    assert_ok(st_tlog_restore(&again, t.note.p, t.note.len, &e), &e);
    assert_memory_equal(again.last.digest, t.last.digest, 32);
    t.note.p[4] ^= 1;
    expect_refusal(st_tlog_restore(&again, t.note.p, t.note.len, &e), &e, ST_VERIFY, "log.example/sotto");
    assert_int_equal(again.last.checkpoint.size, MAX_LEAVES);
    st_tlog_wipe(&t);
    st_tlog_wipe(&again);
}

static void the_later_of_two_of_one_size_stays(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_tlog t;
    assert_ok(st_tlog_init(&t, &w->keys, &e), &e);
    assert_ok(update(&t, make_at(w, 9, NOW), &nothing, NOW, &e), &e);
    assert_ok(update(&t, make_at(w, 9, NOW + 60), &nothing, NOW, &e), &e);
    assert_int_equal(t.last.time, NOW + 60);
    assert_ok(update(&t, make_at(w, 9, NOW + 30), &nothing, NOW, &e), &e);
    assert_int_equal(t.last.time, NOW + 60);
    st_tlog_wipe(&t);
}

static void rollback_is_refused(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_tlog t;
    assert_ok(st_tlog_init(&t, &w->keys, &e), &e);
    assert_ok(update(&t, make_at(w, 30, NOW), &nothing, NOW, &e), &e);
    for (uint64_t size = 0; size < 30; size++) {
        struct st_merkle_proof p = growth(w, size, 30);
        expect_refusal(update(&t, make_at(w, size, NOW + 60), &p, NOW, &e), &e, ST_VERIFY, "rollback: size");
        expect_refusal(update(&t, make_at(w, size, NOW + 60), &nothing, NOW, &e), &e, ST_VERIFY, "it was 30");
        assert_int_equal(t.last.checkpoint.size, 30);
    }
    st_tlog_wipe(&t);
}

/* The log and every witness sign another history, from leaf `from` on. */
static void a_fork_is_refused(void **state)
{
    struct world *w = *state, other = *w;
    struct st_err e;
    struct st_tlog t;
    assert_ok(st_tlog_init(&t, &w->keys, &e), &e);
    assert_ok(update(&t, make_at(w, 20, NOW), &nothing, NOW, &e), &e);
    for (size_t from = 0; from < 20; from++) {
        memcpy(other.leaves, w->leaves, sizeof other.leaves);
        other.leaves[from].b[0] ^= 1;
        expect_refusal(update(&t, make_at(&other, 20, NOW + 60), &nothing, NOW, &e), &e, ST_VERIFY, "fork: another");
        for (uint64_t size = 21; size <= MAX_LEAVES; size++) {
            struct st_merkle_proof theirs = growth(&other, 20, size), ours = growth(w, 20, size);
            expect_refusal(update(&t, make_at(&other, size, NOW), &theirs, NOW, &e), &e, ST_VERIFY, "fork, or");
            expect_refusal(update(&t, make_at(&other, size, NOW), &ours, NOW, &e), &e, ST_VERIFY, "fork, or");
        }
        assert_int_equal(t.last.time, NOW);
    }
    /* A history that differs only behind what is remembered is no fork for this client. */
    memcpy(other.leaves, w->leaves, sizeof other.leaves);
    other.leaves[20].b[0] ^= 1;
    struct st_merkle_proof p = growth(&other, 20, 25), none = {0};
    expect_refusal(update(&t, make_at(&other, 25, NOW), &none, NOW, &e), &e, ST_VERIFY, "wrong proof");
    assert_ok(update(&t, make_at(&other, 25, NOW), &p, NOW, &e), &e);
    p = growth(w, 25, 30);
    expect_refusal(update(&t, make_at(w, 30, NOW), &p, NOW, &e), &e, ST_VERIFY, "fork, or");
    st_tlog_wipe(&t);
}

static void an_update_without_its_witnesses_changes_nothing(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_tlog t;
    const int64_t one[] = {0, 0, NOW};
    struct st_merkle_proof p = growth(w, 20, 25);
    assert_ok(st_tlog_init(&t, &w->keys, &e), &e);
    assert_ok(update(&t, make_at(w, 20, NOW), &nothing, NOW, &e), &e);
    expect_refusal(update(&t, make(w, 25, w->keys.origin, one), &p, NOW, &e), &e, ST_VERIFY,
                   "cosigned by 1 of 3 witnesses, want 2");
    assert_int_equal(t.last.checkpoint.size, 20);
    assert_ok(update(&t, make_at(w, 25, NOW), &p, NOW, &e), &e);
    st_tlog_wipe(&t);
}

static void damaged_checkpoints_are_never_remembered(void **state)
{
    struct world *w = *state;
    struct st_err e;
    struct st_tlog t;
    struct st_rng r;
    const int64_t times[] = {NOW, NOW, 0};
    struct st_buf note = make(w, 25, w->keys.origin, times);
    size_t text = (size_t)(strstr(note.p, "\n\n") - note.p) + 1;
    assert_ok(st_tlog_init(&t, &w->keys, &e), &e);
    st_rng_seed(&r, 8);
    for (int i = 0; i < 5000; i++) {
        size_t len;
        uint8_t *b = mutate(&r, note.p, note.len, text, &len);
        if (st_tlog_update(&t, b, len, &nothing, NOW, &e) == 0)
            assert_memory_equal(b, note.p, text);
        free(b);
    }
    st_tlog_wipe(&t);
    st_buf_free(&note);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checkpoint_of_a_public_log_opens_with_its_witness),
        cmocka_unit_test(every_flipped_bit_of_a_signed_checkpoint_is_refused),
        cmocka_unit_test(texts_that_are_no_checkpoint_are_refused),
        cmocka_unit_test(a_missing_witness_is_refused),
        cmocka_unit_test(the_time_is_one_that_a_quorum_vouches_for),
        cmocka_unit_test(younger_cosignatures_of_one_tree_make_another_nonce),
        cmocka_unit_test(a_cosignature_counts_for_its_text_time_and_key_only),
        cmocka_unit_test(another_log_or_key_is_refused),
        cmocka_unit_test(keys_that_make_no_sense_are_refused),
        cmocka_unit_test(a_log_that_grows_is_followed),
        cmocka_unit_test(the_later_of_two_of_one_size_stays),
        cmocka_unit_test(rollback_is_refused),
        cmocka_unit_test(a_fork_is_refused),
        cmocka_unit_test(an_update_without_its_witnesses_changes_nothing),
        cmocka_unit_test(damaged_checkpoints_are_never_remembered),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

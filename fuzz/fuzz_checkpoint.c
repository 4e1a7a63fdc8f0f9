/* Any bytes as a checkpoint's text, as a whole witnessed note, as a bundle of entries, and as a proof: refused, or what
 * was read is written back as the same bytes; and nothing is believed without the keys. */
#include "attest/tiles.h"
#include "attest/tlog.h"

#include <stdlib.h>
#include <string.h>

static void read_text(struct st_span text)
{
    struct st_err e;
    struct st_checkpoint c;
    struct st_buf out = {0};
    if (st_checkpoint_parse(text, &c, &e) != 0)
        return;
    if (st_checkpoint_write(&c, &out, &e) || out.len != text.len || memcmp(out.p, text.p, text.len) != 0)
        abort();
    st_buf_free(&out);
}

static void update(struct st_span note)
{
    static const uint8_t log[ST_ED25519_PUBLIC] = {7}, witness[ST_ED25519_PUBLIC] = {8};
    static const struct st_merkle_proof none;
    struct st_err e;
    struct st_tlog t;
    struct st_tlog_keys k = {.origin = "log.example/sotto", .n_witness = 1, .quorum = 1};
    if (st_note_key_make(k.origin, ST_NOTE_ED25519, log, &k.log, &e) ||
        st_note_key_make("witness.example/a", ST_NOTE_COSIGNATURE, witness, &k.witnesses[0], &e) ||
        st_tlog_init(&t, &k, &e))
        abort();
    int rc = st_tlog_update(&t, note.p, note.len, &none, 1760000000, &e);
    if (rc != ST_INPUT && rc != ST_VERIFY)
        abort();
    st_tlog_wipe(&t);
}

static void read_entries(struct st_span bundle)
{
    struct st_err e;
    struct st_span rest = bundle, entry;
    struct st_buf again = {0};
    while (rest.len > 0 && st_entry_next(&rest, &entry, NULL, &e) == 0)
        if (st_entry_add(entry.p, entry.len, &again, &e))
            abort();
    if (again.len + rest.len != bundle.len || (again.len && memcmp(again.p, bundle.p, again.len) != 0))
        abort();
    st_buf_free(&again);
}

/* Numbers and hashes of a proof; no hash here is one of a tree. */
static void verify(struct st_span b)
{
    struct st_err e;
    struct st_merkle_proof p = {0};
    struct st_merkle_hash root = {{1}}, leaf = {{2}};
    uint64_t at, size;
    if (b.len < 16)
        return;
    memcpy(&at, b.p, 8);
    memcpy(&size, b.p + 8, 8);
    for (b.p += 16, b.len -= 16; b.len >= 32 && p.n < ST_MERKLE_MAX_PROOF; b.p += 32, b.len -= 32)
        memcpy(p.hashes[p.n++].b, b.p, 32);
    if (st_merkle_verify_inclusion(&leaf, at, size, &root, &p, &e) != ST_VERIFY ||
        st_merkle_verify_consistency(at, &leaf, size, &root, &p, &e) != ST_VERIFY)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_span b = {data, size};
    read_text(b);
    update(b);
    read_entries(b);
    verify(b);
    return 0;
}

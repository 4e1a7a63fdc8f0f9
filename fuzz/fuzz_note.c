/* Any bytes as a signed note, as a verifier key and as the path of a tile: refused, or what was read is written back as
 * the same bytes (a key's id in lower case); and no note that the fuzzer makes is signed by a key that it does not
 * have. */
#include "attest/note.h"
#include "attest/tiles.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void read_note(const uint8_t *data, size_t size)
{
    static const uint8_t public[ST_ED25519_PUBLIC] = {7};
    struct st_err e;
    struct st_note n;
    struct st_note_key k;
    struct st_buf out = {0};
    int rc = st_note_parse(data, size, &n, &e);
    if (rc) {
        if (rc != ST_INPUT)
            abort();
        return;
    }
    if (st_note_begin(n.text, &out, &e))
        abort();
    for (size_t i = 0; i < n.n_signature; i++) {
        const struct st_note_signature *s = &n.signatures[i];
        char name[ST_NOTE_MAX_NAME + 1];
        memcpy(name, s->name.p, s->name.len);
        name[s->name.len] = 0;
        if (st_note_key_make(name, ST_NOTE_ED25519, public, &k, &e))
            abort();
        memcpy(k.id, s->id.p, sizeof k.id);
        st_note_add(&k, s->bytes, &out);
        if (st_note_verify(&n, &k, &e) != ST_VERIFY)
            abort();
    }
    if (out.len != size || memcmp(out.p, data, size) != 0)
        abort();
    st_buf_free(&out);
    st_note_wipe(&n);
}

static void read_key(const char *s, size_t size)
{
    struct st_err e;
    struct st_note_key k;
    struct st_buf out = {0};
    if (st_note_key_parse(s, size, &k, &e) != 0)
        return;
    st_note_key_write(&k, &out);
    size_t id = strlen(k.name) + 1;
    if (out.len != size || memcmp(out.p, s, id) != 0 || strncasecmp(out.p + id, s + id, 8) != 0 ||
        memcmp(out.p + id + 8, s + id + 8, size - id - 8) != 0)
        abort();
    st_buf_free(&out);
}

static void read_path(const char *s, size_t size)
{
    struct st_err e;
    struct st_tile t;
    char path[ST_TILE_MAX_PATH];
    if (st_tile_parse(s, size, &t, &e) == 0 &&
        (strlen(st_tile_path(&t, path)) != size || memcmp(path, s, size) != 0 || t.width < 1 ||
         t.width > ST_TILE_WIDTH || t.level < ST_TILE_ENTRIES || t.level > ST_TILE_MAX_LEVEL))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_note(data, size);
    read_key((const char *)data, size);
    read_path((const char *)data, size);
    return 0;
}

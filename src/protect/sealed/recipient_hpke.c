#include "protect/sealed/recipient_hpke.h"
#include "crypto/digest.h"

#include <string.h>

#define LABEL "sotto sealed 1 hpke"
#define CONTENT_KEY 32
#define SEALED (CONTENT_KEY + ST_SEQUENCE_TAG)
#define KEY ST_HPKE_X25519_LEN

enum { AT_ID = sizeof LABEL - 1, AT_VERSION = AT_ID + 16, INFO_LEN = AT_VERSION + 8 };

static const struct st_hpke_suite suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_AES_256_GCM};

static void make_info(const uint8_t id[16], uint64_t version, uint8_t out[INFO_LEN])
{
    memcpy(out, LABEL, AT_ID);
    memcpy(out + AT_ID, id, 16);
    for (int i = 0; i < 8; i++)
        out[AT_VERSION + i] = (uint8_t)(version >> (8 * i));
}

/* A file of it, or the key itself. Hexadecimal digits in a file are refused: publishers' keys look like that. */
static int read_key(const char *arg, uint8_t key[KEY], struct st_err *e)
{
    if (!arg || !*arg)
        return st_fail(e, ST_USAGE, "want hpke:FILE, a public key (`sotto seal key --hpke` makes one), or 64 digits");
    if (strlen(arg) == 2 * KEY && strspn(arg, "0123456789abcdefABCDEF") == 2 * KEY)
        return st_unhex(arg, 2 * KEY, key, KEY, "key", e);
    return st_hpke_file_public(arg, key, e);
}

static int wrap(const struct st_wrap_to *to, json_t **out, struct st_err *e)
{
    uint8_t key[KEY], enc[KEY], info[INFO_LEN], sealed[SEALED];
    *out = NULL;
    if (read_key(to->arg, key, e))
        return e->code;
    make_info(to->id, to->version, info);
    if (st_hpke_seal_secret(suite, key, sizeof key, info, sizeof info, to->content_key, enc, sealed, e))
        return e->code;
    *out = json_pack("{s:o,s:o,s:o}", "key", st_json_bytes(key, sizeof key), "enc", st_json_bytes(enc, sizeof enc),
                     "sealed", st_json_bytes(sealed, sizeof sealed));
    return *out ? 0 : st_fail(e, ST_MEMORY, "out of memory");
}

static bool wanted(const struct st_unlock *u)
{
    return u->hpke_key || u->release;
}

int st_recipient_hpke_unwrap(const struct st_hpke_key *k, const uint8_t id[16], uint64_t version, const json_t *entry,
                             struct st_secret *out, struct st_err *e)
{
    static const char *const names[] = {"kind", "key", "enc", "sealed", NULL};
    uint8_t key[KEY], enc[KEY], info[INFO_LEN], sealed[SEALED];
    *out = (struct st_secret){0};
    if (st_json_only(entry, "entry", names, e) || st_json_base64_exact(entry, "entry", "key", key, sizeof key, e) ||
        st_json_base64_exact(entry, "entry", "enc", enc, sizeof enc, e) ||
        st_json_base64_exact(entry, "entry", "sealed", sealed, sizeof sealed, e))
        return e->code;
    if (memcmp(key, st_hpke_key_public(k), sizeof key) != 0)
        return st_fail(e, ST_VERIFY, "is for another key");
    make_info(id, version, info);
    int rc = st_hpke_open_secret(suite, k, enc, sizeof enc, info, sizeof info, sealed, sizeof sealed, out, e);
    return rc == ST_VERIFY ? st_fail(e, ST_VERIFY, "was changed, or is not of this container and version") : rc;
}

static int unwrap(const struct st_unlock *u, const uint8_t id[16], uint64_t version, const json_t *entry,
                  struct st_secret *out, struct st_err *e)
{
    struct st_hpke_key *k;
    *out = (struct st_secret){0};
    if (!u->hpke_key)
        return u->release(u->release_ctx, entry, out, e);
    if (st_hpke_file_private(u->hpke_key, &k, e))
        return e->code;
    int rc = st_recipient_hpke_unwrap(k, id, version, entry, out, e);
    st_hpke_key_free(k);
    return rc;
}

static void describe(const json_t *entry, struct st_buf *out)
{
    uint8_t key[KEY];
    char hex[2 * KEY + 1];
    struct st_err ignored;
    if (st_json_base64_exact(entry, "entry", "key", key, sizeof key, &ignored)) {
        st_buf_add_str(out, "damaged");
        return;
    }
    st_hex(key, sizeof key, hex);
    st_buf_addf(out, "X25519 %s", hex);
}

const struct st_recipient_kind st_recipient_hpke = {
    .name = "hpke",
    .help = "hpke:FILE, a public key (PEM, or the 64 digits of one), as of a release service that gives keys to "
            "attested enclaves",
    .opened_by = "--release URL or --hpke-key FILE",
    .wrap = wrap,
    .wanted = wanted,
    .unwrap = unwrap,
    .describe = describe,
};

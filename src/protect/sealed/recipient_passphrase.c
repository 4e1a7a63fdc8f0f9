/* The content key under a passphrase: AES-256-GCM, key = Argon2id(passphrase, salt). Fields: `passes`, `memory_kib`,
 * `lanes` (the cost of a guess), `salt` [16], `nonce` [12], `sealed` [48], the last three in base64. Associated data =
 * "sotto sealed 1 passphrase" | id[16] | version u64 | passes | memory_kib | lanes u32, little-endian.
 * For development: the passphrase is wherever the file is opened, and an older version of the model is not noticed. */
#include "base/hooks.h"
#include "crypto/aead.h"
#include "protect/sealed/recipient.h"

#include <string.h>

#define LABEL "sotto sealed 1 passphrase"
#define CONTENT_KEY 32
#define SEALED (CONTENT_KEY + ST_AEAD_TAG_LEN)

enum { AT_ID = sizeof LABEL - 1, AT_VERSION = AT_ID + 16, AT_COST = AT_VERSION + 8, AD_LEN = AT_COST + 12 };

static void put_le(uint8_t *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static void associated(const uint8_t *id, uint64_t version, const struct st_argon2 *cost, uint8_t ad[AD_LEN])
{
    memcpy(ad, LABEL, sizeof LABEL - 1);
    memcpy(ad + AT_ID, id, 16);
    put_le(ad + AT_VERSION, version, 8);
    put_le(ad + AT_COST, cost->passes, 4);
    put_le(ad + AT_COST + 4, cost->memory_kib, 4);
    put_le(ad + AT_COST + 8, cost->lanes, 4);
}

static int wrap(const struct st_wrap_to *to, json_t **out, struct st_err *e)
{
    const struct st_argon2 cost = to->cost ? *to->cost : ST_ARGON2_DEFAULT;
    uint8_t salt[ST_ARGON2_SALT], nonce[ST_AEAD_NONCE_LEN], ad[AD_LEN], sealed[SEALED];
    struct st_secret key = {0};
    *out = NULL;
    if (to->arg)
        return st_fail(e, ST_USAGE, "nothing follows `passphrase`; the passphrase comes by --passphrase-file");
    if (!to->passphrase)
        return st_fail(e, ST_USAGE, "no passphrase was given (--passphrase-file FILE)");
    int rc = st_passphrase_check(to->passphrase, e);
    if (!rc)
        rc = st_argon2_check(&cost, ST_USAGE, e);
    if (!rc)
        rc = st_random(salt, sizeof salt, e);
    if (!rc)
        rc = st_random(nonce, sizeof nonce, e);
    if (!rc)
        rc = st_passphrase_key(&cost, to->passphrase, salt, &key, e);
    if (rc)
        return rc;
    associated(to->id, to->version, &cost, ad);
    rc = st_aead_seal(key.p, nonce, ad, sizeof ad, to->content_key->p, CONTENT_KEY, sealed, e);
    st_secret_wipe(&key);
    if (rc)
        return rc;
    *out = json_pack("{s:I,s:I,s:I,s:o,s:o,s:o}", "passes", (json_int_t)cost.passes, "memory_kib",
                     (json_int_t)cost.memory_kib, "lanes", (json_int_t)cost.lanes, "salt",
                     st_json_bytes(salt, sizeof salt), "nonce", st_json_bytes(nonce, sizeof nonce), "sealed",
                     st_json_bytes(sealed, sizeof sealed));
    return *out ? 0 : st_fail(e, ST_MEMORY, "out of memory");
}

static bool wanted(const struct st_unlock *u)
{
    return u->passphrase != NULL;
}

static int read_cost(const json_t *entry, struct st_argon2 *out, struct st_err *e)
{
    const struct {
        const char *name;
        uint32_t *to;
    } fields[] = {{"passes", &out->passes}, {"memory_kib", &out->memory_kib}, {"lanes", &out->lanes}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        int64_t v = 0;
        if (st_json_need(entry, "entry", fields[i].name, e) ||
            st_json_int(entry, "entry", fields[i].name, 1, UINT32_MAX, &v, e))
            return e->code;
        *fields[i].to = (uint32_t)v;
    }
    return st_argon2_check(out, ST_INPUT, e);
}

static int unwrap(const struct st_unlock *u, const uint8_t id[16], uint64_t version, const json_t *entry,
                  struct st_secret *out, struct st_err *e)
{
    static const char *const names[] = {"kind", "passes", "memory_kib", "lanes", "salt", "nonce", "sealed", NULL};
    uint8_t salt[ST_ARGON2_SALT], nonce[ST_AEAD_NONCE_LEN], ad[AD_LEN], sealed[SEALED];
    struct st_argon2 cost = {0};
    struct st_secret key = {0};
    *out = (struct st_secret){0};
    int rc = st_json_only(entry, "entry", names, e);
    if (!rc)
        rc = read_cost(entry, &cost, e);
    if (!rc)
        rc = st_json_base64_exact(entry, "entry", "salt", salt, sizeof salt, e);
    if (!rc)
        rc = st_json_base64_exact(entry, "entry", "nonce", nonce, sizeof nonce, e);
    if (!rc)
        rc = st_json_base64_exact(entry, "entry", "sealed", sealed, sizeof sealed, e);
    if (!rc)
        rc = st_passphrase_check(u->passphrase, e);
    if (!rc)
        rc = st_passphrase_key(&cost, u->passphrase, salt, &key, e);
    if (rc)
        return rc;
    rc = st_secret_init(out, CONTENT_KEY, e);
    associated(id, version, &cost, ad);
    if (!rc && st_aead_open(key.p, nonce, ad, sizeof ad, sealed, sizeof sealed, out->p, e))
        rc = e->code == ST_VERIFY ? st_fail(e, ST_VERIFY, "wrong passphrase, or not of this container") : e->code;
    st_secret_wipe(&key);
    if (rc)
        st_secret_wipe(out);
    return rc;
}

static uint64_t work(const json_t *entry)
{
    struct st_argon2 cost = {0};
    struct st_err ignored;
    return read_cost(entry, &cost, &ignored) ? 0 : (uint64_t)cost.passes * cost.memory_kib;
}

static void describe(const json_t *entry, struct st_buf *out)
{
    struct st_argon2 cost = {0};
    struct st_err ignored;
    if (read_cost(entry, &cost, &ignored))
        st_buf_add_str(out, "damaged");
    else
        st_buf_addf(out, "Argon2id, %u passes, %u MiB, %u lanes", cost.passes, cost.memory_kib / 1024, cost.lanes);
}

const struct st_recipient_kind st_recipient_passphrase = {
    .name = "passphrase",
    .help = "passphrase, which --passphrase-file or --passphrase gives; for development",
    .opened_by = "--passphrase-file FILE",
    .wrap = wrap,
    .wanted = wanted,
    .unwrap = unwrap,
    .work = work,
    .describe = describe,
};

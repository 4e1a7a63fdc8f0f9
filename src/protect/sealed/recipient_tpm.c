/* The content key for the TPM of one device, made without it (attest/tpm_duplicate.h) from what `sotto seal device`
 * read there (protect/sealed/device.h). The TPM gives it out when its PCRs have the values named, and when its counter
 * has not passed this version: opening version V raises the counter, so that the TPM itself refuses older ones from
 * then on.
 *
 * Fields: `storage_key` (`ecc` or `rsa`), `parent` (SHA-256 of its TPMT_PUBLIC, hex), `bank` and `pcrs`, `counter`
 * ({`index`, `limit`}; may be absent: no rollback is noticed), `public`, `private`, `seed` (what TPM2_Import takes,
 * base64). What they say of PCRs and counter is for messages: the policy inside the object is what the TPM goes by, and
 * a session that was told otherwise does not meet it. The object holds content key[32] | SHA-256("sotto sealed 1 tpm" |
 * id | version u64 little-endian). */
#include "attest/tpm_duplicate.h"
#include "attest/tpm_link.h"
#include "base/file.h"
#include "base/hooks.h"
#include "crypto/digest.h"
#include "protect/sealed/device.h"
#include "protect/sealed/recipient.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LABEL "sotto sealed 1 tpm"
#define CONTENT_KEY 32
#define HELD (CONTENT_KEY + 32)
#define WHERE "recipient"

static void bind(const uint8_t id[16], uint64_t version, uint8_t out[32])
{
    uint8_t in[sizeof LABEL - 1 + 16 + 8], *p = in + sizeof in - 8;
    memcpy(in, LABEL, sizeof LABEL - 1);
    memcpy(in + sizeof LABEL - 1, id, 16);
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(version >> (8 * i));
    st_sha256(in, sizeof in, out);
}

/* ---- the publisher's half ---- */

/* The device's key against roots that the publisher names. */
static int check_certified(const char *path, const struct st_sealed_device *d, struct st_err *e)
{
    struct st_buf roots = {0};
    int rc = st_file_read(path, (size_t)1 << 20, &roots, e);
    if (!rc)
        rc = st_sealed_device_check(d, (struct st_span){(const uint8_t *)roots.p, roots.len}, st_unix_time(), e);
    st_buf_free(&roots);
    return rc;
}

/* How far the counter may have come for this version to open. */
static int limit_of(const struct st_sealed_device *d, uint64_t version, uint64_t *out, struct st_err *e)
{
    if (version < d->from_version || version - d->from_version > ST_TPM_COUNTER_STEPS)
        return st_fail(e, ST_USAGE,
                       "version %llu: a TPM counts one by one; this device's counter goes from version %llu to %llu "
                       "(\"version\" beside its value says where it starts)",
                       (unsigned long long)version, (unsigned long long)d->from_version,
                       (unsigned long long)d->from_version + ST_TPM_COUNTER_STEPS);
    *out = d->value + (version - d->from_version);
    return 0;
}

static int read_device(const struct st_wrap_to *to, struct st_sealed_device *out, struct st_err *e)
{
    struct st_sealed_device_opts here = {.tcti = to->tcti};
    struct st_buf text = {0};
    int rc = to->arg ? st_file_read(to->arg, ST_SEALED_DEVICE_MAX, &text, e)
                     : st_tpm_pcrs_parse(ST_SEALED_PCRS, "PCRs", &here.pcrs, e);
    if (!rc && !to->arg)
        rc = st_sealed_device_read(&here, &text, e);
    if (!rc)
        rc = st_sealed_device_parse((struct st_span){(const uint8_t *)text.p, text.len}, to->arg ? to->arg : "TPM", out,
                                    e);
    st_buf_free(&text);
    return rc;
}

static int make_object(const struct st_sealed_device *d, const struct st_wrap_to *to, uint64_t limit,
                       struct st_tpm_duplicate *out, struct st_err *e)
{
    uint8_t policy[32] = {0};
    struct st_secret held = {0};
    int rc = st_tpm_policy_pcrs(policy, &d->values, e);
    if (!rc && d->counter)
        rc = st_tpm_policy_counter(policy, d->counter, limit, e);
    if (!rc)
        rc = st_secret_init(&held, HELD, e);
    if (rc)
        return rc;
    memcpy(held.p, to->content_key->p, CONTENT_KEY);
    bind(to->id, to->version, held.p + CONTENT_KEY);
    rc = st_tpm_duplicate_make(&d->storage, policy, &held, out, e);
    st_secret_wipe(&held);
    return rc;
}

static int write_entry(const struct st_sealed_device *d, uint64_t limit, const struct st_tpm_duplicate *made,
                       json_t **out, struct st_err *e)
{
    char parent[65], index[11];
    st_hex(d->storage.name + 2, 32, parent);
    snprintf(index, sizeof index, "0x%08x", d->counter);
    json_t *o = json_pack("{s:s,s:s,s:o,s:o,s:o}", "storage_key", d->kind == ST_TPM_STORAGE_RSA ? "rsa" : "ecc",
                          "parent", parent, "public", st_json_bytes(made->public_area, made->public_len), "private",
                          st_json_bytes(made->private_area, made->private_len), "seed",
                          st_json_bytes(made->seed, made->seed_len));
    int rc = o ? st_sealed_values_add(&d->values, o, e) : st_fail(e, ST_MEMORY, "out of memory");
    if (!rc && d->counter &&
        json_object_set_new(o, "counter", json_pack("{s:s,s:I}", "index", index, "limit", (json_int_t)limit)) != 0)
        rc = st_fail(e, ST_MEMORY, "out of memory");
    if (rc)
        json_decref(o);
    else
        *out = o;
    return rc;
}

static int wrap(const struct st_wrap_to *to, json_t **out, struct st_err *e)
{
    struct st_sealed_device d;
    struct st_tpm_duplicate made;
    uint64_t limit = 0;
    *out = NULL;
    if (read_device(to, &d, e))
        return e->code;
    int rc = to->tpm_roots && to->arg ? check_certified(to->tpm_roots, &d, e) : 0;
    if (!rc && d.counter)
        rc = limit_of(&d, to->version, &limit, e);
    if (!rc)
        rc = make_object(&d, to, limit, &made, e);
    if (!rc)
        rc = write_entry(&d, limit, &made, out, e);
    st_sealed_device_free(&d);
    return rc;
}

/* ---- the device's half ---- */

struct entry {
    enum st_tpm_storage_key kind;
    uint8_t parent[32];
    struct st_tpm_values values;
    uint32_t counter;
    uint64_t limit;
    struct st_buf public_area, private_area, seed;
};

static void entry_free(struct entry *n)
{
    st_buf_free(&n->public_area);
    st_buf_free(&n->private_area);
    st_buf_free(&n->seed);
}

static int parse_counter(const json_t *o, struct entry *out, struct st_err *e)
{
    static const char *const names[] = {"index", "limit", NULL};
    int64_t limit = 0;
    if (!o)
        return 0;
    if (st_json_only(o, WHERE, names, e) || st_sealed_index_parse(o, WHERE, &out->counter, e) ||
        st_json_need(o, WHERE, "limit", e) || st_json_int(o, WHERE, "limit", 1, INT64_MAX, &limit, e))
        return e->code;
    out->limit = (uint64_t)limit;
    return 0;
}

static int entry_parse(const json_t *o, struct entry *out, struct st_err *e)
{
    static const char *const names[] = {"kind",    "storage_key", "parent",  "bank", "pcrs",
                                        "counter", "public",      "private", "seed", NULL};
    const char *key = NULL, *parent = NULL;
    *out = (struct entry){0};
    int rc = st_json_only(o, WHERE, names, e);
    if (!rc)
        rc = st_json_need(o, WHERE, "storage_key", e);
    if (!rc)
        rc = st_json_str(o, WHERE, "storage_key", &key, e);
    if (!rc && strcmp(key, "ecc") != 0 && strcmp(key, "rsa") != 0)
        rc = st_fail(e, ST_INPUT, "%s: storage_key: want ecc or rsa", WHERE);
    if (!rc)
        rc = st_json_need(o, WHERE, "parent", e);
    if (!rc)
        rc = st_json_str(o, WHERE, "parent", &parent, e);
    if (!rc)
        rc = st_unhex(parent, strlen(parent), out->parent, sizeof out->parent, "parent", e);
    if (!rc)
        rc = st_sealed_values_parse(o, WHERE, &out->values, e);
    if (!rc)
        rc = parse_counter(json_object_get(o, "counter"), out, e);
    if (!rc)
        rc = st_json_base64(o, WHERE, "public", &out->public_area, e);
    if (!rc)
        rc = st_json_base64(o, WHERE, "private", &out->private_area, e);
    if (!rc)
        rc = st_json_base64(o, WHERE, "seed", &out->seed, e);
    if (rc)
        entry_free(out);
    else
        out->kind = key[0] == 'r' ? ST_TPM_STORAGE_RSA : ST_TPM_STORAGE_ECC;
    return rc;
}

static int check_parent(struct st_tpm_storage *s, const struct entry *n, struct st_err *e)
{
    uint8_t name[32];
    const struct st_span area = st_tpm_storage_area(s);
    st_sha256(area.p, area.len, name);
    return memcmp(name, n->parent, sizeof name) == 0
               ? 0
               : st_fail(e, ST_VERIFY,
                         "TPM: it was sealed for another TPM, or this one's owner hierarchy was cleared since");
}

static int check_pcrs(struct st_tpm_storage *s, const struct entry *n, struct st_err *e)
{
    struct st_tpm_values now;
    struct st_tpm_pcrs differ = {n->values.pcrs.bank, 0};
    struct st_buf which = {0};
    if (st_tpm_storage_pcrs(s, &n->values.pcrs, &now, e))
        return e->code;
    for (unsigned i = 0; i < ST_TPM_N_PCR; i++)
        if (n->values.pcrs.mask >> i & 1 && memcmp(now.of[i], n->values.of[i], st_tpm_hash_len(differ.bank)) != 0)
            differ.mask |= 1u << i;
    if (!differ.mask)
        return 0;
    st_tpm_pcrs_text(&differ, &which);
    int rc =
        st_fail(e, ST_VERIFY,
                "TPM: policy: PCRs %s do not have the values it was sealed for: this machine has started something "
                "else",
                which.p);
    st_buf_free(&which);
    return rc;
}

static int check_counter(struct st_tpm_storage *s, const struct entry *n, uint64_t version, struct st_err *e)
{
    uint64_t at = 0;
    if (!n->counter)
        return 0;
    if (st_tpm_counter_read(s, n->counter, &at, e))
        return e->code;
    return at <= n->limit
               ? 0
               : st_fail(e, ST_VERIFY,
                         "TPM: policy: version %llu is older than what this TPM has opened: its counter "
                         "0x%08x stands at %llu, this version goes up to %llu",
                         (unsigned long long)version, n->counter, (unsigned long long)at, (unsigned long long)n->limit);
}

static bool wanted(const struct st_unlock *u)
{
    return u->tcti || access(strchr(ST_TPM_TCTI_DEFAULT, ':') + 1, F_OK) == 0;
}

static struct st_span span(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p, b->len};
}

static int unseal(const char *tcti, const struct entry *n, uint64_t version, struct st_secret *out, struct st_err *e)
{
    const struct st_tpm_object object = {
        .public_area = span(&n->public_area), .private_area = span(&n->private_area), .seed = span(&n->seed)};
    const struct st_tpm_terms terms = {.pcrs = n->values.pcrs, .counter = n->counter, .limit = n->limit};
    struct st_tpm_storage *s;
    int rc = st_tpm_storage_open(tcti, n->kind, &s, e);
    if (!rc)
        rc = check_parent(s, n, e);
    if (!rc)
        rc = check_pcrs(s, n, e);
    if (!rc)
        rc = check_counter(s, n, version, e);
    if (!rc)
        rc = st_tpm_storage_unseal(s, &object, &terms, out, e);
    st_tpm_storage_close(s);
    return rc;
}

static int unwrap(const struct st_unlock *u, const uint8_t id[16], uint64_t version, const json_t *entry,
                  struct st_secret *out, struct st_err *e)
{
    struct entry n;
    struct st_secret held = {0};
    uint8_t want[32];
    *out = (struct st_secret){0};
    int rc = entry_parse(entry, &n, e);
    if (rc)
        return rc;
    bind(id, version, want);
    rc = unseal(u->tcti, &n, version, &held, e);
    if (!rc && (held.len != HELD || CRYPTO_memcmp(held.p + CONTENT_KEY, want, sizeof want) != 0))
        rc = st_fail(e, ST_VERIFY, "TPM: what it holds is the key of another container or version");
    if (!rc)
        rc = st_secret_init(out, CONTENT_KEY, e);
    if (!rc)
        memcpy(out->p, held.p, CONTENT_KEY);
    st_secret_wipe(&held);
    entry_free(&n);
    return rc;
}

static int opened(const struct st_unlock *u, const uint8_t id[16], uint64_t version, const json_t *entry,
                  struct st_err *e)
{
    struct entry n;
    struct st_tpm_storage *s = NULL;
    (void)id, (void)version;
    int rc = entry_parse(entry, &n, e);
    if (rc)
        return rc;
    if (n.counter) {
        rc = st_tpm_storage_open(u->tcti, n.kind, &s, e);
        if (!rc)
            rc = check_parent(s, &n, e);
        if (!rc)
            rc = st_tpm_counter_raise(s, n.counter, n.limit, e);
        st_tpm_storage_close(s);
    }
    entry_free(&n);
    return rc;
}

static void describe(const json_t *entry, struct st_buf *out)
{
    struct entry n;
    struct st_err ignored;
    char parent[65];
    if (entry_parse(entry, &n, &ignored)) {
        st_buf_add_str(out, "damaged");
        return;
    }
    st_hex(n.parent, sizeof n.parent, parent);
    st_buf_addf(out, "storage key %.16s, PCRs ", parent);
    st_tpm_pcrs_text(&n.values.pcrs, out);
    if (n.counter)
        st_buf_addf(out, ", counter 0x%08x up to %llu", n.counter, (unsigned long long)n.limit);
    else
        st_buf_add_str(out, ", no counter");
    entry_free(&n);
}

const struct st_recipient_kind st_recipient_tpm = {
    .name = "tpm",
    .help = "tpm, the TPM of this machine; tpm:FILE, that of the machine on which `sotto seal device` wrote FILE",
    .of_machine = true,
    .opened_by = "its TPM, and none is at " ST_TPM_TCTI_DEFAULT " (--tcti CONF)",
    .wrap = wrap,
    .wanted = wanted,
    .unwrap = unwrap,
    .opened = opened,
    .describe = describe,
};

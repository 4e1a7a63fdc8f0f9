/* Content keys for the TPM of one device (swtpm): which TPM gives them out, in which state, for which version; and what
 * becomes of wraps that were moved, changed or made up. Without swtpm or tpm2-tss what needs them says so and passes.
 */
#include "attest/enroll.h"
#include "base/file.h"
#include "crypto/digest.h"
#include "expect.h"
#include "protect/sealed/device.h"
#include "protect/sealed/recipient.h"
#include "swtpm.h"
#include "text/base64.h"

#include <time.h>

extern const struct st_recipient_kind st_recipient_tpm;

static const uint8_t id[16] = "container number", other_id[16] = "container two..";

/* A TPM, what was read of it, and a content key. */
struct device {
    struct swtpm tpm;
    struct st_buf json;
    char file[96];
    struct st_secret key;
};

static bool reads(struct device *d, const struct st_sealed_device_opts *o)
{
    struct st_err e;
    st_buf_clear(&d->json);
    int rc = st_sealed_device_read(o, &d->json, &e);
    if (rc == ST_UNSUPPORTED && strstr(e.msg, "this build")) {
        print_message("skips: %s\n", e.msg);
        return false;
    }
    assert_ok(rc, &e);
    unlink(d->file);
    assert_ok(st_file_write(d->file, d->json.p, d->json.len, 0600, true, &e), &e);
    return true;
}

static void device_close(struct device *d)
{
    unlink(d->file);
    st_buf_free(&d->json);
    st_secret_wipe(&d->key);
    swtpm_close(&d->tpm);
}

static struct st_sealed_device_opts asks(const struct device *d)
{
    return (struct st_sealed_device_opts){.tcti = d->tpm.tcti, .pcrs = {ST_TPM_SHA256, 1 << 0 | 1 << 7 | 1 << 11}};
}

/* False, with a line that says so, when there is no TPM. */
static bool device_open(struct device *d)
{
    struct st_err e;
    *d = (struct device){0};
    if (!swtpm_open(&d->tpm))
        return false;
    snprintf(d->file, sizeof d->file, "%s.json", d->tpm.dir);
    assert_ok(st_secret_init(&d->key, 32, &e), &e);
    memset(d->key.p, 0x5e, 32);
    const struct st_sealed_device_opts o = asks(d);
    if (reads(d, &o))
        return true;
    device_close(d);
    return false;
}

static json_t *wrapped(const struct device *d, const uint8_t *for_id, uint64_t version)
{
    struct st_err e;
    json_t *entry = NULL;
    const struct st_wrap_to to = {.id = for_id, .version = version, .content_key = &d->key, .arg = d->file};
    assert_ok(st_recipient_tpm.wrap(&to, &entry, &e), &e);
    assert_int_equal(json_object_set_new(entry, "kind", json_string("tpm")), 0);
    return entry;
}

static int opens_as(const struct swtpm *t, const uint8_t *as_id, uint64_t version, const json_t *entry,
                    const struct device *d, struct st_err *e)
{
    const struct st_unlock u = {.tcti = t->tcti};
    struct st_secret got;
    int rc = st_recipient_tpm.unwrap(&u, as_id, version, entry, &got, e);
    if (rc) {
        assert_null(got.p);
        return rc;
    }
    assert_int_equal(got.len, 32);
    assert_memory_equal(got.p, d->key.p, 32);
    st_secret_wipe(&got);
    return 0;
}

static int opens(const struct device *d, uint64_t version, const json_t *entry, struct st_err *e)
{
    return opens_as(&d->tpm, id, version, entry, d, e);
}

/* Opens, and says so: what st_recipient_open() does once the header's mac is right. */
static void uses(const struct device *d, uint64_t version, const json_t *entry)
{
    struct st_err e;
    const struct st_unlock u = {.tcti = d->tpm.tcti};
    assert_ok(opens(d, version, entry, &e), &e);
    assert_ok(st_recipient_tpm.opened(&u, id, version, entry, &e), &e);
}

/* ---- which TPM, in which state ---- */

static void a_key_opens_on_the_tpm_that_it_was_made_for_only(void **state)
{
    (void)state;
    struct device d;
    struct swtpm other;
    struct st_err e;
    struct st_buf said = {0};
    if (!device_open(&d))
        return;
    assert_true(swtpm_open(&other));
    for (int rsa = 0; rsa < 2; rsa++) {
        struct st_sealed_device_opts o = asks(&d);
        o.kind = rsa ? ST_TPM_STORAGE_RSA : ST_TPM_STORAGE_ECC;
        assert_true(reads(&d, &o));
        json_t *entry = wrapped(&d, id, 3);
        uses(&d, 3, entry);
        uses(&d, 3, entry);
        expect_refusal(opens_as(&other, id, 3, entry, &d, &e), &e, ST_VERIFY, "another TPM");
        /* Told that it is the other's, the other finds out by itself. */
        struct st_sealed_device_opts there = {.tcti = other.tcti, .kind = o.kind, .pcrs = o.pcrs};
        struct st_sealed_device its;
        struct st_buf text = {0};
        char parent[65];
        assert_ok(st_sealed_device_read(&there, &text, &e), &e);
        assert_ok(st_sealed_device_parse((struct st_span){(uint8_t *)text.p, text.len}, "text", &its, &e), &e);
        st_hex(its.storage.name + 2, 32, parent);
        json_object_set_new(entry, "parent", json_string(parent));
        expect_refusal(opens_as(&other, id, 3, entry, &d, &e), &e, ST_VERIFY, "another TPM, or changed");
        st_sealed_device_free(&its);
        st_buf_free(&text);
        st_buf_clear(&said);
        st_recipient_tpm.describe(entry, &said);
        assert_non_null(strstr(said.p, "PCRs sha256:0,7,11, no counter"));
        json_decref(entry);
    }
    st_buf_free(&said);
    swtpm_close(&other);
    device_close(&d);
}

static void a_changed_pcr_is_refused_by_name_until_the_machine_starts_as_before(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    if (!device_open(&d))
        return;
    json_t *entry = wrapped(&d, id, 1);
    swtpm_extend(&d.tpm, 4); /* not one of them */
    assert_ok(opens(&d, 1, entry, &e), &e);
    swtpm_extend(&d.tpm, 7);
    swtpm_extend(&d.tpm, 11);
    expect_refusal(opens(&d, 1, entry, &e), &e, ST_VERIFY, "TPM: policy: PCRs sha256:7,11");
    /* What the entry says of PCRs is not what the TPM goes by. */
    struct st_sealed_device now;
    struct st_sealed_device_opts o = asks(&d);
    assert_true(reads(&d, &o));
    assert_ok(st_sealed_device_parse((struct st_span){(uint8_t *)d.json.p, d.json.len}, "json", &now, &e), &e);
    json_t *edited = json_deep_copy(entry);
    assert_ok(st_sealed_values_add(&now.values, edited, &e), &e);
    expect_refusal(opens(&d, 1, edited, &e), &e, ST_VERIFY, "unsealing: refused: the PCRs");
    json_decref(edited);
    st_sealed_device_free(&now);
    swtpm_restart(&d.tpm);
    assert_ok(opens(&d, 1, entry, &e), &e);
    json_decref(entry);
    device_close(&d);
}

static void values_that_the_publisher_expects_need_not_be_those_of_the_day(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    if (!device_open(&d))
        return;
    swtpm_extend(&d.tpm, 11);
    struct st_sealed_device_opts o = asks(&d);
    assert_true(reads(&d, &o)); /* what a later image will have measured */
    swtpm_restart(&d.tpm);
    json_t *entry = wrapped(&d, id, 1);
    expect_refusal(opens(&d, 1, entry, &e), &e, ST_VERIFY, "PCRs sha256:11 ");
    swtpm_extend(&d.tpm, 11);
    assert_ok(opens(&d, 1, entry, &e), &e);
    json_decref(entry);
    device_close(&d);
}

static void a_tpm_that_was_cleared_no_longer_opens(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    if (!device_open(&d))
        return;
    json_t *entry = wrapped(&d, id, 1);
    assert_ok(opens(&d, 1, entry, &e), &e);
    swtpm_clear(&d.tpm);
    expect_refusal(opens(&d, 1, entry, &e), &e, ST_VERIFY, "owner hierarchy was cleared");
    json_decref(entry);
    device_close(&d);
}

static void without_a_tpm_it_says_so(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    const struct st_unlock none = {0}, named = {.tcti = "swtpm:host=127.0.0.1,port=1"};
    assert_true(st_recipient_tpm.wanted(&named));
    assert_int_equal(st_recipient_tpm.wanted(&none), access("/dev/tpmrm0", F_OK) == 0);
    if (!device_open(&d))
        return;
    json_t *entry = wrapped(&d, id, 1);
    swtpm_stop(&d.tpm);
    expect_refusal(opens(&d, 1, entry, &e), &e, ST_UNSUPPORTED, "none is reached through");
    assert_true(swtpm_spawn(&d.tpm));
    json_decref(entry);
    device_close(&d);
}

/* ---- versions ---- */

static void with_counter(struct device *d, uint32_t index)
{
    struct st_sealed_device_opts o = asks(d);
    o.counter = true;
    o.index = index;
    assert_true(reads(d, &o));
}

static uint32_t counter_of(const json_t *entry)
{
    return (uint32_t)strtoul(json_string_value(json_object_get(json_object_get(entry, "counter"), "index")), NULL, 16);
}

static void a_version_that_was_opened_shuts_out_older_ones(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    if (!device_open(&d))
        return;
    with_counter(&d, 0);
    json_t *one = wrapped(&d, id, 1), *two = wrapped(&d, id, 2), *nine = wrapped(&d, id, 9);
    uses(&d, 1, one);
    uses(&d, 1, one);
    assert_ok(opens(&d, 2, two, &e), &e); /* decrypted, and then found to be no container: nothing is raised */
    uses(&d, 1, one);
    uses(&d, 2, two);
    expect_refusal(opens(&d, 1, one, &e), &e, ST_VERIFY,
                   "version 1 is older than what this TPM has opened: its counter");
    uses(&d, 2, two);
    uses(&d, 9, nine);
    swtpm_restart(&d.tpm);
    expect_refusal(opens(&d, 2, two, &e), &e, ST_VERIFY, "version 2 is older");
    uses(&d, 9, nine);
    /* Told another limit, the policy is another one. */
    json_object_set_new(json_object_get(two, "counter"), "limit", json_integer(1000));
    expect_refusal(opens(&d, 2, two, &e), &e, ST_VERIFY, "unsealing: refused");
    json_object_del(two, "counter");
    expect_refusal(opens(&d, 2, two, &e), &e, ST_VERIFY, "unsealing: refused");
    json_decref(one);
    json_decref(two);
    json_decref(nine);
    device_close(&d);
}

static void a_counter_that_was_deleted_starts_above_what_it_was(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    if (!device_open(&d))
        return;
    with_counter(&d, 0x01800123);
    json_t *one = wrapped(&d, id, 1), *five = wrapped(&d, id, 5);
    assert_int_equal(counter_of(one), 0x01800123);
    uses(&d, 5, five);
    swtpm_undefine(&d.tpm, 0x01800123);
    expect_refusal(opens(&d, 1, one, &e), &e, ST_VERIFY, "counter 0x01800123: it is not there");
    expect_refusal(opens(&d, 5, five, &e), &e, ST_VERIFY, "it is not there");
    with_counter(&d, 0x01800123); /* made again: neither opens, what is sealed for it now does */
    expect_refusal(opens(&d, 1, one, &e), &e, ST_VERIFY, "version 1 is older");
    expect_refusal(opens(&d, 5, five, &e), &e, ST_VERIFY, "version 5 is older");
    json_t *six = wrapped(&d, id, 6);
    uses(&d, 6, six);
    with_counter(&d, 0x01800123); /* it is there: not made anew */
    uses(&d, 6, six);
    with_counter(&d, 0); /* one for another model */
    json_t *other = wrapped(&d, id, 1);
    assert_int_equal(counter_of(other), ST_TPM_COUNTER_FIRST);
    uses(&d, 1, other);
    uses(&d, 6, six);
    json_decref(one);
    json_decref(five);
    json_decref(six);
    json_decref(other);
    device_close(&d);
}

static int wraps(const struct device *d, uint64_t version, struct st_err *e)
{
    json_t *entry = NULL;
    const struct st_wrap_to to = {.id = id, .version = version, .content_key = &d->key, .arg = d->file};
    int rc = st_recipient_tpm.wrap(&to, &entry, e);
    json_decref(entry);
    return rc;
}

static void versions_are_counted_from_where_the_device_says(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    if (!device_open(&d))
        return;
    with_counter(&d, 0);
    assert_ok(wraps(&d, 4096, &e), &e);
    expect_refusal(wraps(&d, 4097, &e), &e, ST_USAGE, "version 4097: a TPM counts one by one");
    json_t *o = json_loadb(d.json.p, d.json.len, 0, NULL);
    json_object_set_new(json_object_get(o, "counter"), "version", json_integer(20261100));
    assert_int_equal(json_dump_file(o, d.file, 0), 0);
    json_decref(o);
    expect_refusal(wraps(&d, 20261099, &e), &e, ST_USAGE, "from version 20261100 to 20265196");
    json_t *first = wrapped(&d, id, 20261101), *second = wrapped(&d, id, 20261130);
    uses(&d, 20261101, first);
    uses(&d, 20261130, second);
    expect_refusal(opens(&d, 20261101, first, &e), &e, ST_VERIFY, "version 20261101 is older");
    json_decref(first);
    json_decref(second);
    device_close(&d);
}

/* ---- wraps that were moved, changed, made up ---- */

static void a_wrap_moved_to_another_container_or_version_is_refused(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    if (!device_open(&d))
        return;
    json_t *entry = wrapped(&d, id, 7);
    expect_refusal(opens_as(&d.tpm, other_id, 7, entry, &d, &e), &e, ST_VERIFY, "another container or version");
    expect_refusal(opens(&d, 8, entry, &e), &e, ST_VERIFY, "another container or version");
    expect_refusal(opens(&d, 6, entry, &e), &e, ST_VERIFY, "another container or version");
    assert_ok(opens(&d, 7, entry, &e), &e);
    json_decref(entry);
    device_close(&d);
}

static void set_bytes(json_t *o, const char *name, const uint8_t *p, size_t len)
{
    struct st_buf text = {0};
    st_base64_encode(p, len, &text);
    assert_int_equal(json_object_set_new(o, name, json_stringn(text.p, text.len)), 0);
    st_buf_free(&text);
}

static void flipped_and_cut_bytes_of_a_wrap_are_refused(void **state)
{
    (void)state;
    static const char *const fields[] = {"public", "private", "seed"};
    struct device d;
    struct st_err e;
    if (!device_open(&d))
        return;
    json_t *entry = wrapped(&d, id, 1);
    for (size_t f = 0; f < 3; f++) {
        struct st_buf b = {0};
        assert_ok(st_json_base64(entry, "entry", fields[f], &b, &e), &e);
        for (size_t i = 0; i < b.len; i += i < 4 ? 1 : 9) {
            json_t *bad = json_deep_copy(entry);
            b.p[i] ^= 0x10;
            set_bytes(bad, fields[f], (uint8_t *)b.p, b.len);
            b.p[i] ^= 0x10;
            int rc = opens(&d, 1, bad, &e);
            if (rc != ST_VERIFY && rc != ST_INPUT)
                fail_msg("%s, byte %zu: %d: %s", fields[f], i, rc, e.msg);
            json_decref(bad);
        }
        for (size_t n = 0; n < b.len; n += 13) {
            json_t *bad = json_deep_copy(entry);
            set_bytes(bad, fields[f], (uint8_t *)b.p, n);
            int rc = opens(&d, 1, bad, &e);
            assert_true(rc == ST_VERIFY || rc == ST_INPUT);
            json_decref(bad);
        }
        st_buf_free(&b);
    }
    assert_ok(opens(&d, 1, entry, &e), &e);
    json_decref(entry);
    device_close(&d);
}

#define Z64 "0000000000000000000000000000000000000000000000000000000000000000"

static void hostile_entries_are_refused_before_a_tpm_is_asked(void **state)
{
    (void)state;
    static const struct {
        const char *entry, *says;
    } cases[] = {
        {"[]", "want an object"},
        {"{}", "storage_key"},
        {"{\"kind\": \"tpm\", \"extra\": 1}", "unknown field 'extra'"},
        {"{\"storage_key\": \"dsa\"}", "want ecc or rsa"},
        {"{\"storage_key\": 7}", "storage_key"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"00\"}", "parent"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\"}", "bank"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"md5\", \"pcrs\": {}}", "bank: want sha1"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"sha256\", \"pcrs\": {}}", "at least one PCR"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"sha256\", \"pcrs\": {\"24\": \"" Z64 "\"}}",
         "\"0\"..\"23\""},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"sha256\", \"pcrs\": {\"07\": \"" Z64 "\"}}",
         "got '07'"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"sha256\", \"pcrs\": {\"\": \"" Z64 "\"}}",
         "got ''"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"sha384\", \"pcrs\": {\"7\": \"" Z64 "\"}}",
         "want 96 hexadecimal"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"sha256\", \"pcrs\": {\"7\": \"" Z64
         "\"}, \"counter\": {\"index\": \"0x01c00002\", \"limit\": 1}}",
         "counter: index"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"sha256\", \"pcrs\": {\"7\": \"" Z64
         "\"}, \"counter\": {\"index\": \"0x01800000\", \"limit\": -1}}",
         "limit"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"sha256\", \"pcrs\": {\"7\": \"" Z64
         "\"}, \"public\": \"!\"}",
         "public: want base64"},
        {"{\"storage_key\": \"ecc\", \"parent\": \"" Z64 "\", \"bank\": \"sha256\", \"pcrs\": {\"7\": \"" Z64
         "\"}, \"public\": \"AAAA\", \"private\": \"AAAA\", \"seed\": \"\"}",
         "seed: want base64"},
    };
    const struct st_unlock u = {.tcti = "swtpm:host=127.0.0.1,port=1"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct st_err e;
        struct st_secret out;
        struct st_buf said = {0};
        json_t *entry = json_loads(cases[i].entry, 0, NULL);
        assert_non_null(entry);
        expect_refusal(st_recipient_tpm.unwrap(&u, id, 1, entry, &out, &e), &e, ST_INPUT, cases[i].says);
        st_recipient_tpm.describe(entry, &said);
        assert_string_equal(said.p, "damaged");
        st_buf_free(&said);
        json_decref(entry);
    }
}

static int parses(const char *text, struct st_err *e)
{
    struct st_sealed_device d;
    int rc = st_sealed_device_parse((struct st_span){(const uint8_t *)text, strlen(text)}, "device.json", &d, e);
    if (!rc)
        st_sealed_device_free(&d);
    return rc;
}

static void hostile_devices_are_refused_naming_the_field(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    expect_refusal(parses("", &e), &e, ST_INPUT, "device.json");
    expect_refusal(parses("{}", &e), &e, ST_INPUT, "version");
    expect_refusal(parses("{\"version\": 2}", &e), &e, ST_INPUT, "version");
    expect_refusal(parses("{\"version\": 1, \"trust\": \"me\"}", &e), &e, ST_INPUT, "unknown field 'trust'");
    expect_refusal(parses("{\"version\": 1, \"storage_key\": \"AAAA\"}", &e), &e, ST_INPUT, "storage_key");
    if (!device_open(&d))
        return;
    with_counter(&d, 0);
    static const struct {
        const char *field, *value, *says;
    } cases[] = {
        {"index", "\"0x81000001\"", "counter: index"}, {"index", "25165824", "index"}, {"value", "0", "value"},
        {"value", "9223372036854775807", "value"},     {"version", "-1", "version"},   {"limit", "5", "unknown field"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *o = json_loadb(d.json.p, d.json.len, 0, NULL);
        json_object_set_new(json_object_get(o, "counter"), cases[i].field,
                            json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        char *text = json_dumps(o, 0);
        expect_refusal(parses(text, &e), &e, ST_INPUT, cases[i].says);
        free(text);
        json_decref(o);
    }
    /* A key that says of itself that it may leave its TPM, or signs, is none to seal for. */
    json_t *o = json_loadb(d.json.p, d.json.len, 0, NULL);
    struct st_buf area = {0};
    assert_ok(st_json_base64(o, "o", "storage_key", &area, &e), &e);
    static const size_t bits[][2] = {{7, 0x02}, {7, 0x10}, {7, 0x20}, {5, 0x01}, {5, 0x02}, {5, 0x04}};
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        area.p[bits[i][0]] = (char)(area.p[bits[i][0]] ^ (char)bits[i][1]);
        set_bytes(o, "storage_key", (uint8_t *)area.p, area.len);
        area.p[bits[i][0]] = (char)(area.p[bits[i][0]] ^ (char)bits[i][1]);
        char *text = json_dumps(o, 0);
        expect_refusal(parses(text, &e), &e, ST_VERIFY, "storage_key: not a storage key of a TPM");
        free(text);
    }
    st_buf_free(&area);
    json_decref(o);
    expect_refusal(wraps(&(struct device){.key = d.key, .file = "/nowhere/device.json"}, 1, &e), &e, ST_IO,
                   "device.json");
    device_close(&d);
}

/* ---- certified devices ---- */

/* What `sotto enroll here` does. */
static void certify_ak(const struct device *d, const struct st_enroll_ca *ca, struct st_buf *pem)
{
    struct st_tpm_device *t;
    struct st_buf asked = {0}, granted = {0};
    struct st_err e;
    uint8_t ek[32];
    const struct st_enroll_trust trust = {.digest = ek};
    assert_ok(st_tpm_device_open(d->tpm.tcti, NULL, &t, &e), &e);
    assert_ok(st_enroll_request(t, &asked, &e), &e);
    assert_ok(st_enroll_ek_digest(asked.p, asked.len, ek, &e), &e);
    assert_ok(st_enroll_grant(ca, asked.p, asked.len, &trust, time(NULL), 30, &granted, &e), &e);
    assert_ok(st_enroll_accept(t, granted.p, granted.len, pem, &e), &e);
    st_tpm_device_close(t);
    st_buf_free(&asked);
    st_buf_free(&granted);
}

static int wraps_below(const struct device *d, const char *roots, struct st_err *e)
{
    json_t *entry = NULL;
    const struct st_wrap_to to = {.id = id, .version = 1, .content_key = &d->key, .arg = d->file, .tpm_roots = roots};
    int rc = st_recipient_tpm.wrap(&to, &entry, e);
    json_decref(entry);
    return rc;
}

/* The device's file with one field of another text. */
static void put_edited(const struct device *d, const char *object, const char *field, json_t *value)
{
    json_t *o = json_loadb(d->json.p, d->json.len, 0, NULL);
    assert_non_null(value);
    assert_int_equal(json_object_set_new(object ? json_object_get(o, object) : o, field, value), 0);
    assert_int_equal(json_dump_file(o, d->file, 0), 0);
    json_decref(o);
}

static void flip_edited(const struct device *d, const char *field, size_t at)
{
    struct st_buf b = {0}, text = {0};
    struct st_err e;
    json_t *o = json_loadb(d->json.p, d->json.len, 0, NULL);
    assert_ok(st_json_base64(json_object_get(o, "certified"), "certified", field, &b, &e), &e);
    b.p[at < b.len ? at : b.len - 1] ^= 1;
    st_base64_encode(b.p, b.len, &text);
    put_edited(d, "certified", field, json_stringn(text.p, text.len));
    json_decref(o);
    st_buf_free(&b);
    st_buf_free(&text);
}

static void a_storage_key_is_believed_below_the_publishers_roots_only(void **state)
{
    (void)state;
    struct device d, other;
    struct st_enroll_ca ca, stranger;
    struct st_err e;
    struct st_buf pem = {0};
    char dir[96], strange[96], root[128], strange_root[128], cmd[256];
    if (!device_open(&d))
        return;
    assert_true(device_open(&other));
    snprintf(dir, sizeof dir, "%s.ca", d.tpm.dir);
    snprintf(strange, sizeof strange, "%s.ca", other.tpm.dir);
    snprintf(root, sizeof root, "%s/ca.pem", dir);
    snprintf(strange_root, sizeof strange_root, "%s/ca.pem", strange);
    assert_ok(st_enroll_ca_open(dir, true, &ca, &e), &e);
    assert_ok(st_enroll_ca_open(strange, true, &stranger, &e), &e);
    certify_ak(&d, &ca, &pem);
    expect_refusal(wraps_below(&d, root, &e), &e, ST_VERIFY, "not certified");
    for (int rsa = 0; rsa < 2; rsa++) {
        struct st_sealed_device_opts o = asks(&d);
        o.kind = rsa ? ST_TPM_STORAGE_RSA : ST_TPM_STORAGE_ECC;
        o.certificates = (struct st_span){(uint8_t *)pem.p, pem.len};
        assert_true(reads(&d, &o));
        assert_ok(wraps_below(&d, root, &e), &e);
        assert_ok(wraps_below(&d, NULL, &e), &e);
        expect_refusal(wraps_below(&d, strange_root, &e), &e, ST_VERIFY, "certified");
        expect_refusal(wraps_below(&d, "/nowhere/ca.pem", &e), &e, ST_IO, "/nowhere");
        flip_edited(&d, "statement", 0);
        expect_refusal(wraps_below(&d, root, &e), &e, ST_VERIFY, "certified");
        flip_edited(&d, "statement", 90);
        expect_refusal(wraps_below(&d, root, &e), &e, ST_VERIFY, "certified");
        flip_edited(&d, "signature", 40);
        expect_refusal(wraps_below(&d, root, &e), &e, ST_VERIFY, "certified");
        put_edited(&d, "certified", "certificates", json_string("none"));
        expect_refusal(wraps_below(&d, root, &e), &e, ST_VERIFY, "certificates");
        /* Another key in its place. */
        json_t *its = json_loadb(other.json.p, other.json.len, 0, NULL);
        put_edited(&d, NULL, "storage_key", json_incref(json_object_get(its, "storage_key")));
        json_decref(its);
        expect_refusal(wraps_below(&d, root, &e), &e, ST_VERIFY, "it is about another key");
    }
    /* A quote is no certificate of a key, though the same key signs it. */
    struct st_tpm_device *t;
    struct st_buf quote = {0}, signature = {0};
    uint8_t digest[32] = {0};
    assert_ok(st_tpm_device_open(d.tpm.tcti, NULL, &t, &e), &e);
    assert_ok(st_tpm_device_quote(t, digest, 1, &quote, &signature, digest, &e), &e);
    st_tpm_device_close(t);
    json_t *o = json_loadb(d.json.p, d.json.len, 0, NULL);
    set_bytes(json_object_get(o, "certified"), "statement", (uint8_t *)quote.p, quote.len);
    set_bytes(json_object_get(o, "certified"), "signature", (uint8_t *)signature.p, signature.len);
    assert_int_equal(json_dump_file(o, d.file, 0), 0);
    json_decref(o);
    expect_refusal(wraps_below(&d, root, &e), &e, ST_VERIFY, "of type certify");
    st_buf_free(&quote);
    st_buf_free(&signature);
    st_buf_free(&pem);
    st_enroll_ca_free(&ca);
    st_enroll_ca_free(&stranger);
    snprintf(cmd, sizeof cmd, "rm -r %s %s", dir, strange);
    assert_int_equal(system(cmd), 0);
    device_close(&d);
    device_close(&other);
}

/* ---- another implementation ---- */

static void write_field(const struct device *d, const json_t *entry, const char *field, bool sized)
{
    struct st_buf b = {0}, out = {0};
    struct st_err e;
    char path[128];
    assert_ok(st_json_base64(entry, "entry", field, &b, &e), &e);
    if (sized)
        st_buf_add(&out, (uint8_t[]){(uint8_t)(b.len >> 8), (uint8_t)b.len}, 2);
    st_buf_add(&out, b.p, b.len);
    snprintf(path, sizeof path, "%s/%s", d->tpm.dir, field);
    unlink(path);
    assert_ok(st_file_write(path, out.p, out.len, 0600, true, &e), &e);
    st_buf_free(&b);
    st_buf_free(&out);
}

static void what_is_made_here_imports_with_tpm2_tools(void **state)
{
    (void)state;
    struct device d;
    struct st_err e;
    struct st_buf got = {0};
    char cmd[1024], path[128];
    if (system("command -v tpm2_import >/dev/null 2>&1") != 0) {
        print_message("skips: tpm2-tools is not there\n");
        return;
    }
    if (!device_open(&d))
        return;
    for (int rsa = 0; rsa < 2; rsa++) {
        struct st_sealed_device_opts o = asks(&d);
        o.kind = rsa ? ST_TPM_STORAGE_RSA : ST_TPM_STORAGE_ECC;
        assert_true(reads(&d, &o));
        json_t *entry = wrapped(&d, id, 1);
        write_field(&d, entry, "public", false);
        write_field(&d, entry, "private", false);
        write_field(&d, entry, "seed", true);
        snprintf(
            cmd, sizeof cmd,
            "cd %s && export TPM2TOOLS_TCTI=%s && {"
            " tpm2_createprimary -Q -C o -g sha256 -G %s -c primary -a 'restricted|decrypt|fixedtpm|fixedparent|"
            "sensitivedataorigin|userwithauth|noda' &&"
            " tpm2_import -Q -C primary -u public -i private -s seed -r imported &&"
            " tpm2_flushcontext -t && tpm2_load -Q -C primary -u public -r imported -c object &&"
            " tpm2_startauthsession -Q --policy-session -S session &&"
            " tpm2_policypcr -Q -S session -l sha256:0,7,11 && tpm2_unseal -Q -c object -p session:session -o held;"
            " } >log 2>&1; rc=$?; tpm2_flushcontext session >>log 2>&1; tpm2_flushcontext -t >>log 2>&1; exit $rc",
            d.tpm.dir, d.tpm.tcti, rsa ? "rsa2048:aes128cfb" : "ecc256:aes128cfb");
        snprintf(path, sizeof path, "%s/held", d.tpm.dir);
        int rc = system(cmd);
        if (rc) {
            snprintf(cmd, sizeof cmd, "cat %s/log >&2", d.tpm.dir);
            rc = system(cmd);
            fail_msg("tpm2-tools refuse it");
        }
        st_buf_clear(&got);
        assert_ok(st_file_read(path, 4096, &got, &e), &e);
        assert_int_equal(got.len, 64);
        assert_memory_equal(got.p, d.key.p, 32);
        json_decref(entry);
    }
    static const char *const files[] = {"public", "private", "seed", "primary", "imported",
                                        "object", "session", "held", "log"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", d.tpm.dir, files[i]);
        unlink(path);
    }
    st_buf_free(&got);
    device_close(&d);
}

/* ---- the program ---- */

/* Runs `sotto ARGS` where the device's files are; what it printed goes to `said`. */
static int runs(const struct device *d, const char *args, struct st_buf *said)
{
    struct st_err e;
    const char *bin = getenv("SOTTO_BIN");
    char cmd[2048], here[512] = "", path[128];
    if (bin && bin[0] != '/' && !getcwd(here, sizeof here - 1))
        fail();
    snprintf(cmd, sizeof cmd, "cd %s && HOME=%s XDG_CONFIG_HOME=%s %s%s%s %s --tcti %s --config= >out 2>&1", d->tpm.dir,
             d->tpm.dir, d->tpm.dir, here, *here ? "/" : "", bin ? bin : "sotto", args, d->tpm.tcti);
    int status = system(cmd);
    snprintf(path, sizeof path, "%s/out", d->tpm.dir);
    st_buf_clear(said);
    assert_ok(st_file_read(path, 65536, said, &e), &e);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void the_program_seals_for_a_device_which_opens_no_older_version(void **state)
{
    (void)state;
    struct device d;
    struct st_buf said = {0};
    char args[700], source[400];
    if (access("models/demo/config.json", F_OK) != 0 || !getenv("SOTTO_BIN") || !getcwd(source, sizeof source)) {
        print_message("skips: want SOTTO_BIN, and models/demo here\n");
        return;
    }
    if (!device_open(&d))
        return;
    assert_int_equal(runs(&d, "seal device --pcrs sha256:7,11 --counter new", &said), 0);
    assert_non_null(strstr(said.p, "nothing was measured into PCRs sha256:7,11"));
    assert_int_equal(runs(&d, "seal device -q --pcrs sha256:7,11 --counter 0x01800000", &said), 0);
    assert_int_equal(rename(strcat(strcpy(args, d.tpm.dir), "/out"), d.file), 0);
    for (int v = 1; v <= 2; v++) {
        snprintf(args, sizeof args, "seal %s/models/demo v%d.sealed --recipient tpm:%s --version %d", source, v, d.file,
                 v);
        assert_int_equal(runs(&d, args, &said), 0);
    }
    assert_int_equal(runs(&d, "seal recipients v2.sealed", &said), 0);
    assert_non_null(strstr(said.p, "PCRs sha256:7,11, counter 0x01800000 up to"));
    static const char run[] = "complete v%d.sealed -p Once -n 2 --temp 0 --allow-unlocked";
    for (int v = 1; v <= 2; v++) {
        snprintf(args, sizeof args, run, v);
        if (runs(&d, args, &said))
            fail_msg("%s", said.p);
    }
    snprintf(args, sizeof args, run, 1);
    assert_int_equal(runs(&d, args, &said), ST_VERIFY);
    assert_non_null(strstr(said.p, "version 1 is older"));
    swtpm_extend(&d.tpm, 11);
    snprintf(args, sizeof args, run, 2);
    assert_int_equal(runs(&d, args, &said), ST_VERIFY);
    assert_non_null(strstr(said.p, "PCRs sha256:11 "));
    assert_int_equal(runs(&d, "seal device --counter 0x81000001", &said), ST_USAGE);
    assert_int_equal(runs(&d, "seal device --storage-key dsa", &said), ST_USAGE);
    assert_int_equal(runs(&d, "seal device --version 2", &said), ST_USAGE);
    st_buf_free(&said);
    snprintf(args, sizeof args, "rm -rf %s/*", d.tpm.dir);
    assert_int_equal(system(args), 0);
    device_close(&d);
}

int main(void)
{
    setenv("TSS2_LOG", "all+NONE", 1); /* refusals are expected */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_opens_on_the_tpm_that_it_was_made_for_only),
        cmocka_unit_test(a_changed_pcr_is_refused_by_name_until_the_machine_starts_as_before),
        cmocka_unit_test(values_that_the_publisher_expects_need_not_be_those_of_the_day),
        cmocka_unit_test(a_tpm_that_was_cleared_no_longer_opens),
        cmocka_unit_test(without_a_tpm_it_says_so),
        cmocka_unit_test(a_version_that_was_opened_shuts_out_older_ones),
        cmocka_unit_test(a_counter_that_was_deleted_starts_above_what_it_was),
        cmocka_unit_test(versions_are_counted_from_where_the_device_says),
        cmocka_unit_test(a_wrap_moved_to_another_container_or_version_is_refused),
        cmocka_unit_test(flipped_and_cut_bytes_of_a_wrap_are_refused),
        cmocka_unit_test(hostile_entries_are_refused_before_a_tpm_is_asked),
        cmocka_unit_test(hostile_devices_are_refused_naming_the_field),
        cmocka_unit_test(a_storage_key_is_believed_below_the_publishers_roots_only),
        cmocka_unit_test(what_is_made_here_imports_with_tpm2_tools),
        cmocka_unit_test(the_program_seals_for_a_device_which_opens_no_older_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

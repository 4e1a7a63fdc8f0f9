/* Any bytes as key configurations, as a request to a node, and as a reply to a client: refused with the one text, never
 * opened (a fuzzer has no key), and configurations that are read are written as the same bytes or fewer. The first byte
 * says which, the second how the bytes are cut. */
#include "channel/ohttp.h"

#include <stdlib.h>
#include <string.h>

static struct st_keyring *ring;

static void set_up(void)
{
    struct st_err e;
    struct st_hpke_key *key;
    static const uint8_t sk[32] = {1}; /* the same key for every run, so that a corpus stays good */
    const struct st_keyring_opts o = {.kem = ST_HPKE_KEM_X25519,
                                      .aeads = {ST_AEAD_AES_128_GCM, ST_AEAD_CHACHA20_POLY1305},
                                      .n_aeads = 2,
                                      .max_requests = 1 << 16};
    if (st_hpke_key_import(ST_HPKE_KEM_X25519, sk, sizeof sk, &key, &e) || st_keyring_new_from(&o, key, 1, &ring, &e))
        abort();
}

static void read_configs(const uint8_t *p, size_t len)
{
    struct st_err e;
    struct st_ohttp_config c[ST_OHTTP_CONFIGS_MAX];
    struct st_buf b = {0};
    size_t n;
    int rc = st_ohttp_config_parse_list((struct st_span){p, len}, c, &n, &e);
    if (rc && rc != ST_INPUT && rc != ST_UNSUPPORTED)
        abort();
    if (!rc) {
        struct st_ohttp_config again[ST_OHTTP_CONFIGS_MAX];
        struct st_buf twice = {0};
        size_t n_again;
        st_ohttp_config_add_list(&b, c, n);
        if (b.len > len || st_ohttp_config_parse_list((struct st_span){(uint8_t *)b.p, b.len}, again, &n_again, &e))
            abort();
        st_ohttp_config_add_list(&twice, again, n_again);
        if (twice.len != b.len || memcmp(twice.p, b.p, b.len) != 0)
            abort();
        st_buf_free(&twice);
    }
    st_buf_free(&b);
}

static void open_message(struct st_ohttp *x, const uint8_t *p, size_t len, size_t step)
{
    struct st_err e;
    struct st_span text;
    int rc = 0;
    for (size_t at = 0; !rc && at < len; at += step) {
        struct st_span in = {p + at, len - at < step ? len - at : step};
        while (!rc && in.len)
            rc = st_ohttp_open(x, &in, &text, &e);
    }
    if (!rc)
        rc = st_ohttp_open_end(x, &text, &e);
    /* A corpus may hold a request that opens, once. */
    if (rc && (rc != ST_VERIFY || strcmp(e.msg, "ohttp: the message does not open") != 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_ohttp x;
    struct st_buf b = {0};
    struct st_err e;
    if (size < 2)
        return 0;
    if (!ring)
        set_up();
    const uint8_t *p = data + 2;
    size_t len = size - 2, step = 1 + data[1];
    enum st_ohttp_form form = data[0] & 1;
    switch (data[0] >> 1 & 3) {
    case 0:
        read_configs(p, len);
        return 0;
    case 1:
        if (st_ohttp_client(&x, form, st_keyring_current(ring), 4096, &b, &e) != 0)
            abort();
        break;
    default:
        st_ohttp_server(&x, form, ring, 4096);
    }
    open_message(&x, p, len, step);
    st_ohttp_wipe(&x);
    st_buf_free(&b);
    return 0;
}

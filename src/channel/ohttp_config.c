#include "channel/ohttp_config.h"

#include <string.h>

static void add_u16(struct st_buf *b, size_t v)
{
    st_buf_add(b, (uint8_t[2]){(uint8_t)(v >> 8), (uint8_t)v}, 2);
}

static uint16_t get_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

void st_ohttp_config_add(struct st_buf *out, const struct st_ohttp_config *c)
{
    st_buf_add(out, &c->id, 1);
    add_u16(out, c->kem);
    st_buf_add(out, c->public, st_hpke_public_len(c->kem));
    add_u16(out, 4 * c->n_suites);
    for (size_t i = 0; i < c->n_suites; i++) {
        add_u16(out, c->suites[i].kdf);
        add_u16(out, c->suites[i].aead);
    }
}

int st_ohttp_config_parse(struct st_span bytes, struct st_ohttp_config *c, struct st_err *e)
{
    struct st_err skipped;
    *c = (struct st_ohttp_config){0};
    if (bytes.len < 3)
        return st_fail(e, ST_INPUT, "key configuration: want an id and a kem, got %zu bytes", bytes.len);
    c->id = bytes.p[0];
    c->kem = get_u16(bytes.p + 1);
    size_t public_len = st_hpke_public_len(c->kem);
    if (!public_len)
        return st_fail(e, ST_UNSUPPORTED, "key configuration: kem 0x%04x: want DHKEM of X25519 or P-256", c->kem);
    if (bytes.len < 3 + public_len + 2)
        return st_fail(e, ST_INPUT, "key configuration: public key: want %zu bytes and the suites' length", public_len);
    memcpy(c->public, bytes.p + 3, public_len);
    const uint8_t *p = bytes.p + 3 + public_len + 2;
    size_t len = get_u16(p - 2);
    if (len == 0 || len % 4 || len > 4 * ST_OHTTP_SUITES_MAX || len != bytes.len - 3 - public_len - 2)
        return st_fail(e, ST_INPUT, "key configuration: suites: want 1 to %d of 4 bytes and nothing behind them",
                       ST_OHTTP_SUITES_MAX);
    for (size_t i = 0; i < len; i += 4) {
        struct st_hpke_suite s = {c->kem, get_u16(p + i), get_u16(p + i + 2)};
        if (st_hpke_suite_check(s, &skipped) != 0)
            continue;
        c->suites[c->n_suites].kdf = s.kdf;
        c->suites[c->n_suites++].aead = s.aead;
    }
    return c->n_suites ? 0 : st_fail(e, ST_UNSUPPORTED, "key configuration: none of its suites is ours");
}

void st_ohttp_config_add_list(struct st_buf *out, const struct st_ohttp_config *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        add_u16(out, 3 + st_hpke_public_len(c[i].kem) + 2 + 4 * c[i].n_suites);
        st_ohttp_config_add(out, &c[i]);
    }
}

int st_ohttp_config_parse_list(struct st_span bytes, struct st_ohttp_config c[ST_OHTTP_CONFIGS_MAX], size_t *n,
                               struct st_err *e)
{
    uint8_t seen[ST_OHTTP_CONFIGS_MAX];
    *n = 0;
    for (size_t i = 0; bytes.len; i++) {
        size_t len = bytes.len < 2 ? 0 : get_u16(bytes.p);
        if (bytes.len < 2 || len > bytes.len - 2)
            return st_fail(e, ST_INPUT, "key configurations: number %zu is cut short", i);
        if (i == ST_OHTTP_CONFIGS_MAX)
            return st_fail(e, ST_INPUT, "key configurations: want at most %d", ST_OHTTP_CONFIGS_MAX);
        int rc = st_ohttp_config_parse((struct st_span){bytes.p + 2, len}, &c[*n], e);
        if (rc && rc != ST_UNSUPPORTED)
            return rc;
        seen[i] = bytes.p[2];
        if (memchr(seen, seen[i], i))
            return st_fail(e, ST_INPUT, "key configurations: two have the id %u", seen[i]);
        *n += rc == 0;
        bytes = (struct st_span){bytes.p + 2 + len, bytes.len - 2 - len};
    }
    return *n ? 0 : st_fail(e, ST_UNSUPPORTED, "key configurations: none of them is ours");
}

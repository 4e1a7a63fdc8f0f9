#include "channel/receipt.h"

#include <openssl/crypto.h>
#include <string.h>

#define VERSION 1
#define SIGNATURE_AT (ST_RECEIPT_LEN - ST_ED25519_SIGNATURE)

static const char magic[8] = {'S', 'O', 'T', 'T', 'O', 'R', 'C', 'P'};

static void put(uint8_t *p, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

#define PREIMAGE (6 * 4 + 15 + 4 * 32 + 8)

static void preimage(const struct st_receipt *r, uint8_t out[PREIMAGE])
{
    static const char label[] = "sotto receipt 1";
    uint8_t time[8];
    put(time, (uint64_t)r->time, 8);
    const struct st_span fields[] = {{(const uint8_t *)label, sizeof label - 1},
                                     {r->key, 32},
                                     {r->request, 32},
                                     {r->reply, 32},
                                     {r->model, 32},
                                     {time, 8}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        put(out, fields[i].len, 4);
        memcpy(out + 4, fields[i].p, fields[i].len);
        out += 4 + fields[i].len;
    }
}

int st_receipt_sign(struct st_receipt *r, const struct st_ed25519 *k, uint8_t out[ST_RECEIPT_LEN], struct st_err *e)
{
    uint8_t text[PREIMAGE];
    st_ed25519_public(k, r->key);
    preimage(r, text);
    memcpy(out, magic, 8);
    put(out + 8, VERSION, 4);
    memcpy(out + 12, r->key, 32);
    memcpy(out + 44, r->request, 32);
    memcpy(out + 76, r->reply, 32);
    memcpy(out + 108, r->model, 32);
    put(out + 140, (uint64_t)r->time, 8);
    return st_ed25519_sign(k, text, sizeof text, out + SIGNATURE_AT, e);
}

int st_receipt_parse(struct st_span bytes, struct st_receipt *r, struct st_err *e)
{
    *r = (struct st_receipt){0};
    if (bytes.len < 12 || memcmp(bytes.p, magic, 8) != 0)
        return st_fail(e, ST_INPUT, "receipt: want bytes that begin with SOTTORCP");
    if (get(bytes.p + 8, 4) != VERSION)
        return st_fail(e, ST_UNSUPPORTED, "receipt: version %u, this program reads %d", (unsigned)get(bytes.p + 8, 4),
                       VERSION);
    if (bytes.len != ST_RECEIPT_LEN)
        return st_fail(e, ST_INPUT, "receipt: want %d bytes, got %zu", ST_RECEIPT_LEN, bytes.len);
    memcpy(r->key, bytes.p + 12, 32);
    memcpy(r->request, bytes.p + 44, 32);
    memcpy(r->reply, bytes.p + 76, 32);
    memcpy(r->model, bytes.p + 108, 32);
    r->time = (int64_t)get(bytes.p + 140, 8);
    return 0;
}

int st_receipt_verify(struct st_span bytes, const struct st_receipt *want, int64_t *time, struct st_err *e)
{
    struct st_receipt got;
    struct st_err why;
    uint8_t text[PREIMAGE];
    *time = 0;
    if (st_receipt_parse(bytes, &got, &why) != 0)
        return st_fail(e, ST_VERIFY, "%s", why.msg);
    const struct {
        const char *name;
        const uint8_t *got, *want;
    } parts[] = {{"key", got.key, want->key},
                 {"request", got.request, want->request},
                 {"reply", got.reply, want->reply},
                 {"model", got.model, want->model}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (CRYPTO_memcmp(parts[i].got, parts[i].want, 32) != 0)
            return st_fail(e, ST_VERIFY, "receipt: it is for another %s", parts[i].name);
    preimage(&got, text);
    if (st_ed25519_verify(want->key, text, sizeof text, bytes.p + SIGNATURE_AT, &why) != 0)
        return st_fail(e, ST_VERIFY, "receipt: the signature is not the key's");
    *time = got.time;
    return 0;
}

#include "channel/token.h"
#include "crypto/digest.h"

#include <openssl/crypto.h>
#include <string.h>

#define VERSION 1
#define HEAD (8 + 12 + ST_TOKEN_RANDOM) /* magic, version, day, units, random */
#define N_LABEL (sizeof label - 1)

static const char magic[8] = {'S', 'O', 'T', 'T', 'O', 'T', 'K', 'N'};
static const char label[] = "sotto token 1";

const uint32_t st_token_units[ST_TOKEN_N_UNITS] = {1, 8, 64, 512};

/* ---- numbers, little-endian ---- */

static void put(uint8_t *p, uint32_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static void add_number(struct st_buf *out, uint32_t v, size_t n)
{
    uint8_t b[4];
    put(b, v, n);
    st_buf_add(out, b, n);
}

static uint32_t number(const uint8_t *p, size_t n)
{
    uint32_t v = 0;
    for (size_t i = n; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

/* Lengths that a blinded message or a signature can have: those of the moduli (crypto/blind_rsa.h). */
static bool good_len(size_t len)
{
    return len == 256 || len == 384 || len == 512;
}

static bool good_units(uint32_t units)
{
    return units >= 1 && units <= ST_TOKEN_MAX_UNITS;
}

/* ---- tokens ---- */

int st_token_parse(struct st_span bytes, struct st_token *out, struct st_err *e)
{
    *out = (struct st_token){0};
    if (bytes.len < 12 || memcmp(bytes.p, magic, sizeof magic) != 0)
        return st_fail(e, ST_INPUT, "token: want bytes that begin with SOTTOTKN");
    if (number(bytes.p + 8, 4) != VERSION)
        return st_fail(e, ST_UNSUPPORTED, "token: version %u, this program reads %d", (unsigned)number(bytes.p + 8, 4),
                       VERSION);
    if (bytes.len < HEAD || !good_len(bytes.len - HEAD))
        return st_fail(e, ST_INPUT, "token: want a signature of 256, 384 or 512 bytes");
    if (!good_units(number(bytes.p + 16, 4)))
        return st_fail(e, ST_INPUT, "token: want 1 to %d units", ST_TOKEN_MAX_UNITS);
    out->day = number(bytes.p + 12, 4);
    out->units = number(bytes.p + 16, 4);
    memcpy(out->random, bytes.p + 20, ST_TOKEN_RANDOM);
    out->signature_len = bytes.len - HEAD;
    memcpy(out->signature, bytes.p + HEAD, out->signature_len);
    return 0;
}

void st_token_write(const struct st_token *t, struct st_buf *out)
{
    st_buf_add(out, magic, sizeof magic);
    add_number(out, VERSION, 4);
    add_number(out, t->day, 4);
    add_number(out, t->units, 4);
    st_buf_add(out, t->random, ST_TOKEN_RANDOM);
    st_buf_add(out, t->signature, t->signature_len);
}

/* The message that is signed, as st_blind_rsa_prepare() makes it. */
static void message(const struct st_token *t, uint8_t out[ST_TOKEN_RANDOM + N_LABEL])
{
    memcpy(out, t->random, ST_TOKEN_RANDOM);
    memcpy(out + ST_TOKEN_RANDOM, label, N_LABEL);
}

int st_token_verify(const struct st_token *t, const struct st_blind_rsa *k, struct st_err *e)
{
    uint8_t text[ST_TOKEN_RANDOM + N_LABEL];
    struct st_err why;
    message(t, text);
    if (st_blind_rsa_verify(k, text, sizeof text, t->signature, t->signature_len, &why) != 0)
        return st_fail(e, ST_VERIFY, "token: the key of its day and units has not signed it");
    return 0;
}

void st_token_digest(const struct st_token *t, uint8_t out[32])
{
    static const char what[] = "sotto spent token 1";
    uint8_t text[(sizeof what - 1) + ST_TOKEN_RANDOM + 4 * 4 + 2 * 4], *p = text;
    uint8_t numbers[2][4];
    put(numbers[0], t->day, 4);
    put(numbers[1], t->units, 4);
    const struct st_span fields[] = {
        {(const uint8_t *)what, sizeof what - 1}, {t->random, ST_TOKEN_RANDOM}, {numbers[0], 4}, {numbers[1], 4}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        put(p, (uint32_t)fields[i].len, 4);
        memcpy(p + 4, fields[i].p, fields[i].len);
        p += 4 + fields[i].len;
    }
    st_sha256(text, sizeof text, out);
}

int st_token_begin_many(const struct st_blind_rsa *k, uint32_t day, uint32_t units, struct st_token_blank *out,
                        size_t n, struct st_err *e)
{
    uint8_t text[ST_BLIND_RSA_JOBS][ST_TOKEN_RANDOM + N_LABEL];
    struct st_blind_rsa_job jobs[ST_BLIND_RSA_JOBS];
    if (!good_units(units) || n > ST_BLIND_RSA_JOBS)
        return st_fail(e, ST_USAGE, "token: want 1 to %d units, and at most %d", ST_TOKEN_MAX_UNITS, ST_BLIND_RSA_JOBS);
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        out[i] = (struct st_token_blank){.token = {.day = day, .units = units}, .len = st_blind_rsa_len(k)};
        jobs[i] = (struct st_blind_rsa_job){text[i], sizeof text[i], out[i].blinded, &out[i].state};
        rc = st_blind_rsa_prepare(label, N_LABEL, text[i], e);
        memcpy(out[i].token.random, text[i], ST_TOKEN_RANDOM);
    }
    if (!rc)
        rc = st_blind_rsa_blind_many(k, jobs, n, e);
    OPENSSL_cleanse(text, sizeof text);
    return rc;
}

int st_token_begin(const struct st_blind_rsa *k, uint32_t day, uint32_t units, struct st_token_blank *out,
                   struct st_err *e)
{
    return st_token_begin_many(k, day, units, out, 1, e);
}

int st_token_finish(const struct st_token_blank *b, const struct st_blind_rsa *k, struct st_span answer,
                    struct st_token *out, struct st_err *e)
{
    uint8_t text[ST_TOKEN_RANDOM + N_LABEL];
    struct st_err why;
    *out = b->token;
    message(&b->token, text);
    int rc = st_blind_rsa_finalize(k, text, sizeof text, &b->state, answer.p, answer.len, out->signature, &why);
    OPENSSL_cleanse(text, sizeof text);
    if (rc) {
        OPENSSL_cleanse(out, sizeof *out);
        return st_fail(e, rc, "token: the issuer's answer: %s", why.msg);
    }
    out->signature_len = st_blind_rsa_len(k);
    return 0;
}

/* ---- change ---- */

static void add_item(struct st_buf *out, struct st_span s)
{
    add_number(out, (uint32_t)s.len, 2);
    st_buf_add(out, s.p, s.len);
}

/* Takes n bytes off *rest; NULL when there are fewer. */
static const uint8_t *take(struct st_span *rest, size_t n)
{
    const uint8_t *p = rest->p;
    if (rest->len < n)
        return NULL;
    *rest = (struct st_span){rest->p + n, rest->len - n};
    return p;
}

static bool take_item(struct st_span *rest, struct st_span *out)
{
    const uint8_t *p = take(rest, 2);
    size_t len = p ? number(p, 2) : 0;
    const uint8_t *bytes = good_len(len) ? take(rest, len) : NULL;
    *out = (struct st_span){bytes, len};
    return bytes != NULL;
}

static int take_count(struct st_span *rest, const char *what, size_t *n, struct st_err *e)
{
    const uint8_t *p = take(rest, 2);
    *n = 0;
    if (!p || number(p, 2) > ST_CHANGE_MAX)
        return st_fail(e, ST_INPUT, "%s: want a list of at most %d", what, ST_CHANGE_MAX);
    *n = number(p, 2);
    return 0;
}

int st_change_ask_parse(struct st_span bytes, struct st_change_ask *out, struct st_err *e)
{
    size_t n;
    *out = (struct st_change_ask){0};
    if (take_count(&bytes, "change asked for", &n, e))
        return e->code;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = take(&bytes, 8);
        if (p) {
            out->of[i].day = number(p, 4);
            out->of[i].units = number(p + 4, 4);
        }
        if (!p || !good_units(out->of[i].units) || !take_item(&bytes, &out->of[i].blinded)) {
            *out = (struct st_change_ask){0};
            return st_fail(e, ST_INPUT, "change asked for: %zu: want a day, 1 to %d units and 256, 384 or 512 bytes", i,
                           ST_TOKEN_MAX_UNITS);
        }
    }
    if (bytes.len) {
        *out = (struct st_change_ask){0};
        return st_fail(e, ST_INPUT, "change asked for: %zu bytes behind its end", bytes.len);
    }
    out->n = n;
    return 0;
}

void st_change_ask_write(const struct st_change_ask *a, struct st_buf *out)
{
    add_number(out, (uint32_t)a->n, 2);
    for (size_t i = 0; i < a->n; i++) {
        add_number(out, a->of[i].day, 4);
        add_number(out, a->of[i].units, 4);
        add_item(out, a->of[i].blinded);
    }
}

int st_change_answer_parse(struct st_span bytes, struct st_change_answer *out, struct st_err *e)
{
    size_t n;
    uint32_t seen = 0; /* bit of each place; ST_CHANGE_MAX <= 32 */
    *out = (struct st_change_answer){0};
    if (take_count(&bytes, "change", &n, e))
        return e->code;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = take(&bytes, 2);
        uint32_t place = p ? number(p, 2) : ST_CHANGE_MAX;
        if (place >= ST_CHANGE_MAX || seen >> place & 1 || !take_item(&bytes, &out->of[i].signature)) {
            *out = (struct st_change_answer){0};
            return st_fail(e, ST_INPUT, "change: %zu: want a place below %d, once, and 256, 384 or 512 bytes", i,
                           ST_CHANGE_MAX);
        }
        out->of[i].place = (uint16_t)place;
        seen |= 1u << place;
    }
    if (bytes.len) {
        *out = (struct st_change_answer){0};
        return st_fail(e, ST_INPUT, "change: %zu bytes behind its end", bytes.len);
    }
    out->n = n;
    return 0;
}

void st_change_answer_write(const struct st_change_answer *a, struct st_buf *out)
{
    add_number(out, (uint32_t)a->n, 2);
    for (size_t i = 0; i < a->n; i++) {
        add_number(out, a->of[i].place, 2);
        add_item(out, a->of[i].signature);
    }
}

void st_change_plan(uint32_t units, uint32_t day, struct st_change_ask *out)
{
    size_t of = 0;
    *out = (struct st_change_ask){0};
    while (of < ST_TOKEN_N_UNITS && st_token_units[of] != units)
        of++;
    if (of == ST_TOKEN_N_UNITS)
        return;
    /* Seven of each smaller denomination reach every part that is a multiple of the smallest; one more of that makes
     * the whole. */
    for (size_t d = of ? of : 1; d-- > 0;)
        for (uint32_t i = 0; i < (of == 0 ? 1u : d == 0 ? 8u : 7u); i++) {
            out->of[out->n].day = day;
            out->of[out->n++].units = st_token_units[d];
        }
}

size_t st_change_pick(const struct st_change_ask *a, uint32_t units, uint16_t place[ST_CHANGE_MAX])
{
    size_t n = 0;
    bool taken[ST_CHANGE_MAX] = {false};
    /* Each denomination divides the next: what the largest first cannot reach, nothing can. */
    while (units) {
        size_t best = a->n;
        for (size_t i = 0; i < a->n; i++)
            if (!taken[i] && a->of[i].units && a->of[i].units <= units &&
                (best == a->n || a->of[i].units > a->of[best].units))
                best = i;
        if (best == a->n)
            return 0;
        taken[best] = true;
        place[n++] = (uint16_t)best;
        units -= a->of[best].units;
    }
    return n;
}

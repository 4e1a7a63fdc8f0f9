/* Tokens: what a request is paid with, so that who pays and what is asked cannot be put together. A token is a random
 * string that the issuer has signed without seeing it (crypto/blind_rsa.h), by the key of one day and one
 * denomination: all that a token tells is which day and how many units. Bytes in, bytes out; hostile input.
 *
 * Binary form: magic "SOTTOTKN", u32 version 1, u32 day (days since 1970), u32 units, random [32], signature [n] by
 * the key of (day, units) over the prepared message random || "sotto token 1" (little-endian numbers, here and below).
 * In a header field it is that in base64.
 *
 * Change: a request that pays brings blinded messages along, and what was not used up comes back in its reply as blind
 * signatures on some of them. Binary forms: u16 count, then of each {u32 day, u32 units, u16 length, blinded};
 * answer: u16 count, then of each {u16 place in the request's list, u16 length, signature}. */
#ifndef ST_CHANNEL_TOKEN_H
#define ST_CHANNEL_TOKEN_H

#include "base/buf.h"
#include "crypto/blind_rsa.h"

#define ST_TOKEN_RANDOM ST_BLIND_RSA_PREFIX
#define ST_TOKEN_MAX (8 + 12 + ST_TOKEN_RANDOM + ST_BLIND_RSA_MAX)
#define ST_TOKEN_MAX_UNITS 4096
#define ST_CHANGE_MAX 24 /* blinded messages of one list */
#define ST_TOKEN_DAY_S 86400

/* The denominations that exist: 1, 8, 64, 512 units. */
#define ST_TOKEN_N_UNITS 4
extern const uint32_t st_token_units[ST_TOKEN_N_UNITS];

struct st_token {
    uint32_t day, units;
    uint8_t random[ST_TOKEN_RANDOM];
    uint8_t signature[ST_BLIND_RSA_MAX];
    size_t signature_len;
};
/* INPUT for bytes that are no token, UNSUPPORTED for another version; nothing is verified. */
int st_token_parse(struct st_span bytes, struct st_token *out, struct st_err *e) ST_MUST_CHECK;
void st_token_write(const struct st_token *t, struct st_buf *out);
/* VERIFY unless k, the key of its day and units, signed it. */
int st_token_verify(const struct st_token *t, const struct st_blind_rsa *k, struct st_err *e) ST_MUST_CHECK;
/* What a spent token is remembered by: SHA-256 of its random string, day and units (not of the signature, of which
 * several can be valid). */
void st_token_digest(const struct st_token *t, uint8_t out[32]);

/* A token in the making: as secret as the link between who asked for it and who spends it. */
struct st_token_blank {
    struct st_token token; /* day, units, random */
    struct st_blind_rsa_state state;
    uint8_t blinded[ST_BLIND_RSA_MAX];
    size_t len; /* of blinded, and of the signature to come */
};
/* Draws the random string and blinds it for k. Wipe *out in the end. */
int st_token_begin(const struct st_blind_rsa *k, uint32_t day, uint32_t units, struct st_token_blank *out,
                   struct st_err *e) ST_MUST_CHECK;
/* The same for n blanks, at most ST_BLIND_RSA_JOBS, at a fifth of the time for each. */
int st_token_begin_many(const struct st_blind_rsa *k, uint32_t day, uint32_t units, struct st_token_blank *out,
                        size_t n, struct st_err *e) ST_MUST_CHECK;
/* Unblinds the issuer's answer; VERIFY when it is no signature. */
int st_token_finish(const struct st_token_blank *b, const struct st_blind_rsa *k, struct st_span answer,
                    struct st_token *out, struct st_err *e) ST_MUST_CHECK;

struct st_change_ask {
    size_t n;
    struct {
        uint32_t day, units;
        struct st_span blinded;
    } of[ST_CHANGE_MAX];
};
struct st_change_answer {
    size_t n;
    struct {
        uint16_t place;
        struct st_span signature;
    } of[ST_CHANGE_MAX];
};
/* The spans borrow from bytes. INPUT: no such list, too many, a place twice. */
int st_change_ask_parse(struct st_span bytes, struct st_change_ask *out, struct st_err *e) ST_MUST_CHECK;
void st_change_ask_write(const struct st_change_ask *a, struct st_buf *out);
int st_change_answer_parse(struct st_span bytes, struct st_change_answer *out, struct st_err *e) ST_MUST_CHECK;
void st_change_answer_write(const struct st_change_answer *a, struct st_buf *out);
/* Blanks with which any part of `units` can be given back, all of it too: fills days and units of *out (blinded stays
 * empty). 1: one of 1. 8: eight of 1. 64: seven of 8 and eight of 1. 512: seven of 64, seven of 8, eight of 1.
 * None for units that are no denomination. */
void st_change_plan(uint32_t units, uint32_t day, struct st_change_ask *out);
/* Chooses places of *a worth exactly `units` (largest first) into place[]; returns their number, 0 when it cannot.
 * Days are not looked at. */
size_t st_change_pick(const struct st_change_ask *a, uint32_t units, uint16_t place[ST_CHANGE_MAX]);

#endif

/* Issuer and gateway together: which sale did a spent token come from, and so who asks? The issuer signed a blinded
 * message for an account; the gateway has the unblinded signature. For each pair of the two there is a blinding factor
 * that fits (RFC 9474 section 6.1), so bits tell nothing; without blinding the answer is the signature, which is the
 * unprotected score. Times tell something while few people buy: no cipher helps against that (docs/confidential.md).
 *
 * Source: RFC 9474; the times: docs/confidential.md, issuer and gateway together. */
#include "audit/atk_token_link.h"
#include "audit/attack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned agreeing_bits(const uint8_t *a, const uint8_t *b, size_t len)
{
    unsigned n = 0;
    for (size_t i = 0; i < len; i++)
        n += 8 - (unsigned)__builtin_popcount((unsigned)(a[i] ^ b[i]));
    return n;
}

void st_link_by_bits(const struct st_traffic *t, double *values)
{
    for (size_t i = 0; i < t->n_token; i++) {
        const struct st_traffic_spent *x = &t->spent[i];
        unsigned right = agreeing_bits(x->signature, t->sold[x->sold].answer, t->token_len);
        size_t as_good = 0;
        bool best = true;
        for (size_t k = 0; k < t->n_token && best; k++) {
            unsigned n = agreeing_bits(x->signature, t->sold[k].answer, t->token_len);
            best = n <= right;
            as_good += n == right;
        }
        values[i] = best ? 1 / (double)as_good : 0;
    }
}

void st_link_by_time(const struct st_traffic *t, double *values)
{
    for (size_t i = 0; i < t->n_token; i++) {
        const struct st_traffic_spent *x = &t->spent[i];
        const struct st_traffic_sold *last = NULL;
        for (size_t k = 0; k < t->n_token; k++)
            if (t->sold[k].time <= x->time && (!last || t->sold[k].time > last->time))
                last = &t->sold[k];
        values[i] = last && last->client == t->sold[x->sold].client ? 1 : 0;
    }
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_traffic *t = a->target->traffic;
    double *values = NULL;
    if (!t || t->n_token == 0)
        return st_fail(e, ST_UNSUPPORTED, "needs the traffic of a set-up");
    int rc = st_alloc(&values, t->n_token, sizeof *values, "tokens", e);
    if (rc)
        return rc;
    struct st_row bits = {.chance = 1 / (double)t->n_token, .unprotected = 1, .in_clear = true};
    snprintf(bits.variant, sizeof bits.variant, "by the bytes, of %zu tokens", t->n_token);
    snprintf(bits.note, sizeof bits.note, "Tokens blinded, signed and finished by the real code, in process.");
    st_link_by_bits(t, values);
    st_row_mean(&bits, values, t->n_token, a->seed);
    struct st_row times = {.metric = "share of spent tokens whose buyer is named",
                           .chance = 1 / (double)t->n_client,
                           .unprotected = 1,
                           .in_clear = true,
                           .traffic = true};
    snprintf(times.variant, sizeof times.variant, "by the time, of %zu accounts", t->n_client);
    snprintf(times.note, sizeof times.note,
             "Simulated: each account buys once in a day and spends within hours. More accounts, less is told.");
    st_link_by_time(t, values);
    st_row_mean(&times, values, t->n_token, a->seed);
    free(values);
    rc = st_rows_add(rows, &bits, e);
    return rc ? rc : st_rows_add(rows, &times, e);
}

const struct st_attack st_atk_token_link = {.name = "token-link",
                                            .title = "Linking a spent token to its sale",
                                            .metric = "share of spent tokens whose sale is named",
                                            .source = "RFC 9474 section 6.1",
                                            .adversary = ST_ADVERSARY_ISSUER,
                                            .needs = ST_TARGET_TRAFFIC,
                                            .run = run};

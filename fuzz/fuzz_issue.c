/* Any bytes as a purchase, a refund, an issuer's answer and its refusal: refused, or written in the one spelling, which
 * reads as the same; a refund never asks for more than its token. The first byte says which. */
#include "channel/issue.h"

#include <stdlib.h>
#include <string.h>

static void same(bool ok)
{
    if (!ok)
        abort();
}

static void read_request(enum st_issue_kind kind, struct st_span bytes)
{
    struct st_err e;
    struct st_issue r, again;
    struct st_buf b = {0};
    uint8_t one[32], two[32];
    int rc = st_issue_parse(kind, bytes, &r, &e);
    same(!rc || rc == ST_INPUT || rc == ST_UNSUPPORTED);
    if (!rc) {
        same(r.n >= 1 && (kind == ST_ISSUE_PURCHASE || st_issue_units(&r) <= r.token.units));
        st_issue_write(&r, &b);
        same(st_issue_parse(kind, (struct st_span){(uint8_t *)b.p, b.len}, &again, &e) == 0 && again.n == r.n);
        same(st_issue_digest(&r, one, &e) == 0 && st_issue_digest(&again, two, &e) == 0 && memcmp(one, two, 32) == 0);
        same(memcmp(r.id, again.id, sizeof r.id) == 0 && memcmp(&r.token, &again.token, sizeof r.token) == 0);
        st_issue_wipe(&again);
    }
    st_buf_free(&b);
    st_issue_wipe(&r);
}

static void read_answer(size_t n, struct st_span bytes)
{
    struct st_err e;
    struct st_issue_answer a, again;
    struct st_buf b = {0};
    int rc = st_issue_answer_parse(bytes, n, &a, &e);
    same(!rc || rc == ST_INPUT || rc == ST_UNSUPPORTED);
    if (!rc) {
        st_issue_answer_write(&a, &b);
        same(st_issue_answer_parse((struct st_span){(uint8_t *)b.p, b.len}, n, &again, &e) == 0);
        for (size_t i = 0; i < n; i++)
            same(a.signature[i].len == again.signature[i].len &&
                 memcmp(a.signature[i].p, again.signature[i].p, a.signature[i].len) == 0);
        st_issue_answer_wipe(&again);
    }
    st_buf_free(&b);
    st_issue_answer_wipe(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_err e;
    char word[ST_ISSUE_WORD];
    int64_t units;
    if (!size)
        return 0;
    struct st_span bytes = {data + 1, size - 1};
    switch (data[0] & 3) {
    case 0:
        read_request(ST_ISSUE_PURCHASE, bytes);
        break;
    case 1:
        read_request(ST_ISSUE_REFUND, bytes);
        break;
    case 2:
        read_answer(data[0] >> 2, bytes);
        break;
    default: {
        int rc = st_issue_refusal_parse(bytes, word, &units, &e);
        same(!rc || rc == ST_INPUT);
        same(strlen(word) < sizeof word && units >= 0);
    }
    }
    return 0;
}

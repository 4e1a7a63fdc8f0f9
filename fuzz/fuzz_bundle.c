/* Any bytes as a bundle or a raw item, with the rest of them as a file of endorsements: refused, or every item is
 * judged, and nothing that nobody signed is found good. A bundle that was read is written and read again to the same.
 */
#include "attest/policy.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(const struct st_bundle *b)
{
    static const char text[] = "{\"version\": 1, \"require\": \"any\", \"revocation\": \"if_present\"}";
    static struct st_policy *p;
    struct st_err e;
    struct st_verdict v;
    if (!p && st_policy_parse(text, strlen(text), "policy", &p, &e))
        abort();
    const struct st_judge j = {.policy = p, .bundle = b, .time = 1750000000};
    if (st_policy_judge(&j, &v, &e))
        return;
    if (v.good != (v.code == 0) || v.found.n_check > ST_APPRAISAL_MAX || v.found.n_claim > ST_APPRAISAL_MAX)
        abort();
    for (size_t i = 0; i < v.found.n_check; i++)
        if (!memchr(v.found.checks[i].detail, 0, sizeof v.found.checks[i].detail))
            abort();
    st_verdict_wipe(&v);
}

static void write_and_read(const struct st_bundle *b)
{
    struct st_buf text = {0}, again = {0};
    struct st_bundle got;
    struct st_err e;
    st_bundle_write(b, &text);
    if (!text.failed && text.len <= ST_EVIDENCE_MAX_BYTES) {
        if (st_bundle_parse(text.p, text.len, "again", &got, &e))
            abort();
        st_bundle_write(&got, &again);
        if (again.len != text.len || memcmp(again.p, text.p, text.len) != 0)
            abort();
        st_bundle_free(&got);
    }
    st_buf_free(&text);
    st_buf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_bundle b;
    struct st_err e;
    size_t first = size < 2 ? 0 : data[0] | (size_t)data[1] << 8;
    if (size < 2 || first > size - 2)
        return 0;
    if (st_bundle_parse(data + 2, first, "fuzz", &b, &e))
        return 0;
    write_and_read(&b);
    if (size - 2 - first && st_bundle_endorse(&b, data + 2 + first, size - 2 - first, "endorsement", &e) && !e.msg[0])
        abort();
    judge(&b);
    st_bundle_free(&b);
    return 0;
}

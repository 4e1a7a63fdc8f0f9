/* Any bytes as a request body: refused with a whole error, or read into a request within its limits. The first byte
 * chooses the endpoint. */
#include "service/openai.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

static void check(const struct st_oai_request *r)
{
    if (r->n < 1 || r->n > ST_OAI_MAX_N || r->n_stop > ST_OAI_MAX_STOP || r->n_stop_ids > ST_OAI_MAX_STOP_IDS ||
        r->sampling.n_bias > ST_OAI_MAX_BIAS || r->sampling.n_logprobs > ST_MAX_LOGPROBS)
        abort();
    if (!(r->sampling.temperature >= 0) || !(r->sampling.top_p <= 1) || !(r->sampling.repetition_penalty > 0))
        abort();
    for (size_t i = 0; i < r->n_msg; i++)
        if (!st_utf8_valid(r->msgs[i].text, r->msgs[i].len))
            abort();
    if (r->endpoint == ST_OAI_TEXT && !r->text == !r->n_ids)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_oai_request r;
    struct st_oai_error err = {0};
    struct st_buf b = {0};
    if (size < 1)
        return 0;
    enum st_oai_endpoint ep = data[0] % 2 ? ST_OAI_CHAT : ST_OAI_TEXT;
    if (st_oai_parse(ep, data + 1, size - 1, &r, &err) == 0)
        check(&r);
    else {
        struct st_err e;
        json_t *v;
        if (err.status < 400 || !err.type || !err.message[0])
            abort();
        /* What we answer must itself be JSON, whatever the field was called. */
        st_oai_error_json(&err, &b);
        if (st_json_parse(b.p, b.len, "error", &v, &e))
            abort();
        json_decref(v);
    }
    st_oai_request_wipe(&r);
    st_buf_free(&b);
    return 0;
}

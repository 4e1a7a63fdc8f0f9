#include "cli/generate.h"
#include "base/hooks.h"

#include <errno.h>
#include <stdlib.h>

static void emit(struct st_run *r, size_t from)
{
    if (r->on_text && !r->text.failed && r->text.len > from)
        r->on_text(r->arg, r->text.p + from, r->text.len - from);
}

static bool on_token(void *arg, const struct st_sampled *tok)
{
    struct st_run *r = arg;
    if (!r->ids.len)
        r->first = st_now();
    st_ids_add(&r->ids, tok->id);
    if (r->tokenizer) {
        size_t from = r->text.len;
        st_detok_push(&r->detok, tok->id, &r->text);
        emit(r, from);
    }
    return !r->interrupt || !*r->interrupt;
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct st_run *r = arg;
    (void)stop_id;
    r->finish = finish;
    r->done = true;
    if (e)
        r->err = *e;
}

int st_run(struct st_engine *en, struct st_run *r, struct st_err *e)
{
    struct st_request *request;
    bool cancelled = false;
    r->req.on_token = on_token;
    r->req.on_end = on_end;
    r->req.arg = r;
    r->done = false;
    r->err.code = 0;
    r->start = st_now();
    if (r->tokenizer)
        st_detok_init(&r->detok, r->tokenizer, true);
    if (st_engine_submit(en, &r->req, &request, e))
        goto out;
    while (!r->done) {
        if (r->interrupt && *r->interrupt && !cancelled) {
            st_engine_cancel(en, request);
            cancelled = true;
        }
        st_engine_step(en);
    }
    double end = st_now();
    r->ttft_s = (r->ids.len ? r->first : end) - r->start;
    r->decode_s = end - r->start - r->ttft_s;
    if (r->tokenizer) {
        size_t from = r->text.len;
        st_detok_end(&r->detok, &r->text);
        emit(r, from);
    }
    if (r->finish == ST_FINISH_ERROR)
        *e = r->err;
    else if (r->ids.failed || r->text.failed)
        st_fail(e, ST_MEMORY, "no memory for the reply");
    else
        e->code = 0;
out:
    if (r->tokenizer)
        st_detok_wipe(&r->detok);
    return e->code;
}

void st_run_wipe(struct st_run *r)
{
    st_ids_free(&r->ids);
    st_buf_wipe(&r->text);
    r->ids = (struct st_ids){0};
}

const char *st_finish_word(enum st_finish f)
{
    static const char *const words[] = {"stop", "length", "cancelled", "error"};
    return words[f];
}

int st_opt_ids(const char *name, const char *arg, struct st_ids *out, struct st_err *e)
{
    const char *p = arg;
    for (char *end; *p; p = end + (*end == ',')) {
        errno = 0;
        unsigned long long v = strtoull(p, &end, 10);
        if (end == p || errno || *p == '-' || v > UINT32_MAX || (*end && *end != ',') || (*end == ',' && !end[1]))
            return st_fail(e, ST_USAGE, "%s: want token ids separated by commas, like 1,2,3", name);
        st_ids_add(out, (uint32_t)v);
    }
    if (!out->len)
        return st_fail(e, ST_USAGE, "%s: want at least one token id", name);
    return out->failed ? st_fail(e, ST_MEMORY, "%s: no memory", name) : 0;
}

#include "audit/text.h"

#include "audit/records.h"
#include "base/file.h"
#include "base/hooks.h"
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX ((size_t)256 << 20)

void st_text_free(struct st_text_made *t)
{
    st_ids_free(&t->ids);
    free(t->ends);
    free(t->items);
    *t = (struct st_text_made){0};
}

static int grow(void **p, size_t *cap, size_t n, size_t size, struct st_err *e)
{
    if (n < *cap)
        return 0;
    size_t want = *cap ? 2 * *cap : 64;
    void *q = realloc(*p, want * size);
    if (!q)
        return st_fail(e, ST_MEMORY, "no memory for the audit's text");
    *p = q;
    *cap = want;
    return 0;
}

/* The ids from the last end to here are a document. */
static int end_document(struct st_text_made *t, struct st_err *e)
{
    size_t from = t->view.n ? t->ends[t->view.n - 1] : 0;
    if (t->ids.failed)
        return st_fail(e, ST_MEMORY, "no memory for the audit's text");
    if (t->ids.len == from)
        return 0;
    if (grow((void **)&t->ends, &t->cap_end, t->view.n, sizeof *t->ends, e))
        return e->code;
    t->ends[t->view.n++] = t->ids.len;
    return 0;
}

static void finish(struct st_text_made *t)
{
    t->view.ids = t->ids.p;
    t->view.ends = t->ends;
    t->view.items = t->items;
}

static int check_ids(const struct st_text_made *t, size_t from, uint32_t n_vocab, const char *where, struct st_err *e)
{
    for (size_t i = from; i < t->ids.len; i++)
        if (t->ids.p[i] >= n_vocab)
            return st_fail(e, ST_INPUT, "%s: token id %u, but the model has %u", where, t->ids.p[i], n_vocab);
    return 0;
}

static int add_document(struct st_text_made *t, const struct st_model *m, const struct st_tokenizer *tok, size_t n_ctx,
                        const char *where, const char *p, size_t len, struct st_err *e)
{
    static const char space[] = " \t\n\r\f\v";
    const struct st_encode_opts eo = {.add_special = false};
    size_t from = t->ids.len;
    int64_t bos = st_tokenizer_bos(tok);
    while (len && memchr(space, *p, sizeof space - 1)) {
        p++;
        len--;
    }
    while (len && memchr(space, p[len - 1], sizeof space - 1))
        len--;
    if (!len)
        return 0;
    if (bos >= 0)
        st_ids_add(&t->ids, (uint32_t)bos);
    int rc = st_tokenizer_encode(tok, p, len, &eo, &t->ids, e);
    if (rc)
        return st_err_prefix(e, "%s", where);
    if (t->ids.len > from + n_ctx)
        t->ids.len = from + n_ctx;
    rc = check_ids(t, from, m->config.n_vocab, where, e);
    return rc ? rc : end_document(t, e);
}

int st_text_parse(const char *p, size_t len, const char *where, const struct st_model *m,
                  const struct st_tokenizer *tok, size_t n_ctx, struct st_text_made *out, struct st_err *e)
{
    static const char mark[] = "<|endoftext|>", gap[] = "\n\n";
    const char *end = p + len;
    bool marked = len && memmem(p, len, mark, sizeof mark - 1);
    const char *sep = marked ? mark : gap;
    size_t sep_len = marked ? sizeof mark - 1 : sizeof gap - 1;
    int rc = 0;
    *out = (struct st_text_made){.cap_end = 0};
    while (!rc && p && p < end) {
        const char *hit = memmem(p, (size_t)(end - p), sep, sep_len), *stop = hit ? hit : end;
        rc = add_document(out, m, tok, n_ctx, where, p, (size_t)(stop - p), e);
        p = hit ? hit + sep_len : NULL;
    }
    if (!rc && !out->view.n)
        rc = st_fail(e, ST_INPUT, "%s: no text", where);
    finish(out);
    if (rc)
        st_text_free(out);
    return rc;
}

int st_text_read(const char *path, const struct st_model *m, const struct st_tokenizer *tok, size_t n_ctx,
                 struct st_text_made *out, struct st_err *e)
{
    struct st_buf text = {0};
    *out = (struct st_text_made){.cap_end = 0};
    int rc = st_file_read(path, TEXT_MAX, &text, e);
    if (!rc)
        rc = st_text_parse(text.p, text.len, path, m, tok, n_ctx, out, e);
    st_buf_wipe(&text);
    return rc;
}

/* ---- text of our own ---- */

static int add_item(struct st_text_made *t, size_t lo, size_t hi, struct st_err *e)
{
    if (hi <= lo)
        return 0;
    if (grow((void **)&t->items, &t->cap_item, t->view.n_item, sizeof *t->items, e))
        return e->code;
    t->items[t->view.n_item++] = (struct st_text_item){lo, hi};
    return 0;
}

/* Which ids an item has: those that decode over its bytes. Pieces of the text before it are counted by encoding them,
 * which agrees with the whole wherever the words do; an item that a token straddles takes the token whole. */
static int add_letter(struct st_text_made *t, const struct st_text_speak *s, struct st_rng *rng, struct st_err *e)
{
    struct st_letter l;
    struct st_buf piece = {0};
    size_t from = t->ids.len, at = 0, lo[ST_RECORD_ITEMS], hi[ST_RECORD_ITEMS];
    int64_t bos = st_tokenizer_bos(s->tok);
    st_letter_make(rng, &l);
    int rc = add_document(t, s->model, s->tok, s->model->config.n_ctx, "record", l.text, strlen(l.text), e);
    for (size_t k = 0; k < l.n_item; k++)
        lo[k] = hi[k] = 0;
    for (size_t i = from + (bos >= 0); !rc && i < t->ids.len; i++) {
        st_buf_clear(&piece);
        rc = st_tokenizer_decode(s->tok, t->ids.p + from, i + 1 - from, true, &piece, e);
        for (size_t k = 0; !rc && k < l.n_item; k++)
            if (at < l.items[k].hi && piece.len > l.items[k].lo) {
                lo[k] = lo[k] ? lo[k] : i;
                hi[k] = i + 1;
            }
        at = piece.len;
    }
    for (size_t k = 0; !rc && k < l.n_item; k++)
        rc = add_item(t, lo[k], hi[k], e);
    st_buf_free(&piece);
    return rc;
}

struct run {
    struct st_ids *ids;
    bool done;
    struct st_err err;
    /* st_text_nats() */
    const uint32_t *want;
    size_t n;
    uint32_t n_vocab;
    double nats;
    uint64_t n_token;
};

static bool on_token(void *arg, const struct st_sampled *tok)
{
    struct run *r = arg;
    if (r->ids)
        st_ids_add(r->ids, tok->id);
    return true;
}

static void on_end(void *arg, enum st_finish how, int64_t stop_id, const struct st_err *e)
{
    struct run *r = arg;
    (void)how;
    (void)stop_id;
    r->done = true;
    if (e)
        r->err = *e;
}

static int submit(struct st_engine *en, struct st_request_opts *req, struct run *r, struct st_err *e)
{
    struct st_request *request;
    req->on_token = on_token;
    req->on_end = on_end;
    req->arg = r;
    return st_engine_submit(en, req, &request, e);
}

/* Documents of one text, all at once: how they share steps does not change them (`deterministic`). */
static int speak_all(struct st_engine *en, const struct st_text_speak *s, struct run *runs, struct st_ids *ids,
                     struct st_err *e)
{
    int64_t bos = st_tokenizer_bos(s->tok);
    uint32_t first = bos >= 0 ? (uint32_t)bos : 0;
    size_t room = st_engine_ctx(en) > 1 ? st_engine_ctx(en) - 1 : 1;
    int rc = 0;
    for (size_t d = 0; !rc && d < s->n_doc; d++) {
        struct st_request_opts req = {.ids = &first,
                                      .n_ids = 1,
                                      .n_predict = (uint32_t)(s->n_token < room ? s->n_token : room),
                                      .sampling = {.temperature = 1,
                                                   .top_p = 0.95F,
                                                   .repetition_penalty = 1,
                                                   .seed = s->seed * 1000003 + d,
                                                   .n_logprobs = -1}};
        runs[d].ids = &ids[d];
        st_ids_add(&ids[d], first);
        rc = submit(en, &req, &runs[d], e);
    }
    while (!rc && st_engine_step(en) > 0)
        if (s->cancel && *s->cancel)
            rc = st_fail(e, ST_IO, "cancelled");
    for (size_t d = 0; !rc && d < s->n_doc; d++)
        if (runs[d].err.code) {
            *e = runs[d].err;
            rc = e->code;
        }
    return rc;
}

static int speak(const struct st_text_speak *s, struct st_text_made *t, struct st_err *e)
{
    const struct st_engine_opts eo = {.n_threads = s->n_threads, .max_batch = 16, .deterministic = true};
    struct st_engine *en = NULL;
    struct run *runs = calloc(s->n_doc + 1, sizeof *runs);
    struct st_ids *ids = calloc(s->n_doc + 1, sizeof *ids);
    int rc = runs && ids ? st_engine_new(s->model, &eo, &en, e) : st_fail(e, ST_MEMORY, "no memory for texts");
    if (!rc)
        rc = speak_all(en, s, runs, ids, e);
    if (en)
        st_engine_free(en); /* before runs: what still runs ends here and tells them */
    for (size_t d = 0; !rc && d < s->n_doc; d++) {
        for (size_t i = 0; i < ids[d].len; i++)
            st_ids_add(&t->ids, ids[d].p[i]);
        t->ids.failed |= ids[d].failed;
        rc = end_document(t, e);
    }
    for (size_t d = 0; ids && d < s->n_doc; d++)
        st_ids_free(&ids[d]);
    free(ids);
    free(runs);
    return rc;
}

int st_text_make(const struct st_text_speak *s, struct st_text_made *out, struct st_err *e)
{
    struct st_rng rng;
    int rc = 0;
    *out = (struct st_text_made){.cap_end = 0};
    if (s->model->weight_bytes <= ST_TEXT_SPEAK_BYTES)
        rc = speak(s, out, e);
    st_rng_seed(&rng, s->seed);
    for (size_t i = 0; !rc && i < s->n_record; i++)
        rc = add_letter(out, s, &rng, e);
    if (!rc && !out->view.n)
        rc = st_fail(e, ST_USAGE, "the model is too large to be asked for a text; want --text and --prior");
    finish(out);
    if (rc)
        st_text_free(out);
    return rc;
}

/* ---- how well a model predicts ---- */

static void on_row(void *arg, size_t pos, const float *row)
{
    struct run *r = arg;
    if (pos + 1 >= r->n)
        return;
    float max = row[0];
    for (uint32_t i = 1; i < r->n_vocab; i++)
        max = row[i] > max ? row[i] : max;
    double sum = exp((double)row[0] - (double)max);
    for (uint32_t i = 1; i < r->n_vocab; i++)
        sum += exp((double)row[i] - (double)max);
    r->nats += log(sum) + (double)max - (double)row[r->want[pos + 1]];
    r->n_token++;
}

int st_text_nats(const struct st_model *m, const struct st_texts_ids *t, const uint32_t *to, size_t max_token,
                 int n_threads, double *out, struct st_err *e)
{
    const struct st_engine_opts eo = {.n_threads = n_threads, .max_batch = 1, .deterministic = true};
    struct run r = {.n_vocab = m->config.n_vocab};
    struct st_ids ids = {0};
    struct st_engine *en;
    int rc = st_engine_new(m, &eo, &en, e);
    if (rc)
        return rc;
    for (size_t d = 0; !rc && d < t->n && r.n_token < max_token; d++) {
        size_t lo = d ? t->ends[d - 1] : 0, n = t->ends[d] - lo;
        if (n > st_engine_ctx(en))
            n = st_engine_ctx(en);
        if (n < 2)
            continue;
        ids.len = 0;
        for (size_t i = 0; i < n; i++)
            st_ids_add(&ids, to ? to[t->ids[lo + i]] : t->ids[lo + i]);
        if (ids.failed) {
            rc = st_fail(e, ST_MEMORY, "no memory for a document of %zu tokens", n);
            break;
        }
        r.want = ids.p;
        r.n = n;
        struct st_request_opts req = {.ids = ids.p,
                                      .n_ids = n - 1,
                                      .n_predict = 1,
                                      .ignore_eos = true,
                                      .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                      .on_prompt_logits = on_row};
        r.done = false;
        rc = submit(en, &req, &r, e);
        while (!rc && !r.done)
            st_engine_step(en);
        if (!rc && r.err.code) {
            *e = r.err;
            rc = e->code;
        }
    }
    *out = r.n_token ? r.nats / (double)r.n_token : NAN;
    st_ids_free(&ids);
    st_engine_free(en);
    return rc;
}

/* sotto eval: how well a model predicts a text.
 *
 * With --separator: the text is split there, documents are stripped of white space, empty ones dropped; each is BOS +
 * its tokens, cut to the context, and every token after BOS is predicted. Without: consecutive windows of the context,
 * BOS each. Without a BOS in the vocabulary the first token of a document or window is not predicted. Sums are in f64.
 * With --harden the model is as good as its changed logits; a token that is not among the K counts as one guessed
 * blindly, log(n_vocab). */
#include "base/log.h"
#include "cli/open.h"
#include "protect/sealed/harden.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct eval_opts {
    const char *text, *separator;
    uint32_t max_docs;
};

enum { KEY_TEXT = ST_KEY(0), KEY_SEPARATOR, KEY_MAX_DOCS };

static const struct argp_option options[] = {
    {"text", KEY_TEXT, "FILE", 0, "The text, UTF-8", 0},
    {"separator", KEY_SEPARATOR, "S", 0, "Documents are separated by S; default: windows of the context length", 0},
    {"max-docs", KEY_MAX_DOCS, "N", 0, "Only the first N documents or windows; default 0 = all", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct eval_opts *o = opts;
    switch (key) {
    case KEY_TEXT:
        o->text = arg;
        return 0;
    case KEY_SEPARATOR:
        o->separator = arg;
        return 0;
    default:
        return st_opt_u32("--max-docs", arg, 0, UINT32_MAX, &o->max_docs, e);
    }
}

struct eval {
    struct st_open *m;
    int64_t bos;
    uint32_t n_vocab, n_ctx, max_docs;
    int n_live;
    uint64_t n_docs, n_tokens, n_bytes;
    uint64_t n_outside; /* tokens that --harden topk=K took away */
    double nats;
    struct st_err err;
};

/* One document on its way through the engine. */
struct doc {
    struct eval *ev;
    size_t n;
    uint32_t ids[];
};

/* -log softmax(row)[id] */
static double nats_of(const float *row, uint32_t n, uint32_t id)
{
    float max = row[0];
    for (uint32_t i = 1; i < n; i++)
        max = row[i] > max ? row[i] : max;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)row[i] - (double)max);
    return log(sum) + (double)max - (double)row[id];
}

static void on_row(void *arg, size_t pos, const float *row)
{
    struct doc *d = arg;
    if (pos + 1 >= d->n)
        return;
    bool there = row[d->ids[pos + 1]] > -INFINITY;
    d->ev->nats += there ? nats_of(row, d->ev->n_vocab, d->ids[pos + 1]) : log(d->ev->n_vocab);
    d->ev->n_outside += !there;
    d->ev->n_tokens++;
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct doc *d = arg;
    (void)finish;
    (void)stop_id;
    d->ev->n_live--;
    if (e)
        d->ev->err = *e;
    free(d);
}

/* Submits BOS + ids; waits while the engine's batch is full. n_bytes: text bytes of the predicted tokens. */
static int submit(struct eval *ev, const uint32_t *ids, size_t n, size_t n_bytes, struct st_err *e)
{
    size_t lead = ev->bos >= 0;
    if (lead + n < 2)
        return 0;
    struct doc *d = malloc(sizeof *d + (lead + n) * sizeof *d->ids);
    if (!d)
        return st_fail(e, ST_MEMORY, "no memory for a document of %zu tokens", n);
    d->ev = ev;
    d->n = lead + n;
    d->ids[0] = (uint32_t)ev->bos;
    memcpy(d->ids + lead, ids, n * sizeof *ids);
    struct st_request *request;
    const struct st_request_opts req = {.ids = d->ids,
                                        .n_ids = d->n - 1, /* nothing is predicted from the last token */
                                        .n_predict = 1,
                                        .ignore_eos = true,
                                        .adapter = ev->m->adapter,
                                        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                        .on_end = on_end,
                                        .on_prompt_logits = on_row,
                                        .arg = d};
    while (ev->n_live >= 16)
        st_engine_step(ev->m->engine);
    if (ev->err.code || st_engine_submit(ev->m->engine, &req, &request, e)) {
        if (ev->err.code)
            *e = ev->err;
        free(d);
        return e->code;
    }
    ev->n_live++;
    ev->n_docs++;
    ev->n_bytes += n_bytes;
    return 0;
}

/* Bytes of text that ids stand for. */
static int text_bytes(const struct eval *ev, const uint32_t *ids, size_t n, size_t *out, struct st_err *e)
{
    struct st_buf text = {0};
    int rc = st_tokenizer_decode(ev->m->tokenizer, ids, n, false, &text, e);
    *out = text.len;
    st_buf_wipe(&text);
    return rc;
}

static int eval_document(struct eval *ev, const char *text, size_t len, struct st_err *e)
{
    struct st_ids ids = {0};
    const struct st_encode_opts eo = {0};
    size_t n_bytes = len;
    int rc = st_tokenizer_encode(ev->m->tokenizer, text, len, &eo, &ids, e);
    size_t room = ev->n_ctx - (ev->bos >= 0);
    if (!rc && ids.len > room) {
        ids.len = room;
        rc = text_bytes(ev, ids.p, ids.len, &n_bytes, e);
    }
    if (!rc)
        rc = submit(ev, ids.p, ids.len, n_bytes, e);
    st_ids_free(&ids);
    return rc;
}

static int eval_documents(struct eval *ev, const struct st_buf *text, const char *sep, struct st_err *e)
{
    static const char space[] = " \t\n\r\f\v";
    size_t sep_len = strlen(sep);
    const char *p = text->p, *end = text->p + text->len;
    struct st_progress bar;
    st_progress_start(&bar, "eval", "B", text->len);
    int rc = 0;
    while (!rc && p && (!ev->max_docs || ev->n_docs < ev->max_docs)) {
        const char *hit = memmem(p, (size_t)(end - p), sep, sep_len), *stop = hit ? hit : end;
        const char *a = p, *b = stop;
        while (a < b && memchr(space, *a, sizeof space - 1))
            a++;
        while (b > a && memchr(space, b[-1], sizeof space - 1))
            b--;
        if (b > a)
            rc = eval_document(ev, a, (size_t)(b - a), e);
        st_progress_update(&bar, (uint64_t)(stop - text->p));
        p = hit ? hit + sep_len : NULL;
    }
    st_progress_end(&bar);
    return rc;
}

static int eval_windows(struct eval *ev, const struct st_buf *text, struct st_err *e)
{
    struct st_ids ids = {0};
    const struct st_encode_opts eo = {0};
    struct st_progress bar;
    size_t step = ev->n_ctx - (ev->bos >= 0), n_bytes;
    int rc = st_tokenizer_encode(ev->m->tokenizer, text->p, text->len, &eo, &ids, e);
    st_progress_start(&bar, "eval", "tokens", ids.len);
    for (size_t i = 0; !rc && i < ids.len && (!ev->max_docs || ev->n_docs < ev->max_docs); i += step) {
        size_t n = ids.len - i < step ? ids.len - i : step;
        rc = text_bytes(ev, ids.p + i, n, &n_bytes, e);
        if (!rc)
            rc = submit(ev, ids.p + i, n, n_bytes, e);
        st_progress_update(&bar, i);
    }
    st_progress_end(&bar);
    st_ids_free(&ids);
    return rc;
}

/* What --harden costs beside the perplexity. */
static void put_harden(const struct st_cli *cli, const struct eval *ev, struct st_buf *b)
{
    struct st_harden_stats s;
    if (!ev->m->harden)
        return;
    st_harden_stats(ev->m->harden, &s);
    st_buf_addf(b, ",\"harden\":\"%s\",\"kl\":%.8f,\"top1_agreement\":%.6f,\"tokens_outside\":%llu", cli->harden, s.kl,
                (double)s.n_same / (double)s.n_row, (unsigned long long)ev->n_outside);
}

static void print(const struct st_cli *cli, const struct eval *ev)
{
    struct st_buf protection = {0};
    st_open_put_protection(ev->m, &protection);
    put_harden(cli, ev, &protection);
    double per_token = ev->nats / (double)ev->n_tokens, bits = ev->nats / M_LN2 / (double)ev->n_bytes;
    if (cli->json)
        printf("{\"nats_per_token\":%.8f,\"perplexity\":%.6f,\"bits_per_byte\":%.6f,\"tokens\":%llu,\"documents\":%llu,"
               "\"bytes\":%llu,\"context\":%u%s}\n",
               per_token, exp(per_token), bits, (unsigned long long)ev->n_tokens, (unsigned long long)ev->n_docs,
               (unsigned long long)ev->n_bytes, ev->n_ctx, protection.p ? protection.p : "");
    else
        printf("perplexity %.4f  (%.6f nats per token, %.4f bits per byte; %llu tokens in %llu pieces)\n",
               exp(per_token), per_token, bits, (unsigned long long)ev->n_tokens, (unsigned long long)ev->n_docs);
    st_buf_free(&protection);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct eval_opts *o = opts;
    struct st_open m = {0};
    struct st_buf text = {0};
    const struct st_engine_opts eo = {.max_batch = 16};
    int rc;
    if (!o->text || (o->separator && !*o->separator))
        return st_fail(e, ST_USAGE, o->text ? "--separator: want a text that is not empty" : "eval: want --text FILE");
    if ((rc = st_file_read(o->text, (size_t)1 << 31, &text, e)) != 0 ||
        (rc = st_open(cli, cli->args[0], ST_OPEN_TOKENIZER | ST_OPEN_MEASURE | ST_OPEN_HOLD, &eo, &m, e)) != 0 ||
        (rc = st_open_settle(&m, e)) != 0)
        goto out;
    struct eval ev = {.m = &m,
                      .bos = st_tokenizer_bos(m.tokenizer),
                      .n_vocab = m.model->config.n_vocab,
                      .n_ctx = st_engine_ctx(m.engine),
                      .max_docs = o->max_docs};
    if (text.len)
        rc = o->separator ? eval_documents(&ev, &text, o->separator, e) : eval_windows(&ev, &text, e);
    while (ev.n_live)
        st_engine_step(m.engine);
    if (!rc && ev.err.code) {
        *e = ev.err;
        rc = e->code;
    }
    if (!rc && !ev.n_tokens)
        rc = st_fail(e, ST_INPUT, "%s: no text to predict", o->text);
    if (!rc)
        print(cli, &ev);
out:
    st_buf_wipe(&text);
    st_open_close(&m);
    return rc;
}

const struct st_cmd st_cmd_eval = {
    .name = "eval",
    .summary = "Measure how well a model predicts a text",
    .args_doc = "MODEL",
    .min_args = 1,
    .max_args = 1,
    .doc =
        "Prints perplexity, nats per token and bits per byte of a text. With --separator each document is BOS + "
        "tokens, cut "
        "to the context; without, the text is read in windows of the context length, BOS each. With --harden: of the "
        "changed logits, and how far they are from the model's own (kl, top1_agreement, tokens_outside).",
    .examples = "  sotto eval models/demo --text book.txt --json\n"
                "  sotto eval stories260K.bin --text stories.txt --separator '<|endoftext|>'",
    .shared =
        ST_CLI_MODEL | ST_CLI_THREADS | ST_CLI_JSON | ST_CLI_MASKED | ST_CLI_SEALED | ST_CLI_UNLOCK | ST_CLI_ADAPTER,
    .options = options,
    .opts_size = sizeof(struct eval_opts),
    .defaults = NULL,
    .set = set,
    .run = run,
};

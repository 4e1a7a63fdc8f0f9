/* sotto logits: the raw logits after every position of a list of token ids, for comparing implementations. */
#include "cli/generate.h"
#include "cli/open.h"

#include <math.h>

struct logits_opts {
    const char *ids;
};

enum { KEY_IDS = ST_KEY(0) };

static const struct argp_option options[] = {
    {"ids", KEY_IDS, "LIST", 0, "Token ids: 1,2,3", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    (void)key;
    (void)e;
    ((struct logits_opts *)opts)->ids = arg;
    return 0;
}

struct printing {
    bool json, done;
    uint32_t n_vocab;
    struct st_err err;
};

static void on_row(void *arg, size_t pos, const float *row)
{
    struct printing *p = arg;
    if (!p->json) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < p->n_vocab; i++)
            if (row[i] > row[best])
                best = i;
        printf("%zu\t%u\t%.9g\n", pos, best, (double)row[best]);
        return;
    }
    fputs(pos ? ",\n[" : "[", stdout);
    for (uint32_t i = 0; i < p->n_vocab; i++)
        printf("%s%.9g", i ? "," : "", isfinite(row[i]) ? (double)row[i] : -9999.0);
    putchar(']');
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct printing *p = arg;
    (void)finish;
    (void)stop_id;
    p->done = true;
    if (e)
        p->err = *e;
}

static void print_end(const struct st_open *m)
{
    struct st_buf b = {0};
    st_open_put_protection(m, &b);
    printf("]%s}\n", b.p ? b.p : "");
    st_buf_free(&b);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct logits_opts *o = opts;
    struct st_open m = {0};
    struct st_ids ids = {0};
    struct st_request *request;
    const struct st_engine_opts eo = {.max_batch = 1};
    if (!o->ids)
        return st_fail(e, ST_USAGE, "logits: want --ids LIST");
    int rc;
    if ((rc = st_opt_ids("--ids", o->ids, &ids, e)) != 0 ||
        (rc = st_open(cli, cli->args[0], ST_OPEN_HOLD, &eo, &m, e)) != 0 || (rc = st_open_settle(&m, e)) != 0)
        goto out;
    struct printing p = {.json = cli->json, .n_vocab = m.model->config.n_vocab};
    const struct st_request_opts req = {.ids = ids.p,
                                        .n_ids = ids.len,
                                        .n_predict = 1,
                                        .ignore_eos = true,
                                        .adapter = m.adapter,
                                        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                        .on_end = on_end,
                                        .on_prompt_logits = on_row,
                                        .arg = &p};
    if ((rc = st_engine_submit(m.engine, &req, &request, e)) != 0)
        goto out;
    if (cli->json)
        printf("{\"n_tokens\":%zu,\"vocab_size\":%u,\"logits\":[", ids.len, p.n_vocab);
    while (!p.done)
        st_engine_step(m.engine);
    if ((rc = p.err.code) != 0)
        *e = p.err;
    else if (cli->json)
        print_end(&m);
out:
    st_ids_free(&ids);
    st_open_close(&m);
    return rc;
}

const struct st_cmd st_cmd_logits = {
    .name = "logits",
    .summary = "Print the logits of a list of token ids",
    .args_doc = "MODEL",
    .min_args = 1,
    .max_args = 1,
    .doc = "Runs the ids as one prompt and prints the logits after each position: with --json all of them, as "
           "{\"n_tokens\", "
           "\"vocab_size\", \"logits\": [[...]]}; otherwise position, most likely id and its logit. With --harden they "
           "are "
           "the changed ones; what it takes away reads -9999.",
    .examples = "  sotto logits models/demo --ids 1,2,3 --json",
    .shared =
        ST_CLI_MODEL | ST_CLI_THREADS | ST_CLI_JSON | ST_CLI_MASKED | ST_CLI_SEALED | ST_CLI_UNLOCK | ST_CLI_ADAPTER,
    .options = options,
    .opts_size = sizeof(struct logits_opts),
    .set = set,
    .run = run,
};

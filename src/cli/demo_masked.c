/* The demo of masked layers: a worker in a process of its own has the model, but sees masked rows only; the endpoint in
 * this process has the prompt, the cache and the reply. Under one-time pads the reply must be exactly that of the same
 * integers computed here; the default masks, which add a little noise, are shown beside it. */
#include "audit/text.h"
#include "base/file.h"
#include "base/hooks.h"
#include "cli/demo.h"
#include "cli/masked.h"
#include "cli/open.h"

#include <string.h>

struct masked {
    struct st_demo *d;
    char hints[128], address[128], record[128], asked[128];
    struct st_demo_reply otp, lwe, here;
    char lwe_scheme[48];
    double prepare_s;
};

int st_demo_worker(struct st_demo *d, const char *hints, const char *address, double *prepare_s, struct st_err *e)
{
    char threads[16], line[1024];
    double start = st_now();
    snprintf(threads, sizeof threads, "%d", d->cli->n_threads);
    const char *const prepare[] = {"prepare", d->model,  "--out",     hints, "--threads",
                                   threads,   "--quiet", "--config=", NULL};
    const char *const serve[] = {"--model",   d->model, "--hints", hints,       "--listen", address,
                                 "--threads", threads,  "--quiet", "--config=", "--json",   NULL};
    if (st_child_start("sotto-worker", prepare, &d->child, e) || st_child_wait(&d->child, 120, e))
        return e->code;
    *prepare_s = st_now() - start;
    if (st_demo_next(d, "starting an untrusted worker, which has the model", e) ||
        st_child_start("sotto-worker", serve, &d->child, e) || st_child_line(&d->child, 30, line, sizeof line, e))
        return e->code;
    return 0;
}

static struct st_cli options(const struct masked *m, const char *scheme)
{
    struct st_cli cli = *m->d->cli;
    cli.protect = "masked";
    cli.kv_dtype = ST_DTYPE_F32;
    cli.deterministic = true;
    cli.quiet = true;
    cli.masked = (struct st_cli_masked){.pad_memory = ST_DEMO_PADS, .offload_all = true, .allow_unlocked = true};
    if (scheme) {
        cli.masked.workers[0] = m->address;
        cli.masked.n_worker = 1;
        cli.masked.scheme = scheme;
    } else {
        cli.masked.reference = "masked-int";
    }
    return cli;
}

/* One chat through an endpoint whose engine masks its rows. */
static int chat(struct masked *m, const char *scheme, const char *record, struct st_demo_reply *out, struct st_err *e)
{
    struct st_cli cli = options(m, scheme);
    const struct st_engine_opts eo = {.max_batch = 1};
    struct st_open o = {0};
    struct st_masked_words w;
    cli.masked.record = record;
    if (st_open(&cli, m->d->model, ST_OPEN_TOKENIZER | ST_OPEN_CHAT, &eo, &o, e))
        return e->code;
    st_masked_words(o.masked, &w);
    snprintf(m->lwe_scheme, sizeof m->lwe_scheme, "%s", w.scheme);
    int rc = st_demo_talk_masked(m->d, &o, out, e);
    st_open_close(&o);
    return rc;
}

static void print_text(const struct masked *m, bool equal, bool lwe_equal)
{
    st_demo_print_columns(m->d, "WORKER", &m->otp.text);
    printf("protection: masked, scheme otp. The worker had the model, but saw rows that look random, one pad each.\n"
           "%s: %zu tokens through the worker, %zu from the same integers computed here.\n\n"
           "With the default scheme %s (no weights needed on this side; adds a little noise):\n%s\n(%s reply, "
           "%zu tokens)\n",
           equal ? "EQUAL" : "NOT EQUAL", m->otp.ids.len, m->here.ids.len, m->lwe_scheme,
           m->lwe.text.p ? m->lwe.text.p : "", lwe_equal ? "the same" : "another", m->lwe.ids.len);
}

static void print_json(const struct masked *m, bool equal, bool lwe_equal)
{
    const struct st_demo *d = m->d;
    struct st_buf b = {0};
    st_buf_addf(&b, "{\"reply_equal\":%s,\"protect\":\"masked\",\"scheme\":\"otp\",\"verified\":\"integrity\"",
                equal ? "true" : "false");
    st_demo_put_field(&b, "prompt", d->prompt, strlen(d->prompt));
    st_demo_put_field(&b, "sent", d->sent.p, d->sent.len);
    st_demo_put_field(&b, "received", d->received.p, d->received.len);
    st_demo_put_field(&b, "reply", m->otp.text.p, m->otp.text.len);
    st_demo_put_field(&b, "plain_reply", m->here.text.p, m->here.text.len);
    st_demo_put_field(&b, "audit", d->audit.p, d->audit.len);
    st_demo_put_field(&b, "lwe_scheme", m->lwe_scheme, strlen(m->lwe_scheme));
    st_demo_put_field(&b, "lwe_reply", m->lwe.text.p, m->lwe.text.len);
    st_buf_addf(&b,
                ",\"lwe_equal\":%s,\"reply_tokens\":%zu,\"prepare_ms\":%.1f,\"chat_ms\":%.1f,\"lwe_chat_ms\":%.1f,"
                "\"total_ms\":%.1f}",
                lwe_equal ? "true" : "false", m->otp.ids.len, m->prepare_s * 1e3, m->otp.seconds * 1e3,
                m->lwe.seconds * 1e3, (st_now() - d->start) * 1e3);
    puts(b.p ? b.p : "{}");
    st_buf_free(&b);
}

/* What an audit of the recording needs: a text whose ids are those of the prompt. Rows of the reply follow them and are
 * left out. */
static int write_asked(const struct masked *m, struct st_err *e)
{
    const struct st_demo *d = m->d;
    const struct st_chat_msg msg = {ST_CHAT_USER, d->prompt, strlen(d->prompt)};
    struct st_cli here = options(m, NULL);
    const struct st_engine_opts eo = {.max_batch = 1};
    struct st_open o = {0};
    struct st_ids ids = {0};
    struct st_text_made t = {0};
    if (st_open(&here, d->model, ST_OPEN_TOKENIZER | ST_OPEN_CHAT, &eo, &o, e))
        return e->code;
    int rc = st_chat_encode(o.chat, o.tokenizer, &msg, 1, &ids, e);
    if (!rc)
        rc =
            st_text_parse(d->prompt, strlen(d->prompt), "--prompt", o.model, o.tokenizer, o.model->config.n_ctx, &t, e);
    if (!rc && (st_texts_len(&t.view) != ids.len || memcmp(t.view.ids, ids.p, ids.len * sizeof *ids.p) != 0))
        rc = st_fail(
            e, ST_UNSUPPORTED,
            "--hold: the model's chat template adds tokens to the prompt, which a text for `sotto audit` cannot "
            "name; record `sotto complete --record` instead");
    if (!rc)
        rc = st_file_write(m->asked, d->prompt, strlen(d->prompt), 0600, true, e);
    st_text_free(&t);
    st_ids_free(&ids);
    st_open_close(&o);
    return rc;
}

static int run_all(struct masked *m, struct st_err *e)
{
    struct st_demo *d = m->d;
    const struct st_cli here = options(m, NULL);
    int rc;
    snprintf(m->record, sizeof m->record, "%s/record", d->tmp.path);
    snprintf(m->asked, sizeof m->asked, "%s/asked", d->tmp.path);
    snprintf(m->hints, sizeof m->hints, "%s/hints", d->tmp.path);
    snprintf(m->address, sizeof m->address, "unix:%s/worker", d->tmp.path);
    if ((rc = st_demo_next(d, "the owner of the weights prepares hints for the masks", e)) != 0 ||
        (rc = st_demo_worker(d, m->hints, m->address, &m->prepare_s, e)) != 0 ||
        (rc = st_demo_next(d, "one chat through the endpoint, rows hidden by one-time pads", e)) != 0 ||
        (rc = chat(m, "otp", m->record, &m->otp, e)) != 0 ||
        (rc = st_demo_next(d, "the same chat, rows hidden by LWE masks", e)) != 0 ||
        (rc = chat(m, "lwe", NULL, &m->lwe, e)) != 0 ||
        (rc = st_demo_next(d, "the same chat with the same integers, computed here", e)) != 0 ||
        (rc = st_demo_here(d, &here, &m->here, e)) != 0 || (rc = st_demo_read_record(d, m->record, e)) != 0 ||
        (d->hold && (rc = write_asked(m, e)) != 0) ||
        (rc = st_demo_audit(d, "worker", m->record, (const char *const[]){"--scheme", "otp", "--text", m->asked, NULL},
                            e)) != 0)
        return rc;
    bool equal = st_demo_reply_equal(&m->otp, &m->here), lwe_equal = st_demo_reply_equal(&m->lwe, &m->here);
    if (d->cli->json)
        print_json(m, equal, lwe_equal);
    else
        print_text(m, equal, lwe_equal);
    return equal ? 0
                 : st_fail(e, ST_VERIFY, "demo: the masked reply differs from the one of the integers computed here");
}

int st_demo_masked(struct st_demo *d, struct st_err *e)
{
    struct masked m = {.d = d};
    int rc = run_all(&m, e);
    st_demo_reply_wipe(&m.otp);
    st_demo_reply_wipe(&m.lwe);
    st_demo_reply_wipe(&m.here);
    return rc;
}

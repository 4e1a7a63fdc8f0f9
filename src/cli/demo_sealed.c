/* The demo of a sealed model: its owner seals it under the policy `paper`; a worker in a process of its own has the
 * file but no key, so that it can multiply what lies outside, with masked rows; the endpoint in this process has the
 * key. The reply must be exactly that of the model before it was sealed, with the integers of the layers outside
 * computed here; and a file of which one bit was changed must be refused. */
#include "base/hooks.h"
#include "cli/demo.h"
#include "cli/generate.h"
#include "cli/masked.h"
#include "cli/open.h"
#include "cli/sealed.h"
#include "crypto/digest.h"
#include "engine/record.h"
#include "protect/sealed/place.h"
#include "protect/sealed/writer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define POLICY "paper"
#define SHOWN 24 /* bytes of a sample */
/* The passphrase is random: guessing it is no matter of the cost of a guess. */
#define COST ((struct st_argon2){1, 1024, 1})

struct sealed {
    struct st_demo *d;
    char file[128], passphrase[128], address[128], record[128];
    struct st_seal_report report;
    struct st_demo_reply reply, here;
    char tensor[ST_PLAN_NAME]; /* whose bytes are shown */
    char plain_hex[2 * SHOWN + 1], sealed_hex[2 * SHOWN + 1];
    struct st_err refused; /* of the changed file */
    double seal_s;
};

/* ---- the owner ---- */

/* A passphrase in the 0600 file that --passphrase-file wants, and a publisher's key that nobody keeps. */
static int make_secrets(struct sealed *s, struct st_secret *passphrase, struct st_secret *seed, struct st_err *e)
{
    uint8_t random[32];
    char hex[2 * sizeof random + 1];
    if (st_secret_init(seed, 32, e) || st_random(seed->p, seed->len, e) || st_random(random, sizeof random, e) ||
        st_secret_init(passphrase, sizeof hex - 1, e))
        return e->code;
    st_hex(random, sizeof random, hex);
    memcpy(passphrase->p, hex, passphrase->len);
    return st_file_write(s->passphrase, hex, strlen(hex), 0600, false, e);
}

static int seal(struct sealed *s, struct st_err *e)
{
    static const char *const recipients[] = {"passphrase"};
    struct st_secret passphrase = {0}, seed = {0};
    double start = st_now();
    int rc = make_secrets(s, &passphrase, &seed, e);
    const struct st_seal_opts o = {.policy = POLICY,
                                   .recipients = recipients,
                                   .n_recipient = 1,
                                   .seed = &seed,
                                   .passphrase = &passphrase,
                                   .cost = &COST,
                                   .n_threads = s->d->cli->n_threads};
    if (!rc)
        rc = st_seal(s->d->model, s->file, &o, &s->report, e);
    s->seal_s = st_now() - start;
    st_secret_wipe(&passphrase);
    st_secret_wipe(&seed);
    return rc;
}

/* ---- the machine that is not the owner's ---- */

static int start_worker(struct sealed *s, struct st_err *e)
{
    struct st_demo *d = s->d;
    char threads[16], line[1024];
    snprintf(threads, sizeof threads, "%d", d->cli->n_threads);
    const char *const serve[] = {"--model", s->file,   "--listen",  s->address, "--threads",
                                 threads,   "--quiet", "--config=", "--json",   NULL};
    return st_child_start("sotto-worker", serve, &d->child, e) || st_child_line(&d->child, 30, line, sizeof line, e)
               ? e->code
               : 0;
}

static struct st_cli options(const struct sealed *s)
{
    struct st_cli cli = *s->d->cli;
    cli.kv_dtype = ST_DTYPE_F32;
    cli.deterministic = true;
    cli.quiet = true;
    return cli;
}

/* As `sotto serve FILE.sealed --passphrase-file P --worker A --scheme otp` opens it. */
static int open_sealed(struct sealed *s, struct st_open *o, struct st_err *e)
{
    struct st_cli cli = options(s);
    const struct st_engine_opts eo = {.max_batch = 1};
    cli.unlock = (struct st_cli_unlock){.passphrase_file = s->passphrase};
    cli.masked = (struct st_cli_masked){.workers = {s->address},
                                        .n_worker = 1,
                                        .scheme = "otp",
                                        .record = s->record,
                                        .pad_memory = ST_DEMO_PADS,
                                        .offload_all = true,
                                        .allow_unlocked = true};
    return st_open(&cli, s->file, ST_OPEN_TOKENIZER | ST_OPEN_CHAT, &eo, o, e);
}

static int chat(struct sealed *s, struct st_err *e)
{
    struct st_open o = {0};
    if (open_sealed(s, &o, e))
        return e->code;
    int rc = st_demo_talk_masked(s->d, &o, &s->reply, e);
    st_open_close(&o);
    return rc ? rc : st_demo_read_record(s->d, s->record, e);
}

/* ---- the same without sealing ---- */

/* The layers that the policy left outside take int8 matrices, and are placed there. */
static void take_outside(struct st_model *m, const struct st_model *int8, const struct st_container *c)
{
    st_sealed_place(&m->plan, c, false);
    for (int i = 0; i < m->plan.n_op; i++)
        if (m->plan.ops[i].place == ST_PLACE_UNTRUSTED)
            m->mats[m->plan.ops[i].weight] = int8->mats[m->plan.ops[i].weight];
}

/* The unsealed model, open as *o; its layers outside are computed as exact integers here. */
static int run_placed(struct sealed *s, struct st_open *o, const struct st_model *int8, struct st_err *e)
{
    struct st_served served;
    struct st_masked_reference *reference = NULL;
    if (st_served_init(&served, int8, false, e))
        return e->code;
    int rc = st_masked_reference_new(o->model, &served, &reference, e);
    if (!rc) {
        struct st_boundary b = {.hooks = st_masked_reference_hooks(reference),
                                .transport = st_masked_reference_transport(reference)};
        const struct st_engine_opts eo = {.n_threads = s->d->cli->n_threads,
                                          .isa = s->d->cli->isa,
                                          .kv_dtype = ST_DTYPE_F32,
                                          .max_batch = 1,
                                          .deterministic = true,
                                          .boundary = &b};
        st_engine_free(o->engine);
        o->engine = NULL;
        rc = st_engine_new(o->model, &eo, &o->engine, e);
        if (!rc)
            rc = st_demo_run(s->d, o, &s->here, e);
        st_engine_free(o->engine);
        o->engine = NULL;
    }
    st_masked_reference_free(reference);
    st_served_free(&served);
    return rc;
}

/* The first matrix inside: its first bytes in the model, and in the container. */
static int show_bytes(struct sealed *s, const struct st_model *plain, const struct st_container *c, struct st_err *e)
{
    for (int i = 0; i < plain->plan.n_weight; i++) {
        const struct st_plan_weight *w = &plain->plan.weights[i];
        const struct st_container_entry *n = st_container_find(c, w->name);
        if (!n || n->place != ST_CONTAINER_INSIDE || w->role != ST_ROLE_Q)
            continue;
        snprintf(s->tensor, sizeof s->tensor, "%s", w->name);
        st_hex(plain->mats[i].data, SHOWN, s->plain_hex);
        st_hex(st_container_segment(c, n, 0).p, SHOWN, s->sealed_hex);
        return 0;
    }
    return st_fail(e, ST_INTERNAL, "demo: nothing was sealed");
}

static int run_here(struct sealed *s, struct st_err *e)
{
    const struct st_cli cli = options(s);
    const struct st_engine_opts eo = {.max_batch = 1};
    const struct st_model_opts mo = {.dtype = ST_LOAD_INT8, .n_threads = cli.n_threads};
    struct st_container *c = NULL;
    struct st_model *int8 = NULL;
    struct st_open o = {0};
    int rc = st_container_open(s->file, &c, e);
    if (!rc)
        rc = st_open(&cli, s->d->model, ST_OPEN_TOKENIZER | ST_OPEN_CHAT, &eo, &o, e);
    if (!rc)
        rc = st_model_open(s->d->model, &mo, &int8, e);
    if (!rc)
        rc = show_bytes(s, o.model, c, e);
    if (!rc) {
        take_outside(o.model, int8, c);
        rc = run_placed(s, &o, int8, e);
    }
    st_open_close(&o);
    st_model_close(int8);
    if (c)
        st_container_close(c);
    return rc;
}

/* ---- a changed file ---- */

/* One bit of the last matrix inside, in its middle. */
static int change_file(const struct sealed *s, struct st_err *e)
{
    struct st_container *c;
    size_t behind = 0; /* bytes of the file from there on */
    if (st_container_open(s->file, &c, e))
        return e->code;
    for (size_t i = st_container_count(c); i-- > 0 && !e->code;) {
        const struct st_container_entry *n = st_container_at(c, i);
        for (uint32_t k = 0; k < n->n_segment; k++)
            behind += st_container_segment(c, n, k).len;
        if (n->place == ST_CONTAINER_INSIDE && n->tensor.n_dim == 2) {
            behind -= st_container_segment(c, n, 0).len / 2;
            break;
        }
    }
    st_container_close(c);
    FILE *f = fopen(s->file, "r+b");
    int byte = -1;
    bool done = f && !fseeko(f, -(off_t)behind, SEEK_END) && (byte = fgetc(f)) != EOF && !fseeko(f, -1, SEEK_CUR) &&
                fputc(byte ^ 1, f) != EOF;
    done = f && !fclose(f) && done;
    return done ? 0 : st_fail(e, ST_IO, "%s: cannot be changed", s->file);
}

/* The file must be refused now, and nothing else. */
static int try_changed(struct sealed *s, struct st_err *e)
{
    struct st_open o = {0};
    if (change_file(s, e))
        return e->code;
    (void)open_sealed(s, &o, &s->refused);
    st_open_close(&o);
    return 0;
}

/* ---- what is shown ---- */

static void print_text(const struct sealed *s, bool equal, bool refused)
{
    st_demo_print_columns(s->d, "WORKER", &s->reply.text);
    printf("%s\n  in the model  %s...\n  on disk       %s...\n\n", s->tensor, s->plain_hex, s->sealed_hex);
    printf("protection: sealed, policy " POLICY
           ", scheme otp. %zu of %zu tensors lie inside, encrypted; the worker has "
           "the file,\nbut no key: it multiplied masked rows with the matrices that were left outside.\n"
           "%s: %zu tokens of the sealed model, %zu of the unsealed one with the same integers.\n"
           "%s: %s\n",
           s->report.n_inside, s->report.n_tensor, equal ? "EQUAL" : "NOT EQUAL", s->reply.ids.len, s->here.ids.len,
           refused ? "REFUSED after one bit was changed" : "NOT REFUSED", s->refused.msg);
}

static void print_json(const struct sealed *s, bool equal, bool refused)
{
    const struct st_demo *d = s->d;
    struct st_buf b = {0};
    st_buf_addf(&b,
                "{\"reply_equal\":%s,\"protect\":\"sealed\",\"scheme\":\"otp\",\"verified\":\"integrity\",\"policy\":"
                "\"" POLICY "\",\"tampered_refused\":%s",
                equal ? "true" : "false", refused ? "true" : "false");
    st_demo_put_field(&b, "prompt", d->prompt, strlen(d->prompt));
    st_demo_put_field(&b, "sent", d->sent.p, d->sent.len);
    st_demo_put_field(&b, "received", d->received.p, d->received.len);
    st_demo_put_field(&b, "reply", s->reply.text.p, s->reply.text.len);
    st_demo_put_field(&b, "plain_reply", s->here.text.p, s->here.text.len);
    st_demo_put_field(&b, "tensor", s->tensor, strlen(s->tensor));
    st_demo_put_field(&b, "in_the_model", s->plain_hex, strlen(s->plain_hex));
    st_demo_put_field(&b, "on_disk", s->sealed_hex, strlen(s->sealed_hex));
    st_demo_put_field(&b, "audit", d->audit.p, d->audit.len);
    st_demo_put_field(&b, "refusal", s->refused.msg, strlen(s->refused.msg));
    st_buf_addf(&b,
                ",\"tensors\":%zu,\"tensors_inside\":%zu,\"reply_tokens\":%zu,\"seal_ms\":%.1f,\"chat_ms\":%.1f,"
                "\"total_ms\":%.1f}",
                s->report.n_tensor, s->report.n_inside, s->reply.ids.len, s->seal_s * 1e3, s->reply.seconds * 1e3,
                (st_now() - d->start) * 1e3);
    puts(b.p ? b.p : "{}");
    st_buf_free(&b);
}

static int run_all(struct sealed *s, struct st_err *e)
{
    struct st_demo *d = s->d;
    int rc;
    snprintf(s->file, sizeof s->file, "%s/model.sealed", d->tmp.path);
    snprintf(s->passphrase, sizeof s->passphrase, "%s/passphrase", d->tmp.path);
    snprintf(s->address, sizeof s->address, "unix:%s/worker", d->tmp.path);
    snprintf(s->record, sizeof s->record, "%s/record", d->tmp.path);
    if ((rc = st_demo_next(d, "the owner seals the model: all inside but attention output and head", e)) != 0 ||
        (rc = seal(s, e)) != 0 ||
        (rc = st_demo_next(d, "starting an untrusted worker, which has the sealed file and no key", e)) != 0 ||
        (rc = start_worker(s, e)) != 0 ||
        (rc = st_demo_next(d, "the same chat with the model before it was sealed", e)) != 0 ||
        (rc = run_here(s, e)) != 0 ||
        (rc = st_demo_next(d, "one chat through the endpoint, which has the key", e)) != 0 || (rc = chat(s, e)) != 0 ||
        (rc = st_demo_next(d, "one bit of the file is changed", e)) != 0 || (rc = try_changed(s, e)) != 0 ||
        (rc = change_file(s, e)) != 0 || /* back */
        (rc = st_demo_audit(d, "device", s->file, NULL, e)) != 0)
        return rc;
    bool equal = st_demo_reply_equal(&s->reply, &s->here), refused = s->refused.code == ST_VERIFY;
    if (d->cli->json)
        print_json(s, equal, refused);
    else
        print_text(s, equal, refused);
    if (!equal)
        return st_fail(e, ST_VERIFY, "demo: the reply of the sealed model differs from the one before it was sealed");
    return refused ? 0 : st_fail(e, ST_VERIFY, "demo: a changed file was not refused");
}

int st_demo_sealed(struct st_demo *d, struct st_err *e)
{
    struct sealed s = {.d = d};
    int rc = run_all(&s, e);
    st_demo_reply_wipe(&s.reply);
    st_demo_reply_wipe(&s.here);
    return rc;
}

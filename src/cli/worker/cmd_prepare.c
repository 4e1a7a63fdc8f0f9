/* sotto-worker prepare MODEL: what the owner of the weights makes once per model (service/prepare.h). */
#include "base/mem.h"
#include "cli/cli.h"
#include "crypto/digest.h"
#include "service/prepare.h"
#include "text/json.h"

#include <inttypes.h>
#include <string.h>

struct prepare_opts {
    struct st_prepare_opts o;
};

enum { OPT_OUT = ST_KEY(1), OPT_PARAMS, OPT_KIT, OPT_EMBEDDING };

static const struct argp_option options[] = {
    {"out", OPT_OUT, "FILE", 0, "Write hints there; default: beside the model, MODEL.hints, unless --kit is given", 0},
    {"params", OPT_PARAMS, "NAME", 0, "Parameter set of the masks; default: lwe-1280-12.8", 0},
    {"kit", OPT_KIT, "DIR", 0, "Write the trusted side's part of the model there: all but the matrices served", 0},
    {"embedding", OPT_EMBEDDING, NULL, 0, "The embedding is served, too: hints for it, and no table in the kit", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct st_prepare_opts *o = &((struct prepare_opts *)opts)->o;
    (void)e;
    switch (key) {
    case OPT_OUT:
        o->hints = arg;
        return 0;
    case OPT_PARAMS:
        o->params = arg;
        return 0;
    case OPT_KIT:
        o->kit = arg;
        return 0;
    default:
        o->embedding = true;
        return 0;
    }
}

static void print_result(const struct st_cli *cli, const struct st_prepare_opts *o, const struct st_prepare_result *r)
{
    char size[ST_MEM_TEXT], kit[65];
    st_hex(r->kit_digest, sizeof r->kit_digest, kit);
    if (cli->json) {
        struct st_buf b = {0};
        st_buf_add_str(&b, "{\"hints\":");
        st_json_quote(&b, o->hints ? o->hints : "", o->hints ? strlen(o->hints) : 0);
        st_buf_add_str(&b, ",\"kit\":");
        st_json_quote(&b, o->kit ? o->kit : "", o->kit ? strlen(o->kit) : 0);
        st_buf_add_str(&b, ",\"digest\":\"");
        for (int i = 0; i < 32; i++)
            st_buf_addf(&b, "%02x", r->digest[i]);
        st_buf_add_str(&b, "\",\"kit_digest\":\"");
        if (o->kit)
            st_buf_add_str(&b, kit);
        st_buf_addf(
            &b,
            "\",\"params\":\"%s\",\"bits_classical\":%d,\"bits_quantum\":%d,\"note\":\"%s\",\"matrices\":%" PRIu32
            ",\"hint_bytes\":%" PRIu64 ",\"seconds\":%.3f}",
            r->params, r->bits_classical, r->bits_quantum, r->note, r->n_matrix, r->hint_bytes, r->seconds);
        puts(b.failed ? "{}" : b.p);
        st_buf_free(&b);
    } else if (!cli->quiet) {
        if (o->hints)
            printf("%s: hints of %" PRIu32 " matrices, %s, made in %.1f s\n  parameter set %s: %d bits classical, %d "
                   "quantum (core-SVP)%s%s\n  whoever has these hints can compute the weights from them\n",
                   o->hints, r->n_matrix, st_mem_text(r->hint_bytes, size), r->seconds, r->params, r->bits_classical,
                   r->bits_quantum, *r->note ? ", " : "", r->note);
        if (o->kit)
            printf("%s: the trusted side's part of the model\n  kit_digest %s (\"engine\" in the policy of "
                   "--client-policy, where weights are private)\n",
                   o->kit, kit);
    }
}

/* "models/demo/" -> "models/demo.hints" */
static int default_hints(const char *model, char *out, size_t cap, struct st_err *e)
{
    size_t n = strlen(model);
    while (n > 1 && model[n - 1] == '/')
        n--;
    if ((size_t)snprintf(out, cap, "%.*s.hints", (int)n, model) >= cap)
        return st_fail(e, ST_USAGE, "%s: path is too long", model);
    return 0;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    struct st_prepare_opts *o = &((struct prepare_opts *)opts)->o;
    struct st_prepare_result r = {0};
    char hints[ST_PATH_MAX];
    o->model = cli->args[0];
    o->n_threads = cli->n_threads;
    o->progress = !cli->quiet;
    if (!o->hints && !o->kit) {
        if (default_hints(o->model, hints, sizeof hints, e))
            return e->code;
        o->hints = hints;
    }
    if (st_prepare_run(o, &r, e))
        return e->code;
    print_result(cli, o, &r);
    return 0;
}

const struct st_cmd st_cmd_worker_prepare = {
    .name = "prepare",
    .summary = "Make the hints that masks need, and the trusted side's part of a model",
    .args_doc = "MODEL",
    .min_args = 1,
    .max_args = 1,
    .doc = "Made once by the owner of the weights: the hints that the scheme lwe needs, which a worker hands out "
           "(--hints) or which are given to the trusted side as a file; and with --kit the files that a trusted side "
           "needs to run the model without having its matrices. Hints reveal the weights to whoever gets them. Nothing "
           "is overwritten.",
    .examples = "  sotto-worker prepare models/demo --out demo.hints\n"
                "  sotto-worker prepare models/demo --out demo.hints --kit demo.kit",
    .shared = ST_CLI_JSON | ST_CLI_THREADS,
    .options = options,
    .opts_size = sizeof(struct prepare_opts),
    .set = set,
    .run = run,
};

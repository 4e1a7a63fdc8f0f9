#include "cli/open.h"
#include "base/hooks.h"
#include "base/log.h"
#include "cli/adapters.h"
#include "cli/masked.h"
#include "model/checkpoint.h"
#include "model/container.h"
#include "model/locate.h"
#include "model/texts.h"
#include "protect/sealed/harden.h"
#include "protect/sealed/place.h"

#include <stdlib.h>
#include <string.h>

/* The cache of Hugging Face's tools; first of its own variables, then the default. */
static void cache_dir(char *out, size_t cap)
{
    const char *hub = getenv("HF_HUB_CACHE"), *hf = getenv("HF_HOME"), *xdg = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME");
    if (hub && *hub)
        snprintf(out, cap, "%s", hub);
    else if (hf && *hf)
        snprintf(out, cap, "%s/hub", hf);
    else if (xdg && *xdg)
        snprintf(out, cap, "%s/huggingface/hub", xdg);
    else
        snprintf(out, cap, "%s/.cache/huggingface/hub", home ? home : "");
}

/* ORG/NAME, each of letters, digits and -_. and not beginning with a dot: nothing that could leave the cache. */
static bool is_hub_name(const char *s)
{
    static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t org = strspn(s, ok);
    if (!org || s[org] != '/' || s[0] == '.' || s[org + 1] == '.')
        return false;
    size_t name = strspn(s + org + 1, ok);
    return name && !s[org + 1 + name];
}

int st_open_model_path(const char *arg, char out[ST_PATH_MAX], struct st_err *e)
{
    char cache[ST_PATH_MAX / 4], repo[ST_PATH_MAX / 2], path[ST_PATH_MAX];
    struct st_buf ref = {0};
    if (strlen(arg) >= ST_PATH_MAX)
        return st_fail(e, ST_USAGE, "MODEL: the path is longer than %d bytes", ST_PATH_MAX);
    if (st_path_exists(arg)) {
        strcpy(out, arg);
        return 0;
    }
    if (!is_hub_name(arg) || strlen(arg) > 200)
        return st_fail(e, ST_IO, "%s: no such file or directory", arg);
    cache_dir(cache, sizeof cache);
    int org = (int)strcspn(arg, "/");
    snprintf(repo, sizeof repo, "%s/models--%.*s--%s", cache, org, arg, arg + org + 1);
    snprintf(path, sizeof path, "%s/refs/main", repo);
    if (!st_path_exists(path) || st_file_read(path, 256, &ref, e) || !ref.p) {
        st_buf_free(&ref);
        return st_fail(e, ST_IO, "%s: neither a path nor a model in the Hugging Face cache (%s)", arg, cache);
    }
    ref.p[strspn(ref.p, "0123456789abcdef")] = 0;
    snprintf(out, ST_PATH_MAX, "%s/snapshots/%.64s", repo, ref.p);
    st_buf_free(&ref);
    if (!st_path_is_dir(out))
        return st_fail(e, ST_IO, "%s: the Hugging Face cache has no snapshot %s", arg, out);
    return 0;
}

int st_open_tokenizer_path(const char *model_path, const char *given, char out[ST_PATH_MAX], struct st_err *e)
{
    return given ? st_open_model_path(given, out, e) : st_locate_tokenizer(model_path, out, e);
}

int st_open_config(const char *path, struct st_config *out, struct st_err *e)
{
    struct st_ckpt *c;
    if (st_path_is_dir(path) || st_container_is(path))
        return st_config_read(path, out, e);
    if (st_ckpt_open_llama2c(path, &c, out, e))
        return e->code;
    st_ckpt_close(c);
    return 0;
}

int st_open_chat(const struct st_cli *cli, const char *model_path, const struct st_tokenizer *t,
                 const struct st_chat_template **out, struct st_err *e)
{
    if (cli->chat_template)
        return st_chat_find(cli->chat_template, out, e);
    return st_chat_detect(model_path, t, out, e);
}

int st_open_sampling(const struct st_cli *cli, float default_temp, struct st_sampling *out, struct st_err *e)
{
    *out = (struct st_sampling){.temperature = cli->temp_given ? cli->temp : default_temp,
                                .top_k = cli->top_k,
                                .top_p = cli->top_p,
                                .min_p = cli->min_p,
                                .repetition_penalty = cli->repetition_penalty,
                                .seed = cli->seed,
                                .n_logprobs = -1};
    return cli->seed_given ? 0 : st_random(&out->seed, sizeof out->seed, e);
}

/* What the planner chose; and what weakens the protection, which every command says, quiet or not. */
static void tell(const struct st_open *o)
{
    struct st_masked_words w;
    const char *line = o->masked ? st_masked_choice(o->masked) : "";
    for (size_t n; (n = strcspn(line, "\n")); line += n + (line[n] == '\n'))
        st_log(ST_LOG_INFO, "%.*s", (int)n, line);
    st_open_words(o, &w);
    if (w.warning)
        fprintf(stderr, "warning: %s\n", w.warning);
}

/* Options of a protection that the model does not have. */
static int check_options(const struct st_cli *cli, bool masked, bool sealed, bool adapter, struct st_err *e)
{
    if (sealed)
        return 0;
    if (cli->sealed.memory && adapter)
        return st_fail(e, ST_USAGE, "--enclave-memory: only with a sealed model; adapters stay in memory");
    if (adapter)
        return 0;
    if (st_sealed_unwanted(cli, e))
        return e->code;
    /* A model that is not sealed has taken the place of one that is, or the option is a mistake. */
    if (cli->unlock.passphrase_file || cli->unlock.passphrase || (cli->unlock.tcti && !cli->masked.private_weights))
        return st_fail(e, ST_USAGE, "--%s: only with a sealed model",
                       cli->unlock.passphrase_file ? "passphrase-file"
                       : cli->unlock.passphrase    ? "passphrase"
                                                   : "tcti");
    if (cli->masked.allow_unlocked && !masked)
        return st_fail(e, ST_USAGE, "--allow-unlocked: only with --protect masked or a sealed model");
    return 0;
}

/* With --harden: what every row of logits passes. The noise of a sealed model follows from its content key, so that
 * asking again tells nothing new. */
static int open_harden(const struct st_cli *cli, unsigned what, struct st_engine_opts *eo, struct st_open *out,
                       struct st_err *e)
{
    struct st_harden_opts o;
    uint8_t key[32] = {0};
    const struct st_vault *v = out->sealed.file.vault;
    if (!cli->harden)
        return 0;
    if (st_harden_parse(cli->harden, &o, e) || (v && st_vault_derive(v, ST_HARDEN_INFO, key, e)))
        return e->code;
    o.measure = what & ST_OPEN_MEASURE;
    int rc = st_harden_new(&o, v ? key : NULL, out->model->config.n_vocab, &out->harden, e);
    explicit_bzero(key, sizeof key);
    if (!rc)
        eo->filter = st_harden_filter(out->harden);
    out->hardened = cli->harden;
    return rc;
}

/* What is sealed, and adapters. Keys come in, then files are closed off: what opens a key may need a TPM, a service, a
 * terminal. */
static int open_sealed(const struct st_cli *cli, const char *path, unsigned what, struct st_adapters *adapters,
                       struct st_open *out, struct st_err *e)
{
    const char *paths[ST_ADAPTERS_MAX + 1] = {path};
    const bool sealed = st_container_is(path);
    if (cli->n_adapter > 1 && !(what & ST_OPEN_ADAPTERS))
        return st_fail(e, ST_USAGE, "--adapter: %s applies one; several are for sotto serve", cli->cmd->name);
    out->sealed_adapter = st_adapters_sealed(cli);
    if ((sealed || out->sealed_adapter) && st_hold_begin(&out->hold, e))
        return e->code;
    if (sealed && st_sealed_unlock(cli, path, ST_CONTAINER_MODEL, &out->sealed.file, e))
        return e->code;
    if (st_adapters_open(cli, adapters, e))
        return e->code;
    out->pinned_adapter = out->sealed_adapter;
    for (uint32_t i = 0; i < adapters->n; i++) {
        paths[i + 1] = adapters->paths[i];
        if (adapters->files[i].container && !out->sealed_adapter)
            return st_fail(e, ST_POLICY, "%s: was sealed only after this process had looked at it", paths[i + 1]);
        if (adapters->files[i].container && !adapters->files[i].pinned)
            out->pinned_adapter = false;
    }
    bool hold = (sealed || out->sealed_adapter) && (what & ST_OPEN_HOLD);
    return hold ? st_hold_files(&out->hold, cli, paths, adapters->n + 1, e) : 0;
}

/* Attention of a sealed model leaves only where its owner lets it. */
static int place_attention(const char *path, struct st_open *o, struct st_err *e)
{
    struct st_container_about about;
    st_container_about(o->sealed.file.container, &about);
    if (strcmp(about.policy, ST_PLACEMENT_ATTENTION) != 0)
        return st_fail(e, ST_POLICY,
                       "--attention outside-breakable: %s was sealed with attention inside (policy %s): its owner does "
                       "not let it leave",
                       path, about.policy);
    return st_masked_place_attention(&o->model->plan, e);
}

static int open_engine(const struct st_cli *cli, const char *path, unsigned what, const struct st_engine_opts *more,
                       const struct st_adapters *adapters, struct st_open *out, struct st_err *e)
{
    static const enum st_load_dtype load[] = {ST_LOAD_KEEP, ST_LOAD_F32, ST_LOAD_BF16, ST_LOAD_INT8};
    struct st_model_opts mo = {.dtype = load[cli->dtype], .n_threads = cli->n_threads, .progress = !cli->quiet};
    struct st_engine_opts eo = more ? *more : (struct st_engine_opts){0};
    double start = st_now();
    const bool sealed = out->sealed.file.container != NULL;
    bool masked;
    if (st_masked_wanted(cli, sealed, &masked, e) || check_options(cli, masked, sealed, out->sealed_adapter, e) ||
        (masked && st_masked_model_opts(cli, path, sealed, &mo, e)))
        return e->code;
    mo.adapters = (const struct st_adapter *const *)adapters->list;
    mo.n_adapter = adapters->n;
    mo.allow_unlocked = cli->masked.allow_unlocked;
    mo.source = sealed ? st_vault_source(out->sealed.file.vault) : NULL;
    mo.only_outside = sealed && masked;
    if (st_model_open(path, &mo, &out->model, e))
        return e->code;
    out->adapter = adapters->n && !(what & ST_OPEN_ADAPTERS) ? 1 : 0;
    if (sealed && masked)
        st_sealed_place(&out->model->plan, out->sealed.file.container, cli->masked.experts_all);
    if (sealed && masked && cli->masked.attention_outside && place_attention(path, out, e))
        return e->code;
    if (sealed && st_sealed_hold(cli, &out->sealed, out->model, &eo, e))
        return e->code;
    if (open_harden(cli, what, &eo, out, e) ||
        (masked && st_masked_open(cli, path, sealed, out->model, &eo, &out->masked, e)))
        return e->code;
    eo.n_threads = cli->n_threads;
    eo.isa = cli->isa;
    eo.deterministic = cli->deterministic;
    if (out->sealed_adapter) {
        eo.secret = true;
        eo.allow_unlocked = cli->masked.allow_unlocked;
    }
    if (cli->n_ctx)
        eo.n_ctx = cli->n_ctx;
    bool is_f32 = out->model->config.dtype == ST_DTYPE_F32 || cli->dtype == ST_CLI_DTYPE_F32;
    eo.kv_dtype = cli->kv_dtype >= 0 ? (enum st_dtype)cli->kv_dtype : is_f32 ? ST_DTYPE_F32 : ST_DTYPE_BF16;
    if (st_engine_new(out->model, &eo, &out->engine, e))
        return e->code;
    out->load_s = st_now() - start;
    if (!(what & ST_OPEN_WEAK))
        tell(out);
    return 0;
}

/* Of the container that is open, not of what may have taken its path meanwhile. */
static int open_texts(const struct st_cli *cli, const char *path, unsigned what, struct st_open *out, struct st_err *e)
{
    char given[ST_PATH_MAX];
    struct st_texts t;
    int rc = st_texts_open(path, out->sealed.file.container, &t, e);
    if (!rc && (cli->tokenizer || (!t.container && !st_path_is_dir(path)))) {
        rc = st_open_tokenizer_path(path, cli->tokenizer, given, e);
        if (!rc)
            rc = st_tokenizer_open(given, &out->tokenizer, e);
    } else if (!rc)
        rc = st_tokenizer_open_in(&t, &out->tokenizer, e);
    if (!rc && (what & ST_OPEN_CHAT))
        rc = cli->chat_template ? st_chat_find(cli->chat_template, &out->chat, e)
                                : st_chat_detect_in(&t, out->tokenizer, &out->chat, e);
    st_texts_close(&t);
    return rc;
}

int st_open(const struct st_cli *cli, const char *model, unsigned what, const struct st_engine_opts *more,
            struct st_open *out, struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_adapters adapters = {0};
    *out = (struct st_open){0};
    int rc = st_open_model_path(model, path, e);
    if (!rc)
        rc = open_sealed(cli, path, what, &adapters, out, e);
    if (!rc)
        rc = open_engine(cli, path, what, more, &adapters, out, e);
    if (!rc && (what & (ST_OPEN_TOKENIZER | ST_OPEN_CHAT)))
        rc = open_texts(cli, path, what, out, e);
    st_adapters_close(&adapters);
    if (rc)
        st_open_close(out);
    return rc;
}

void st_open_close(struct st_open *o)
{
    if (o->engine)
        st_engine_free(o->engine);
    if (o->harden)
        st_harden_free(o->harden);
    if (o->tokenizer)
        st_tokenizer_free(o->tokenizer);
    if (o->masked)
        st_masked_close(o->masked);
    if (o->sealed.store)
        st_sealed_store_free(o->sealed.store);
    o->sealed.store = NULL;
    if (o->model)
        st_model_close(o->model);
    st_sealed_close(&o->sealed);
    *o = (struct st_open){0};
}

int st_open_settle(struct st_open *o, struct st_err *e)
{
    return st_hold_calls(&o->hold, e);
}

void st_open_words(const struct st_open *o, struct st_masked_words *out)
{
    *out = (struct st_masked_words){.protection = "none", .scheme = "none", .verified = "no"};
    if (o->masked)
        st_masked_words(o->masked, out);
    const bool sealed = o->sealed.file.container != NULL;
    if (!sealed && !o->sealed_adapter)
        return;
    out->protection = "sealed";
    if (!o->masked)
        out->verified =
            (!sealed || o->sealed.file.pinned) && (!o->sealed_adapter || o->pinned_adapter) ? "publisher" : "no";
    if (!out->warning)
        out->warning = st_hold_warning(&o->hold);
    if (!out->warning)
        out->warning = st_sealed_warning(o->hold.host.swaps != 0);
}

void st_open_put_protection(const struct st_open *o, struct st_buf *b)
{
    struct st_masked_words w;
    if (!o->masked && !o->sealed.file.container && !o->sealed_adapter)
        return;
    st_open_words(o, &w);
    st_buf_addf(b, ",\"protection\":\"%s\",\"scheme\":\"%s\",\"verified\":\"%s\"", w.protection, w.scheme, w.verified);
}

void st_open_put_details(const struct st_open *o, bool json, struct st_buf *b)
{
    char sandbox[128];
    if (o->hardened)
        st_buf_addf(b, json ? ",\"harden\":\"%s\"" : "logits: hardened, %s\n", o->hardened);
    for (uint32_t i = 0; !json && i < o->model->n_adapter; i++) /* as JSON, /v1/models has them */
        st_buf_addf(b, "%s%s%s", i ? ", " : "adapters: ", o->model->adapters[i],
                    i + 1 < o->model->n_adapter ? "" : "\n");
    if (!o->sealed.file.container && !o->sealed_adapter)
        return;
    st_hold_text(&o->hold, sandbox);
    if (!json) {
        st_sealed_text(&o->sealed, b);
        st_buf_addf(b, "sandbox: %s\nhost: %s\n", sandbox, st_host_case(&o->hold.host));
        return;
    }
    st_buf_add_str(b, ",\"sealed\":{");
    st_sealed_json(&o->sealed, b);
    st_buf_addf(b, "\"sandbox\":\"%s\",\"host\":", sandbox);
    st_host_json(&o->hold.host, b);
    st_buf_add_str(b, "}");
}

/* The frame of the programs `sotto` and `sotto-worker`. A subcommand is one file cmd_NAME.c that exports one `const
 * struct st_cmd` and one row in commands.def. It lists its options and sets them one by one; where a value came from it
 * never knows:
 *
 *   command line  >  environment SOTTO_<FLAG>  >  config file `flag = value` under [subcommand]
 *
 * The frame (options.c, config.c) turns the last two into options that stand before those of the command line.
 * Only the frame prints errors (`program: message`, one line on standard error) and sets the exit status (base/err.h).
 */
#ifndef ST_CLI_CLI_H
#define ST_CLI_CLI_H

#include "base/buf.h"
#include "base/file.h"
#include "cli/evidence.h"
#include "tensor/tensor.h"

#include <argp.h>
#include <stdio.h>

/* Options that several commands share; a command names those it has. --quiet, --verbose and --config are in all. */
enum {
    ST_CLI_JSON = 1,    /* --json */
    ST_CLI_THREADS = 2, /* --threads, --cpu */
    ST_CLI_TOKENIZER = 4,
    ST_CLI_CHAT = 8,       /* --chat-template */
    ST_CLI_SAMPLE = 16,    /* --temp --top-k --top-p --min-p --repetition-penalty --seed */
    ST_CLI_LISTEN = 32,    /* --host --port --api-key-file --tls-cert --tls-key --allow-host --max-... --grace */
    ST_CLI_UNLOCK = 64,    /* --passphrase-file --passphrase --tcti */
    ST_CLI_ENGINE = 128,   /* --dtype --kv-dtype --ctx --deterministic --harden */
    ST_CLI_MASKED = 256,   /* --protect, --worker and what belongs to it (cli/masked.h) */
    ST_CLI_PORT = 512,     /* of ST_CLI_LISTEN: --host --port --tls-cert --tls-key --max-conn --grace */
    ST_CLI_SEALED = 1024,  /* of a MODEL that is sealed (cli/sealed.h); what opens it is ST_CLI_UNLOCK */
    ST_CLI_ADAPTER = 2048, /* --adapter */
    ST_CLI_MODEL = ST_CLI_TOKENIZER | ST_CLI_ENGINE,
};

enum st_cli_dtype { ST_CLI_DTYPE_KEEP, ST_CLI_DTYPE_F32, ST_CLI_DTYPE_BF16, ST_CLI_DTYPE_INT8 };

/* Where a server listens and what it allows; zeros leave the choice to the server (service/server.h). */
#define ST_CLI_MAX_HOSTS 16
struct st_cli_listen {
    const char *host, *api_key_file, *tls_cert, *tls_key;
    int port; /* -1 = the command's default, 0 = chosen by the system */
    const char *hosts[ST_CLI_MAX_HOSTS];
    size_t n_host;
    uint32_t max_body, max_conn, max_client;
    double grace_s;
};

/* What opens a wrapped key file (cli/key_open.h), or a sealed model. */
struct st_cli_unlock {
    const char *passphrase_file, *tcti;
    bool passphrase; /* ask for it */
};

/* How linear layers are outsourced (cli/masked.h). Zeros and NULL leave the choice to who uses it. */
#define ST_CLI_MAX_WORKERS 16
struct st_cli_masked {
    const char *workers[ST_CLI_MAX_WORKERS];
    int n_worker;
    const char *worker_ca, *scheme, *params, *hints, *record, *reference;
    const char *worker_policy, *preparer, *preparer_policy; /* cli/attested.h */
    double timeout_s;
    uint32_t rank, pad_threads, keep_rows;
    uint64_t pad_memory;
    bool no_integrity, offload_all, embedding_remote, experts_all, allow_unlocked, private_weights, show_egress;
    bool attention_outside; /* breakable */
    const char *first;      /* the first of these options that was given, for errors */
};

/* How a sealed model is opened and held (cli/sealed.h). */
struct st_cli_sealed {
    const char *publisher; /* 64 hexadecimal digits, or a file of them; NULL = any */
    const char *hpke_key, *release, *release_ca;
    struct st_cli_evidence evidence; /* for --release; and of a kit for --private-weights */
    uint64_t memory;                 /* --enclave-memory; 0 = no budget */
    uint64_t min_version;
    bool no_sandbox;
    const char *first, *first_evidence; /* the first of these options that was given, for errors */
};

#define ST_CLI_MAX_ADAPTERS 64

/* What the frame has read before a command runs. Strings live as long as the process. */
struct st_cli {
    const struct st_cmd *cmd;
    char **args; /* positional arguments */
    int n_args;
    bool json, quiet, verbose;
    int n_threads;                         /* 0 = all */
    const char *isa;                       /* --cpu; NULL = best */
    const char *tokenizer, *chat_template; /* NULL = from the checkpoint */
    enum st_cli_dtype dtype;
    int kv_dtype;   /* enum st_dtype, or -1 = as the model */
    uint32_t n_ctx; /* 0 = the model's, capped at 4096 */
    bool deterministic;
    const char *adapters[ST_CLI_MAX_ADAPTERS]; /* --adapter as given (cli/adapters.h) */
    int n_adapter;
    const char *harden; /* as protect/sealed/harden.h reads it; NULL = logits as they are */
    float temp, top_p, min_p, repetition_penalty;
    bool temp_given;
    uint32_t top_k;
    uint64_t seed;
    bool seed_given;
    struct st_cli_listen listen;
    struct st_cli_unlock unlock;
    const char *protect; /* NULL = the command's default */
    struct st_cli_masked masked;
    struct st_cli_sealed sealed;
};

struct st_cmd {
    const char *name;
    const char *summary;  /* one line, no full stop */
    const char *args_doc; /* "MODEL", "new FILE"; NULL = none */
    int min_args, max_args;
    const char *doc;                   /* a paragraph */
    const char *examples;              /* lines of commands */
    unsigned shared;                   /* ST_CLI_... */
    const struct argp_option *options; /* every option has a long name; keys below 256 are short names; may be NULL */
    size_t opts_size;                  /* of the command's own options struct */
    const void *defaults;              /* its first value; NULL = zeros */
    /* Sets one option. arg is NULL for one without a value. Errors: USAGE. */
    int (*set)(void *opts, int key, char *arg, struct st_err *e);
    int (*run)(const struct st_cli *cli, void *opts, struct st_err *e);
};

/* The program that is built on this frame: sotto (program.c) or sotto-worker (worker/program.c). */
struct st_program {
    const char *name;           /* also of the section in docs and the completion's function, - as _ */
    const char *purpose;        /* a sentence */
    const char *config;         /* name of its config file */
    const char *start;          /* what to try first, for the help */
    const struct st_cmd *plain; /* the command when none is named; NULL = one must be */
};
extern const struct st_program st_program;
/* All its commands, ended by NULL. */
extern const struct st_cmd *const st_commands[];

/* Keys of options that have no short name. */
#define ST_KEY(n) (256 + (n))

/* Values for `set`. `name` is the option as written, for the message. USAGE with the range or the choices. */
int st_opt_int(const char *name, const char *arg, int64_t min, int64_t max, int64_t *out,
               struct st_err *e) ST_MUST_CHECK;
int st_opt_u32(const char *name, const char *arg, uint32_t min, uint32_t max, uint32_t *out,
               struct st_err *e) ST_MUST_CHECK;
int st_opt_real(const char *name, const char *arg, double min, double max, double *out, struct st_err *e) ST_MUST_CHECK;
/* Bytes: a whole number with K, M, G or T (powers of 1024), or none of them. */
int st_opt_size(const char *name, const char *arg, uint64_t min, uint64_t *out, struct st_err *e) ST_MUST_CHECK;
/* choices: NULL-ended; *out is the index. */
int st_opt_choice(const char *name, const char *arg, const char *const *choices, int *out,
                  struct st_err *e) ST_MUST_CHECK;

/* For the frame's own files. -------------------------------------------------------------------------------------- */

/* Options of a command including the shared ones, as flat lists for parsing, completion and manual. */
struct st_opt_list {
    const struct argp_option *p[128];
    int n;
};
void st_cli_options(const struct st_cmd *cmd, struct st_opt_list *out);
/* Parses everything (file, environment, argv after the command's name) into *cli and *opts (opts_size bytes). */
int st_cli_parse(const struct st_cmd *cmd, int argc, char **argv, struct st_cli *cli, void *opts,
                 struct st_err *e) ST_MUST_CHECK;

/* Words `--name=value` of the config files for one command. Every section and key of the files is checked. The words
 * are the caller's. explicit_path: --config or SOTTO_CONFIG; empty = none; NULL = /etc/sotto/config, then the user's.
 */
struct st_words {
    char **p;
    int n, cap;
};
int st_words_add(struct st_words *w, char *word, struct st_err *e) ST_MUST_CHECK;
/* One setting as a word; booleans become `--name` or nothing. `where` names the origin in errors. */
int st_words_setting(struct st_words *w, const struct argp_option *o, const char *value, const char *where,
                     struct st_err *e) ST_MUST_CHECK;
int st_cli_config(const struct st_cmd *cmd, const char *explicit_path, struct st_words *w,
                  struct st_err *e) ST_MUST_CHECK;

#endif

/* libsotto: run a language model inside your program.
 *
 *     struct sotto_error err;
 *     sotto_model *m;
 *     if (sotto_open("path/to/model", NULL, &m, &err)) ... err.message
 *     sotto_generate_text(m, "Once upon a time", NULL, print, NULL, &err);
 *     sotto_close(m);
 *
 * A model is a Hugging Face directory or a llama2.c .bin file; its weights stay in the mapped file. This interface runs
 * the model in the calling process and protects nothing by itself: the protections are in the `sotto` program.
 *
 * Ownership: handles and buffers that a call returns through `**out` are the caller's and are freed by the function
 * named beside it. Everything passed in is borrowed for the call. Threads: one call at a time per model; different
 * models are independent. Nothing is printed, no environment variable is read, the process never exits.
 *
 * Stability: fields are only ever added at the end of a struct, and zero always means the default. */
#ifndef SOTTO_SOTTO_H
#define SOTTO_SOTTO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Every call that can fail returns 0 or one of these. They are also the exit codes of the program. */
enum sotto_code {
    SOTTO_OK = 0,
    SOTTO_INTERNAL = 1,
    SOTTO_USAGE = 2,       /* an argument makes no sense */
    SOTTO_INPUT = 3,       /* a file or text is malformed */
    SOTTO_IO = 4,          /* a file cannot be read */
    SOTTO_VERIFY = 5,      /* a check of integrity failed */
    SOTTO_POLICY = 6,      /* refused */
    SOTTO_UNSUPPORTED = 7, /* known, but not supported */
    SOTTO_MEMORY = 8       /* says what is needed and what there is */
};

/* One line that names the file, tensor or field, and what was expected. Never holds a prompt or a token. */
struct sotto_error {
    int code;
    char message[512];
};

typedef struct sotto_model sotto_model;
typedef struct sotto_session sotto_session;

enum sotto_dtype { SOTTO_DTYPE_DEFAULT = 0, SOTTO_DTYPE_F32, SOTTO_DTYPE_BF16, SOTTO_DTYPE_INT8 };

struct sotto_options {
    const char *tokenizer;     /* file or directory; NULL = the model's own, or tokenizer.bin beside a .bin file */
    const char *chat_template; /* "llama-2", "llama-3", "chatml", "mistral", "plain"; NULL = from the checkpoint */
    enum sotto_dtype dtype;    /* weights in memory; default: as stored */
    enum sotto_dtype kv_dtype; /* F32 or BF16; default: F32 for f32 models, else BF16 */
    uint32_t context;          /* longest sequence in tokens; 0 = the model's, at most 4096 */
    int threads;               /* 0 = all CPUs of this process */
    int deterministic;         /* non-zero: the result never depends on batching */
};

/* opts may be NULL. On failure *out is NULL. Free by sotto_close. */
int sotto_open(const char *path, const struct sotto_options *opts, sotto_model **out, struct sotto_error *err);
void sotto_close(sotto_model *m); /* NULL is fine; no session of it may be in use */

const char *sotto_model_name(const sotto_model *m);    /* valid until sotto_close */
uint32_t sotto_model_context(const sotto_model *m);    /* tokens */
uint32_t sotto_model_vocabulary(const sotto_model *m); /* number of token ids */

/* Token ids of a UTF-8 text, with the model's first token in front if add_special is not 0. Free *ids by sotto_free. */
int sotto_tokenize(const sotto_model *m, const char *text, size_t len, int add_special, uint32_t **ids, size_t *n_ids,
                   struct sotto_error *err);
/* Text of token ids, NUL-terminated; *len without the NUL. Special tokens are left out. Free *text by sotto_free. */
int sotto_detokenize(const sotto_model *m, const uint32_t *ids, size_t n_ids, char **text, size_t *len,
                     struct sotto_error *err);
void sotto_free(void *p);

/* How tokens are chosen. {0} = greedy, up to the end of the context. */
struct sotto_sampling {
    uint32_t max_tokens;      /* 0 = until the context is full */
    float temperature;        /* 0 = always the most likely token */
    uint32_t top_k;           /* 0 = off */
    float top_p;              /* 0 or 1 = off */
    float min_p;              /* 0 = off */
    float repetition_penalty; /* 0 or 1 = off */
    uint64_t seed;
    int ignore_eos; /* non-zero: go on after the model's end token */
};

/* Called for every generated token: its id, and the text that became whole with it (may be empty: len 0; not
 * NUL-terminated; never half a character). Return 0 to go on, anything else to stop. */
typedef int sotto_on_token(void *arg, uint32_t id, const char *text, size_t len);

enum sotto_finish { SOTTO_FINISH_STOP = 0, SOTTO_FINISH_LENGTH = 1 };

struct sotto_result {
    size_t n_prompt; /* tokens */
    size_t n_reply;
    enum sotto_finish finish;
    double first_token_s; /* from the call to the first token */
    double total_s;
};

/* Continues token ids or a text. sampling, on_token and result may be NULL. */
int sotto_generate(sotto_model *m, const uint32_t *ids, size_t n_ids, const struct sotto_sampling *sampling,
                   sotto_on_token *on_token, void *arg, struct sotto_result *result, struct sotto_error *err);
int sotto_generate_text(sotto_model *m, const char *text, const struct sotto_sampling *sampling,
                        sotto_on_token *on_token, void *arg, struct sotto_error *err);

/* A conversation: messages are kept, and what the model has read once it does not read again. */
int sotto_session_new(sotto_model *m, const char *system /* may be NULL */, sotto_session **out,
                      struct sotto_error *err);
void sotto_session_free(sotto_session *s); /* NULL is fine; before sotto_close */
/* One message of the user and the model's reply. A failed call leaves the conversation as it was. */
int sotto_session_say(sotto_session *s, const char *message, const struct sotto_sampling *sampling,
                      sotto_on_token *on_token, void *arg, struct sotto_result *result, struct sotto_error *err);
/* Forgets everything but the system message. */
void sotto_session_reset(sotto_session *s);

const char *sotto_version(void); /* "0.1.0" */

#ifdef __cplusplus
}
#endif
#endif

/* What the demos of all protections share: the model, a temporary directory, the process that stands for the untrusted
 * machine, a client that talks HTTP to an endpoint of this process, and the same chat on an engine here. */
#ifndef ST_CLI_DEMO_H
#define ST_CLI_DEMO_H

#include "cli/child.h"
#include "cli/cli.h"
#include "cli/temp.h"
#include "model/tokenizer.h"
#include "service/server.h"

#include <signal.h>

#define ST_DEMO_PADS ((uint64_t)48 << 20) /* bytes of pads: enough for a short chat with a small model */

struct st_open;

/* One reply and its token ids. */
struct st_demo_reply {
    struct st_buf text;
    struct st_ids ids;
    double seconds;
    struct st_buf pending; /* bytes of the stream not yet read */
    bool bad;
};
void st_demo_reply_wipe(struct st_demo_reply *r);
/* Text and ids; false when there are none. */
bool st_demo_reply_equal(const struct st_demo_reply *a, const struct st_demo_reply *b);

struct st_demo {
    const struct st_cli *cli;
    const char *protect, *model_arg, *prompt;
    uint32_t n; /* longest reply */
    bool hold;  /* go on until a signal, for an audit of what is here */
    double start;
    char model[ST_PATH_MAX];
    struct st_temp tmp;
    struct st_child child;        /* the untrusted machine */
    struct st_server *server;     /* the endpoint in this process */
    struct st_buf sent, received; /* as shown */
    struct st_buf audit;          /* the command that attacks what was shown */
};

/* The model that was given, or the demo model that comes with the program. IO. */
int st_demo_model(const char *given, char out[ST_PATH_MAX], struct st_err *e) ST_MUST_CHECK;
/* Finds the model, makes the directory, catches signals. IO. */
int st_demo_begin(struct st_demo *d, struct st_err *e) ST_MUST_CHECK;
/* Ends the child and the endpoint, removes the directory. */
void st_demo_end(struct st_demo *d);
/* Announces the next step. INTERNAL when the user wants to stop. */
int st_demo_next(const struct st_demo *d, const char *what, struct st_err *e) ST_MUST_CHECK;
bool st_demo_interrupted(void);
/* Nonzero once the user wants to stop. */
const volatile sig_atomic_t *st_demo_cancel(void);
/* Starts the endpoint, waits until it is ready, talks with it, stops it: then its threads are quiet. */
int st_demo_talk(struct st_demo *d, const struct st_server_opts *o, struct st_demo_reply *out,
                 struct st_err *e) ST_MUST_CHECK;
/* The same through an endpoint whose engine is o's, which masks its rows. */
int st_demo_talk_masked(struct st_demo *d, const struct st_open *o, struct st_demo_reply *out,
                        struct st_err *e) ST_MUST_CHECK;
/* The parts of that for an endpoint elsewhere. ids: ask for the reply's token ids, too. */
int st_demo_wait(const char *endpoint, double seconds, struct st_err *e) ST_MUST_CHECK;
int st_demo_chat(const struct st_demo *d, const char *endpoint, bool ids, struct st_demo_reply *out,
                 struct st_err *e) ST_MUST_CHECK;
/* The same chat on an engine of this process: one that is open with tokenizer and template, or as the options of `cli`
 * say. */
int st_demo_run(const struct st_demo *d, const struct st_open *m, struct st_demo_reply *out,
                struct st_err *e) ST_MUST_CHECK;
int st_demo_here(const struct st_demo *d, const struct st_cli *cli, struct st_demo_reply *out,
                 struct st_err *e) ST_MUST_CHECK;
/* To d->sent and d->received: the first rows that left for a worker, and its answer to them. */
int st_demo_read_record(struct st_demo *d, const char *path, struct st_err *e) ST_MUST_CHECK;
/* The owner of the weights makes hints, once per model, and starts d->child, a worker with them, at `address`. */
int st_demo_worker(struct st_demo *d, const char *hints, const char *address, double *prepare_s,
                   struct st_err *e) ST_MUST_CHECK;
/* Fills d->audit: of a demo that holds, `sotto audit MODEL VIEW` with `more` behind it (words ended by NULL; may be
 * NULL); of one that ends, the audit of its own by this adversary. MEMORY. */
int st_demo_audit(struct st_demo *d, const char *adversary, const char *view, const char *const *more,
                  struct st_err *e) ST_MUST_CHECK;
/* Waits for a signal: what this demo made and started stays until then. */
void st_demo_wait_for_end(const struct st_demo *d);
/* `,"name":"text"` */
void st_demo_put_field(struct st_buf *b, const char *name, const char *s, size_t len);
/* Four columns of what each side saw. */
void st_demo_print_columns(const struct st_demo *d, const char *other /* "SERVER" */, const struct st_buf *reply);

/* The protections. VERIFY: the protected reply is not what it should be. */
int st_demo_covariant(struct st_demo *d, struct st_err *e) ST_MUST_CHECK;
int st_demo_masked(struct st_demo *d, struct st_err *e) ST_MUST_CHECK;
int st_demo_sealed(struct st_demo *d, struct st_err *e) ST_MUST_CHECK;
int st_demo_confidential(struct st_demo *d, struct st_err *e) ST_MUST_CHECK;

#endif

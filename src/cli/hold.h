/* What makes this process an enclave of sorts, for commands that hold weights of somebody else: nobody else of this
 * machine but its owner reads its memory (service/host.h), and whoever takes it over finds no file, no program and no
 * socket but those of the command line (base/sandbox.h). In two steps, for the engine has threads before a server
 * listens: files while there is one thread, calls of all threads when everything is open.
 *
 * Limits: an accelerator's worker reached by name may need the resolver's files again, so with a tcp:// or tls://
 * worker files of the first step stay readable; names that only DNS knows cannot be looked up again (no UDP). */
#ifndef ST_CLI_HOLD_H
#define ST_CLI_HOLD_H

#include "base/sandbox.h"
#include "cli/cli.h"
#include "service/host.h"

struct st_hold {
    struct st_host host;
    struct st_sandbox_state state;
    uint16_t ports[ST_CLI_MAX_WORKERS]; /* of workers */
    size_t n_port;
    bool unix_sockets; /* a worker has a path */
    bool files, calls; /* which steps are done */
    bool refused;      /* --no-sandbox */
};

/* Before a key is unwrapped: hardens, looks at the machine, ends the threads that libraries started. */
int st_hold_begin(struct st_hold *h, struct st_err *e) ST_MUST_CHECK;
/* The first step: from here only these n paths (the model's first), what the shared options name and what the system's
 * libraries need can be read, and of TCP ports only cli->listen.port (-1: none) be listened at. Nothing with
 * --no-sandbox. */
int st_hold_files(struct st_hold *h, const struct st_cli *cli, const char *const *paths, size_t n,
                  struct st_err *e) ST_MUST_CHECK;
/* The second: no file is opened any more (but with workers over TCP), nothing is executed, nothing listens anew.
 * Nothing when there was no first one, or the second time. */
int st_hold_calls(struct st_hold *h, struct st_err *e) ST_MUST_CHECK;
/* "seccomp on, Landlock ABI 7", "off (--no-sandbox)". */
void st_hold_text(const struct st_hold *h, char out[128]);
/* NULL, or what must not be overlooked. */
const char *st_hold_warning(const struct st_hold *h);

#endif

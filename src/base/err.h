/* Errors. Every function that can fail returns 0 or a code and takes a `struct st_err *` as its last
 * parameter (never NULL). The code is also the exit status of the programs. A message is one line that
 * names the thing (file, tensor, field) and what was expected. It never holds a prompt, a token or a key. */
#ifndef ST_BASE_ERR_H
#define ST_BASE_ERR_H

#include <stdarg.h>

/* name, value (= exit status), stable word used in JSON */
#define ST_CODES(X)                                                                                                    \
    X(OK, 0, "ok")                                                                                                     \
    X(INTERNAL, 1, "internal")                                                                                         \
    X(USAGE, 2, "usage")                                                                                               \
    X(INPUT, 3, "input")                                                                                               \
    X(IO, 4, "io")                                                                                                     \
    X(VERIFY, 5, "verify")                                                                                             \
    X(POLICY, 6, "policy")                                                                                             \
    X(UNSUPPORTED, 7, "unsupported")                                                                                   \
    X(MEMORY, 8, "memory")

enum st_code {
#define X(name, value, word) ST_##name = value,
    ST_CODES(X)
#undef X
};

struct st_err {
    int code;
    char msg[512];
};

#define ST_MUST_CHECK __attribute__((warn_unused_result))
#define ST_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Sets code and message; returns code, so that `return st_fail(e, ST_INPUT, ...)` reads well.
 * Control characters in the message (they may come from a hostile file) are replaced by '?'. */
int st_fail(struct st_err *e, int code, const char *fmt, ...) ST_PRINTF(3, 4);

/* Puts "text: " before the message that is already there; returns e->code. */
int st_err_prefix(struct st_err *e, const char *fmt, ...) ST_PRINTF(2, 3);

/* The stable word of a code, "internal" for an unknown one. */
const char *st_code_word(int code);

#endif

/* Log lines and progress, both on standard error. Never content: no prompt, token or key is passed here. */
#ifndef ST_BASE_LOG_H
#define ST_BASE_LOG_H

#include "base/err.h"

#include <stdint.h>

enum st_log_level { ST_LOG_ERROR, ST_LOG_WARN, ST_LOG_INFO, ST_LOG_DEBUG };

/* Lines above this level are dropped. INFO at start. */
void st_log_set_level(enum st_log_level level);
void st_log(enum st_log_level level, const char *fmt, ...) ST_PRINTF(2, 3);

/* A progress bar with rate and ETA; drawn only on a terminal, at most ten times a second. */
struct st_progress {
    const char *label; /* borrowed */
    const char *unit;  /* "B" prints KiB, MiB, ... */
    uint64_t total;
    double start, last;
    int on;
};
void st_progress_start(struct st_progress *p, const char *label, const char *unit, uint64_t total);
void st_progress_update(struct st_progress *p, uint64_t done);
void st_progress_end(struct st_progress *p);

#endif

/* A directory of keys made for one client, shown to a client that checks as service/log_client.c does. */
#ifndef ST_AUDIT_ATK_KEY_CONFIG_H
#define ST_AUDIT_ATK_KEY_CONFIG_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* What the client demands. */
struct st_split_client {
    size_t quorum;  /* 0..2 of two witnesses */
    bool remembers; /* the last checkpoint that all were shown */
};
#define ST_SPLIT_VIEWS 7
/* The way number `view` of showing it other keys: *accepted; *what says in words how. USAGE: no such view. */
int st_split_view(const struct st_split_client *c, size_t view, bool *accepted, const char **what,
                  struct st_err *e) ST_MUST_CHECK;

#endif

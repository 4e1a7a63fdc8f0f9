/* A model sealed for an audit: under a random passphrase of its own, at the least cost of a guess, for guessing it is
 * hopeless at any. */
#ifndef ST_AUDIT_RESEAL_H
#define ST_AUDIT_RESEAL_H

#include "base/err.h"

/* policy: a name or a file, as `sotto seal` takes it. word: descriptor that the passphrase is written to; -1 = nobody
 * will open it. Errors of st_seal and of files. */
int st_reseal(const char *model, const char *dst, const char *policy, int n_threads, int word,
              struct st_err *e) ST_MUST_CHECK;

#endif

/* Who may hand something to the log: a file with one line each, "KIND/NAME KEY"; '#' comments and blank lines.
 *
 *   gateway/east KEY    its part of the directory
 *   issuer/bank KEY     the same
 *   entries/ci KEY      any entry
 *
 * Only SHA-256 digests of the keys stay in memory; a comparison looks at all of them, whatever it finds. */
#ifndef ST_SERVICE_SUBMITTERS_H
#define ST_SERVICE_SUBMITTERS_H

#include "attest/directory.h"

#define ST_SUBMITTERS_MAX 256

enum st_submitter_kind { ST_SUBMITTER_GATEWAY, ST_SUBMITTER_ISSUER, ST_SUBMITTER_ENTRIES, ST_SUBMITTER_COUNT };

struct st_submitter {
    enum st_submitter_kind kind;
    char name[ST_DIRECTORY_MAX_NAME + 1];
    uint8_t digest[32];
};
struct st_submitters {
    struct st_submitter *of;
    size_t n;
};
/* IO; INPUT names file and line; POLICY (readable by others: mode & 077). */
int st_submitters_load(const char *path, struct st_submitters *out, struct st_err *e) ST_MUST_CHECK;
void st_submitters_free(struct st_submitters *s);
/* Whose key "Bearer KEY" is, NULL when nobody's; authorization may be NULL. */
const struct st_submitter *st_submitters_check(const struct st_submitters *s, const char *authorization);
const char *st_submitter_kind_name(enum st_submitter_kind k);

#endif

/* The enclave's side of key release: makes an HPKE key in memory, has evidence made for it and the service's nonce,
 * sends both, and opens what comes back (service/release_message.h). The key lives for one request. Blocks, with an
 * event loop of its own; nothing of it is left afterwards. Before a process gives up its files (cli/hold.h).
 *
 * The service need not be known: it learns what the evidence says and which container is opened, as does whoever
 * listens where the URL is http://; what comes back opens with the key of this process alone, and is this container's
 * content key, or its mac says that it is not. */
#ifndef ST_SERVICE_RELEASE_CLIENT_H
#define ST_SERVICE_RELEASE_CLIENT_H

#include "attest/collector.h"
#include "service/release_message.h"

struct st_release_client {
    const char *url, *ca_bundle; /* base URL; PEM file, NULL = the system's */
    const char *const *kinds;    /* of evidence */
    size_t n_kind;
    const struct st_collect_opts *collect;
    double stall_s; /* no byte for so long ends it; 0 = 30 */
};

/* wrap: NULL = none. USAGE, UNSUPPORTED and others of st_collection_open(); IO: cannot be reached, or a reply that
 * is none of such a service; POLICY: it refused; VERIFY: a reply to another request. */
int st_release_ask(const struct st_release_client *o, const struct st_release_for *what, const json_t *wrap,
                   struct st_secret *content_key, struct st_err *e) ST_MUST_CHECK;

#endif

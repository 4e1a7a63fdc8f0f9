/* The owner's key release service: gives the content key of a sealed container to enclaves whose evidence a policy
 * accepts, and to nobody else. It stands where the owner trusts the machine; messages: service/release_message.h.
 *
 * What must hold before a key leaves: the nonce is this service's, fresh, and asked for once; the evidence is good
 * under the policy, with that nonce; its binding names the container's digest and a key of the suite, and is no node's;
 * the container is one that the service was told of (--container), in that very version and digest, not below the
 * minimum; the key that comes out makes the container's mac. A policy that accepts any program (its measurements pin
 * none), or checks signatures alone, is refused at the start. Simulated evidence counts only where the policy names its
 * root.
 *
 * It holds a private key (an HPKE recipient of the containers) or the publisher's seed. It keeps nonces and counters
 * and nothing else, writes no file, and logs a line for each key that it gives and, at most once a second, for
 * refusals. Towards a peer every refusal is 400 without a body. Limits: NONCES challenges at once (release.c), the
 * oldest gives way; evidence is judged on the one thread. A key that was given out cannot be taken back. */
#ifndef ST_SERVICE_RELEASE_H
#define ST_SERVICE_RELEASE_H

#include "base/secret.h"
#include "service/role.h"

#define ST_RELEASE_MAX_CONTAINERS 256
#define ST_RELEASE_MAX_MINIMA 64

/* Versions below `version` are refused: of containers of that name or id (32 hexadecimal digits), or, with NULL, of
 * all. */
struct st_release_minimum {
    const char *what;
    uint64_t version;
};

struct st_release_opts {
    struct st_role_opts listen;   /* where; limits of bodies, handlers and arg are the service's own */
    const char *policy;           /* file */
    const char *hpke_key;         /* file of a private key (crypto/hpke_file.h); NULL = seed is given */
    const struct st_secret *seed; /* the publisher's; kept until free; NULL = hpke_key is given */
    const char *const *containers;
    size_t n_container;
    const struct st_release_minimum *minima;
    size_t n_minimum;
    double nonce_s; /* age of a challenge at most; 0 = 60 */
};

struct st_release;
/* Opens the port. Strings of *o are kept until st_release_free(). Errors: st_role_listen(), st_policy_parse(),
 * st_container_open(); USAGE: neither or both keys, no container, one twice, a minimum of a container that is not
 * there; POLICY: a policy that pins nothing; VERIFY: a container that the key does not open. */
int st_release_new(const struct st_release_opts *o, struct st_release **out, struct st_err *e) ST_MUST_CHECK;
struct st_role *st_release_role(struct st_release *r); /* to run it */
void st_release_free(struct st_release *r);

#endif

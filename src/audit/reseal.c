#include "audit/reseal.h"
#include "base/hooks.h"
#include "crypto/digest.h"
#include "protect/sealed/writer.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define COST ((struct st_argon2){1, 1024, 1})

static int make_secrets(struct st_secret *passphrase, struct st_secret *seed, struct st_err *e)
{
    uint8_t random[32];
    char hex[2 * sizeof random + 1];
    if (st_secret_init(seed, 32, e) || st_random(seed->p, seed->len, e) || st_random(random, sizeof random, e) ||
        st_secret_init(passphrase, sizeof hex - 1, e))
        return e->code;
    st_hex(random, sizeof random, hex);
    memcpy(passphrase->p, hex, passphrase->len);
    explicit_bzero(hex, sizeof hex);
    explicit_bzero(random, sizeof random);
    return 0;
}

int st_reseal(const char *model, const char *dst, const char *policy, int n_threads, int word, struct st_err *e)
{
    static const char *const recipients[] = {"passphrase"};
    struct st_secret passphrase = {0}, seed = {0};
    struct st_seal_report report = {0};
    int rc = make_secrets(&passphrase, &seed, e);
    const struct st_seal_opts o = {.policy = policy,
                                   .recipients = recipients,
                                   .n_recipient = 1,
                                   .seed = &seed,
                                   .passphrase = &passphrase,
                                   .cost = &COST,
                                   .n_threads = n_threads};
    if (!rc)
        rc = st_seal(model, dst, &o, &report, e);
    if (!rc && word >= 0 && write(word, passphrase.p, passphrase.len) != (ssize_t)passphrase.len)
        rc = st_fail(e, ST_IO, "a passphrase could not be handed over: %s", strerror(errno));
    st_secret_wipe(&passphrase);
    st_secret_wipe(&seed);
    return rc;
}

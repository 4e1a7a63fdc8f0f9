/* Ways to the content key of a container, one file each (recipient_*.c), one row each in recipients.def. A wrap is a
 * JSON object with `kind` and whatever that kind needs; all are bound to the container's id and version, so that none
 * can be moved to another container. Read as hostile, although the publisher signed the list. */
#ifndef ST_PROTECT_SEALED_RECIPIENT_H
#define ST_PROTECT_SEALED_RECIPIENT_H

#include "crypto/passphrase.h"
#include "model/container.h"
#include "text/json.h"

struct st_wrap_to {
    const uint8_t *id; /* [16] */
    uint64_t version;
    const struct st_secret *content_key;
    const char *arg;                    /* behind the colon of --recipient KIND:ARG; NULL = none */
    const struct st_secret *passphrase; /* kind passphrase; NULL = none */
    const struct st_argon2 *cost;       /* of a guess of it; NULL = ST_ARGON2_DEFAULT */
    const char *tcti;                   /* kind tpm without an argument: of this machine's; NULL = the default */
    const char *tpm_roots; /* kind tpm: file of certificates (PEM) below which the device's key must be certified;
                              NULL = believed as it is */
};

/* What the user gave to open a container with; NULL = not given. Borrowed for the call. */
struct st_unlock {
    const struct st_secret *passphrase;
    const char *tcti;     /* of the TPM; NULL = the default, if it is there */
    const char *hpke_key; /* file of a private key */
    /* kind hpke, when the private key is elsewhere: asks the owner's release service (service/release_client.h) for the
     * key of the container that ctx was made for. entry: the wrap to be opened there; NULL when none of the recipients
     * is of that kind, for a service that has the publisher's seed. */
    int (*release)(void *ctx, const json_t *entry, struct st_secret *content_key, struct st_err *e);
    void *release_ctx;
};

struct st_recipient_kind {
    const char *name, *help; /* "passphrase"; how --recipient names one, and what it is */
    const char *opened_by;   /* options that open one: "--passphrase-file FILE" */
    bool of_machine;         /* opened by the machine itself; nobody gives anything */
    /* A new object, without `kind`. */
    int (*wrap)(const struct st_wrap_to *to, json_t **out, struct st_err *e);
    /* Whether *u has what it takes to try. */
    bool (*wanted)(const struct st_unlock *u);
    /* The content key [32]. VERIFY: wrong passphrase, another TPM or state, an older version than the TPM has seen. */
    int (*unwrap)(const struct st_unlock *u, const uint8_t id[16], uint64_t version, const json_t *entry,
                  struct st_secret *out, struct st_err *e);
    /* What is to be done once the key that unwrap() gave has proved to be the container's; NULL = nothing. */
    int (*opened)(const struct st_unlock *u, const uint8_t id[16], uint64_t version, const json_t *entry,
                  struct st_err *e);
    /* KiB that unwrap() writes to memory, over all passes; NULL = next to nothing. */
    uint64_t (*work)(const json_t *entry);
    /* Appends a few words for `seal inspect`: "PCRs sha256:0,7", a fingerprint. */
    void (*describe)(const json_t *entry, struct st_buf *out);
};

/* Row i of recipients.def, NULL behind the last. */
const struct st_recipient_kind *st_recipient_kind(size_t i);
/* USAGE lists the kinds. */
int st_recipient_find(const char *name, const struct st_recipient_kind **out, struct st_err *e) ST_MUST_CHECK;

#define ST_RECIPIENTS_MAX 64
/* KiB for all that are tried together: as many as there may be passphrases at the default cost (minutes at most). */
#define ST_RECIPIENTS_WORK ((uint64_t)ST_RECIPIENTS_MAX * 3 * 256 * 1024)

/* Appends to `list` (a JSON array) the recipient that KIND:ARG names; to->arg is filled from it. USAGE: unknown kind,
 * too many. Errors of wrap() name `spec`. */
int st_recipient_add(json_t *list, const char *spec, struct st_wrap_to to, struct st_err *e) ST_MUST_CHECK;
/* A list's text, checked: an array of 1..ST_RECIPIENTS_MAX objects with a `kind` of 1..40 printable ASCII characters,
 * unknown ones too. INPUT. */
int st_recipients_parse(struct st_span text, const char *where, json_t **out, struct st_err *e) ST_MUST_CHECK;
/* Tries every recipient that *u fits, in the file's order, until one gives the key that made the header's mac. USAGE:
 * nothing that was given fits any of them (says what would; UNSUPPORTED when only machines open them); INPUT: more
 * work than ST_RECIPIENTS_WORK; else the last error. */
int st_recipient_open(const struct st_container *c, const struct st_unlock *u, struct st_secret *content_key,
                      struct st_err *e) ST_MUST_CHECK;
/* What `seal inspect` says of one: its kind, and in brackets what that kind describes. */
void st_recipient_describe(const json_t *entry, struct st_buf *out);

#endif

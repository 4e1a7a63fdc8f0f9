/* Collects one kind of evidence on the machine that it is about: one file collect_KIND.c that exports one const struct,
 * and a row in collectors.def. A program that collects links no verifier. What a collector stands on (a path, a TPM, a
 * library) is an option, so that tests can stand something else there. Calls block. */
#ifndef ST_ATTEST_COLLECTOR_H
#define ST_ATTEST_COLLECTOR_H

#include "attest/evidence.h"

struct st_collect_opts {
    const char *tsm;              /* tdx, snp: NULL = /sys/kernel/config/tsm/report */
    const char *tdx_measurements; /* tdx: NULL = /sys/devices/virtual/misc/tdx_guest/measurements, if it is there */
    const char *gramine;          /* sgx: NULL = /dev/attestation */
    const char *tcti;             /* tpm: TCTI string of tpm2-tss, NULL = the system's TPM */
    const char *tpm_ak;           /* tpm: persistent handle "0x81000003" of the attestation key; NULL = the restricted
                                     signing key that this TPM makes from attest/tpm_device.h's template: always the same */
    const char *tpm_certs;        /* tpm: PEM file, certificate of that key; NULL = none */
    const char *event_log;        /* tpm: NULL = /sys/kernel/security/tpm0/binary_bios_measurements, if it is there */
    const char *nvml;             /* nvgpu: NULL = libnvidia-ml.so.1 */
    const char *sim_key;      /* sim: file of an Ed25519 seed, 64 hexadecimal digits; when it is gone or another one,
                                 the evidence has changed */
    const char *endorsements; /* directory of files that go along: collateral, certificates, revocation lists. Read
                                 anew each time; each goes to the items that can use it, names with a dot in front are
                                 passed over, a file that is not recognised is an error */
    uint8_t sim_measurement[32];
};

/* The public key of a sim_key file, which a policy names as sim_root. IO, INPUT. */
int st_collect_sim_root(const char *key_file, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;

/* What a process that collects must keep when it gives up the rest (base/sandbox.h). Paths are borrowed. */
#define ST_COLLECT_MAX_NEEDS 16
struct st_collect_needs {
    const char *read[ST_COLLECT_MAX_NEEDS], *write[ST_COLLECT_MAX_NEEDS];
    size_t n_read, n_write;
    uint16_t port; /* TCP, of a TPM behind a socket; 0 = none */
    bool nvidia;
};
/* For collectors: a path that is not there is left out. */
void st_collect_needs_read(struct st_collect_needs *n, const char *path);
void st_collect_needs_write(struct st_collect_needs *n, const char *path);

typedef int st_endorse_fn(void *ctx, enum st_endorsement_type t, const void *p, size_t n, struct st_err *e);

struct st_collector {
    const char *kind;
    /* Which files of the directory of endorsements it can use, as a bit set of 1 << enum st_endorsement_type. */
    unsigned endorsements;
    /* UNSUPPORTED: the machine has no such thing, and what is missing. */
    int (*open)(const struct st_collect_opts *o, void **h, struct st_err *e);
    /* Evidence that holds data [len] (64 bytes, or 32 where attest/binding.h says so), and the endorsements that the
     * machine itself has. Appends the evidence; endorsements go through `endorse`, which copies them. */
    int (*collect)(void *h, const uint8_t *data, size_t len, struct st_buf *evidence, st_endorse_fn *endorse, void *ctx,
                   struct st_err *e);
    /* VERIFY when what was so at open() is no longer so (a PCR was extended, the machine started anew); collect() says
     * the same. Cheap enough for once a second. NULL = it cannot change while the process lives. */
    int (*unchanged)(void *h, struct st_err *e);
    /* Adds to what is there. NULL = nothing: all that it uses stays open. */
    void (*needs)(const void *h, struct st_collect_needs *out);
    void (*close)(void *h);
};

/* NULL when there is none. */
const struct st_collector *st_collector_find(const char *kind);
const struct st_collector *st_collector_at(int i); /* NULL behind the last */

/* All kinds that a node collects, as one. One thread may ask st_collection_unchanged() while another collects. */
struct st_collection;
/* kinds: n names. USAGE: a kind twice, none or too many, none that can carry; UNSUPPORTED: no such kind, or not on this
 * machine. Strings of *o are kept until close. */
int st_collection_open(const char *const *kinds, size_t n, const struct st_collect_opts *o, struct st_collection **out,
                       struct st_err *e) ST_MUST_CHECK;
/* A bundle around the keys of *b (attest/binding.h): every item but the carrier is asked with the GPU nonce, the
 * carrier with the report data. Free by st_bundle_free(). */
int st_collection_collect(struct st_collection *c, const struct st_binding *b, struct st_bundle *out,
                          struct st_err *e) ST_MUST_CHECK;
int st_collection_unchanged(struct st_collection *c, struct st_err *e) ST_MUST_CHECK;
/* Of all parts and the directory of endorsements; valid until close. */
void st_collection_needs(const struct st_collection *c, struct st_collect_needs *out);
void st_collection_close(struct st_collection *c);

#endif

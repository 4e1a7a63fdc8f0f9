/* The vendors' root certificates, compiled in: what everything else in evidence is checked against. Taken over from
 * public verifiers (origins and fingerprints in roots.c). Not at hand, so not pinned: AMD's ARK-Turin. */
#ifndef ST_ATTEST_ROOTS_H
#define ST_ATTEST_ROOTS_H

#include "attest/verifier.h"
#include "crypto/x509.h"

enum st_root {
    ST_ROOT_INTEL,         /* SGX and TDX: PCK, TCB info, QE identity */
    ST_ROOT_AMD,           /* ARK of Milan and Genoa */
    ST_ROOT_AMD_ASK,       /* no roots: the intermediates below them, so that a VCEK alone suffices */
    ST_ROOT_NVIDIA_DEVICE, /* GPU identities */
    ST_ROOT_NVIDIA_RIM,    /* reference measurements */
    ST_ROOT_TPM,           /* attestation keys of Azure's and Google's virtual TPMs */
    ST_ROOT_COUNT
};

struct st_span st_root_pem(enum st_root r);
/* The pinned certificates, or env->roots in their place, behind those that are in out. */
int st_roots_add(const struct st_verify_env *env, enum st_root r, struct st_certs *out, struct st_err *e) ST_MUST_CHECK;

#endif

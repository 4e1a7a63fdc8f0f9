/* The machine around this process: what it offers to keep weights and keys in memory, and from whom it keeps them.
 * Looks only; changes nothing but this process, contacts nobody.
 *
 * Limit: whether this is a trusted execution environment is what the machine says, and its owner can make it say
 * anything. It is a hint for people; what proves it is evidence that somebody else verifies before he releases a key.
 */
#ifndef ST_SERVICE_HOST_H
#define ST_SERVICE_HOST_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum st_tee { ST_TEE_NONE, ST_TEE_SGX, ST_TEE_SNP, ST_TEE_TDX };

struct st_host {
    enum st_tee tee;
    bool evidence;    /* where its evidence comes from is there: Gramine's files, configfs-tsm, a guest device */
    bool secretmem;   /* memfd_secret(2) gives memory */
    uint64_t memlock; /* limit of locked memory in bytes; UINT64_MAX = none for this process */
    int swaps;        /* areas in use; -1 = not known */
    uint64_t core;    /* limit of a core file in bytes */
    bool dumpable;    /* other processes of this user may read this one's memory */
    int ptrace_scope; /* of Yama: 0 any process of the user, 1 children only, 2 administrators, 3 nobody; -1 = no Yama
                       */
    bool seccomp;
    int landlock; /* its ABI; 0 = not in this kernel */
    bool tpm;
};

/* root stands before every path of /dev, /proc and /sys; "" for the machine itself, another for tests (then nothing is
 * asked of the processor). */
void st_host_look(const char *root, struct st_host *out);
const char *st_tee_name(enum st_tee t); /* "none", "SGX under Gramine", ... */
/* From whom the weights are kept here, one line. */
const char *st_host_case(const struct st_host *h);
/* Appends the struct as a JSON object. */
void st_host_json(const struct st_host *h, struct st_buf *b);

/* Before a secret comes in: no core dump, no reading by other processes of the same user, no tracer, no new privileges.
 * Cannot be taken back. IO; POLICY: somebody traces it already. */
int st_host_harden(struct st_err *e) ST_MUST_CHECK;

#endif

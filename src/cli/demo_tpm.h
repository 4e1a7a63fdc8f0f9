/* A TPM for the demo: swtpm, fresh, in a process of its own. TCP on loopback: nothing but this machine reaches it. */
#ifndef ST_CLI_DEMO_TPM_H
#define ST_CLI_DEMO_TPM_H

#include "cli/child.h"

#include <stdint.h>

struct st_demo_tpm {
    struct st_child child;
    int port;
    char tcti[64];
};

/* dir: for its state. UNSUPPORTED: there is no swtpm on PATH; IO: it does not start. */
int st_demo_tpm_start(const char *dir, struct st_demo_tpm *out, struct st_err *e) ST_MUST_CHECK;
void st_demo_tpm_stop(struct st_demo_tpm *t);
/* Extends a PCR, as something that was loaded and measured would. IO. */
int st_demo_tpm_extend(const struct st_demo_tpm *t, uint8_t pcr, struct st_err *e) ST_MUST_CHECK;

#endif

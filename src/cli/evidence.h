/* What evidence a process collects about its machine, from options: `sotto-node`, `sotto-worker`, and `sotto` with
 * --release or --private-weights. */
#ifndef ST_CLI_EVIDENCE_H
#define ST_CLI_EVIDENCE_H

#include "attest/collector.h"

struct st_cli_evidence {
    const char *kinds[ST_EVIDENCE_MAX_ITEMS];
    size_t n_kind;
    struct st_collect_opts collect;
};

/* The options of collectors, for a command's list, with keys from `first` on, of one group; st_evidence_set() takes
 * them. */
enum {
    ST_EVIDENCE_TSM,
    ST_EVIDENCE_GRAMINE,
    ST_EVIDENCE_TPM,
    ST_EVIDENCE_TPM_AK,
    ST_EVIDENCE_TPM_CERTS,
    ST_EVIDENCE_EVENT_LOG,
    ST_EVIDENCE_NVML,
    ST_EVIDENCE_SIM_KEY,
    ST_EVIDENCE_SIM_MEASUREMENT,
    ST_EVIDENCE_ENDORSEMENTS,
    ST_EVIDENCE_N_OPTION
};
/* clang-format off */
#define ST_EVIDENCE_OPTIONS(first, group) \
    {"tsm", (first) + ST_EVIDENCE_TSM, "DIR", 0, "tdx, snp: default /sys/kernel/config/tsm/report", group}, \
    {"gramine", (first) + ST_EVIDENCE_GRAMINE, "DIR", 0, "sgx: default /dev/attestation", group}, \
    {"tpm", (first) + ST_EVIDENCE_TPM, "TCTI", 0, \
     "tpm: how to reach it, as in device:/dev/tpmrm0; default: the system's", group}, \
    {"tpm-ak", (first) + ST_EVIDENCE_TPM_AK, "HANDLE", 0, \
     "tpm: attestation key, as in 0x81000003; default: one that the TPM makes, always the same", group}, \
    {"tpm-certs", (first) + ST_EVIDENCE_TPM_CERTS, "FILE", 0, "tpm: certificates of that key (PEM)", group}, \
    {"event-log", (first) + ST_EVIDENCE_EVENT_LOG, "FILE", 0, "tpm: default the kernel's", group}, \
    {"nvml", (first) + ST_EVIDENCE_NVML, "FILE", 0, "nvgpu: NVIDIA's library; default libnvidia-ml.so.1", group}, \
    {"sim-key", (first) + ST_EVIDENCE_SIM_KEY, "FILE", 0, \
     "sim: seed of who signs, 64 hexadecimal digits; proves nothing", group}, \
    {"sim-measurement", (first) + ST_EVIDENCE_SIM_MEASUREMENT, "HEX", 0, \
     "sim: what is stated as measured, 64 digits", group}, \
    {"endorsements", (first) + ST_EVIDENCE_ENDORSEMENTS, "DIR", 0, \
     "Certificates, revocation lists, reference values that go along", group}
/* clang-format on */
int st_evidence_set(struct st_cli_evidence *o, int option, char *arg, struct st_err *e) ST_MUST_CHECK;
/* Values of --evidence (kinds with commas between them; arg is cut up and kept) and --sim-measurement. USAGE. */
int st_evidence_kinds(struct st_cli_evidence *o, char *arg, struct st_err *e) ST_MUST_CHECK;
int st_evidence_sim_measurement(struct st_cli_evidence *o, const char *arg, struct st_err *e) ST_MUST_CHECK;
bool st_evidence_has(const struct st_cli_evidence *o, const char *kind);

#endif

#include "cli/evidence.h"
#include "crypto/digest.h"

#include <string.h>

int st_evidence_kinds(struct st_cli_evidence *o, char *arg, struct st_err *e)
{
    char *save = NULL;
    o->n_kind = 0;
    for (char *kind = strtok_r(arg, ",", &save); kind; kind = strtok_r(NULL, ",", &save)) {
        if (o->n_kind == ST_EVIDENCE_MAX_ITEMS)
            return st_fail(e, ST_USAGE, "--evidence: at most %d kinds", ST_EVIDENCE_MAX_ITEMS);
        o->kinds[o->n_kind++] = kind;
    }
    return o->n_kind ? 0 : st_fail(e, ST_USAGE, "--evidence: want kinds with commas between them");
}

int st_evidence_sim_measurement(struct st_cli_evidence *o, const char *arg, struct st_err *e)
{
    uint8_t *out = o->collect.sim_measurement;
    if (st_unhex(arg, strlen(arg), out, sizeof o->collect.sim_measurement, "--sim-measurement", e))
        return st_fail(e, ST_USAGE, "--sim-measurement: want 64 hexadecimal digits");
    return 0;
}

int st_evidence_set(struct st_cli_evidence *o, int option, char *arg, struct st_err *e)
{
    struct st_collect_opts *c = &o->collect;
    const char **const text[ST_EVIDENCE_N_OPTION] = {
        [ST_EVIDENCE_TSM] = &c->tsm,
        [ST_EVIDENCE_GRAMINE] = &c->gramine,
        [ST_EVIDENCE_TPM] = &c->tcti,
        [ST_EVIDENCE_TPM_AK] = &c->tpm_ak,
        [ST_EVIDENCE_TPM_CERTS] = &c->tpm_certs,
        [ST_EVIDENCE_EVENT_LOG] = &c->event_log,
        [ST_EVIDENCE_NVML] = &c->nvml,
        [ST_EVIDENCE_SIM_KEY] = &c->sim_key,
        [ST_EVIDENCE_ENDORSEMENTS] = &c->endorsements,
    };
    if (option == ST_EVIDENCE_SIM_MEASUREMENT)
        return st_evidence_sim_measurement(o, arg, e);
    *text[option] = arg;
    return 0;
}

bool st_evidence_has(const struct st_cli_evidence *o, const char *kind)
{
    for (size_t i = 0; i < o->n_kind; i++)
        if (strcmp(o->kinds[i], kind) == 0)
            return true;
    return false;
}

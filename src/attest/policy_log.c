/* The fields of a policy that are about a log: which one is believed, and which values must stand in it. */
#include "attest/log_proof.h"
#include "attest/policy_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_PROOFS 256

static int read_key(const json_t *v, const char *where, const char *key, uint8_t type, struct st_note_key *out,
                    struct st_err *e)
{
    const char *s = json_string_value(v);
    if (!s || st_note_key_parse(s, strlen(s), out, e) || out->type != type)
        return st_fail(e, ST_INPUT, "%s: %s: want the text of a verifier key of signature type %d, NAME+ID+KEY", where,
                       key, type);
    return 0;
}

static int read_log(struct st_policy *p, const json_t *o, const char *where, struct st_err *e)
{
    static const char *const fields[] = {"origin", "key", "witnesses", "quorum", "comment", NULL};
    struct st_tlog_keys *k = &p->log;
    const json_t *witnesses = json_object_get(o, "witnesses");
    const char *origin = NULL;
    int64_t quorum = -1;
    if (st_json_only(o, where, fields, e) ||
        read_key(json_object_get(o, "key"), where, "key", ST_NOTE_ED25519, &k->log, e) ||
        st_json_str(o, where, "origin", &origin, e) || st_json_need(o, where, "quorum", e) ||
        st_json_int(o, where, "quorum", 0, ST_TLOG_MAX_WITNESSES, &quorum, e))
        return e->code;
    origin = origin ? origin : k->log.name;
    if (strlen(origin) > ST_NOTE_MAX_NAME || !*origin)
        return st_fail(e, ST_INPUT, "%s: origin: want 1 to %d bytes", where, ST_NOTE_MAX_NAME);
    memcpy(k->origin, origin, strlen(origin) + 1);
    k->quorum = (size_t)quorum;
    if (witnesses && (!json_is_array(witnesses) || json_array_size(witnesses) > ST_TLOG_MAX_WITNESSES))
        return st_fail(e, ST_INPUT, "%s: witnesses: want a list of at most %d keys", where, ST_TLOG_MAX_WITNESSES);
    for (; k->n_witness < json_array_size(witnesses); k->n_witness++)
        if (read_key(json_array_get(witnesses, k->n_witness), where, "witnesses", ST_NOTE_COSIGNATURE,
                     &k->witnesses[k->n_witness], e))
            return e->code;
    if (st_tlog_keys_check(k, e))
        return st_fail(e, ST_INPUT, "%s: a quorum that there are not witnesses for, or a key with two roles", where);
    p->has_log = true;
    return 0;
}

/* One proof, whole: format, signatures, place in the tree; what it states counts from then on. */
static int read_proof(struct st_policy *p, const json_t *o, const char *where, struct st_err *e)
{
    struct st_log_proof proof;
    int rc = st_log_proof_read(o, where, &proof, e);
    if (!rc && st_log_proof_verify(&proof, &p->log, e))
        rc = st_err_prefix(e, "%s", where);
    if (!rc)
        rc = st_statement_parse(proof.entry.p, proof.entry.len, where, &p->statements[p->n_statement], e);
    st_log_proof_wipe(&proof);
    p->n_statement += rc == 0;
    return rc;
}

static int read_proofs(struct st_policy *p, const char *where, struct st_err *e)
{
    const json_t *list = json_object_get(p->json, "proofs");
    size_t n = json_array_size(list);
    if (!list)
        return 0;
    if (!p->has_log || !p->logged)
        return st_fail(e, ST_INPUT, "%s: proofs: want log and logged beside them", where);
    if (!json_is_array(list) || n > MAX_PROOFS)
        return st_fail(e, ST_INPUT, "%s: proofs: want a list of at most %d proofs", where, MAX_PROOFS);
    p->statements = calloc(n + 1, sizeof *p->statements);
    if (!p->statements)
        return st_fail(e, ST_MEMORY, "%s: proofs: out of memory", where);
    for (size_t i = 0; i < n; i++) {
        char inner[160];
        snprintf(inner, sizeof inner, "%.120s: proofs[%zu]", where, i);
        if (read_proof(p, json_array_get(list, i), inner, e))
            return e->code;
    }
    return 0;
}

static int read_logged(struct st_policy *p, const char *where, struct st_err *e)
{
    const json_t *list = json_object_get(p->json, "logged");
    if (!list)
        return 0;
    bool good = json_is_array(list) && json_array_size(list) > 0 && p->has_log;
    for (size_t i = 0; i < json_array_size(list) && good; i++) {
        const char *claim = json_string_value(json_array_get(list, i));
        good = claim && strcmp(claim, "comment") != 0 && json_object_get(p->measurements, claim);
    }
    if (!good)
        return st_fail(e, ST_INPUT, "%s: logged: want a list of claims that measurements names, and log", where);
    p->logged = list;
    return 0;
}

int st_policy_read_log(struct st_policy *p, const char *where, struct st_err *e)
{
    const json_t *log = json_object_get(p->json, "log");
    int64_t min_nodes = 1;
    char inner[160];
    snprintf(inner, sizeof inner, "%.120s: log", where);
    if ((log && read_log(p, log, inner, e)) || read_logged(p, where, e) || read_proofs(p, where, e) ||
        st_json_int(p->json, where, "min_nodes", 1, ST_POLICY_MAX_NODES, &min_nodes, e))
        return e->code;
    p->min_nodes = (unsigned)min_nodes;
    return 0;
}

bool st_policy_must_be_logged(const struct st_policy *p, const char *claim)
{
    for (size_t i = 0; i < json_array_size(p->logged); i++)
        if (strcmp(json_string_value(json_array_get(p->logged, i)), claim) == 0)
            return true;
    return false;
}

const struct st_statement *st_policy_find_statement(const struct st_policy *p, const char *claim, const char *value,
                                                    bool hex)
{
    for (size_t i = 0; i < p->n_statement; i++) {
        const struct st_statement *s = &p->statements[i];
        if (strcmp(s->claim, claim) == 0 && (hex ? strcasecmp(s->value, value) : strcmp(s->value, value)) == 0)
            return s;
    }
    return NULL;
}

const struct st_tlog_keys *st_policy_log(const struct st_policy *p)
{
    return p->has_log ? &p->log : NULL;
}

unsigned st_policy_min_nodes(const struct st_policy *p)
{
    return p->min_nodes;
}

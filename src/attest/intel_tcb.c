#include "attest/intel_tcb.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define MAX_ADVISORIES 128 /* of one level */
#define MAX_ADVISORY 32    /* characters */

static const char *const words[] = {
#define X(id, word) word,
    ST_TCB_STATUSES(X)
#undef X
};

const char *st_tcb_status_word(enum st_tcb_status s)
{
    return words[s];
}

void st_tcb_found_free(struct st_tcb_found *f)
{
    st_buf_free(&f->advisories);
    *f = (struct st_tcb_found){0};
}

/* Fields that must be there.
 * ------------------------------------------------------------------------------------------------------------ */

static int need_int(const json_t *o, const char *where, const char *key, int64_t max, int64_t *out, struct st_err *e)
{
    int rc = st_json_need(o, where, key, e);
    return rc ? rc : st_json_int(o, where, key, 0, max, out, e);
}

static int need_str(const json_t *o, const char *where, const char *key, const char **out, struct st_err *e)
{
    int rc = st_json_need(o, where, key, e);
    return rc ? rc : st_json_str(o, where, key, out, e);
}

static int need_hex(const json_t *o, const char *where, const char *key, uint8_t *out, size_t len, struct st_err *e)
{
    const char *s = "";
    int rc = need_str(o, where, key, &s, e);
    rc = rc ? rc : st_unhex(s, strlen(s), out, len, key, e);
    return rc == 0 ? 0 : st_err_prefix(e, "%s", where);
}

/* "2025-06-19T10:16:03Z" */
static int need_time(const json_t *o, const char *where, const char *key, int64_t *out, struct st_err *e)
{
    static const char form[] = "dddd-dd-ddTdd:dd:ddZ";
    const char *s = "";
    int rc = need_str(o, where, key, &s, e);
    if (rc)
        return rc;
    bool ok = strlen(s) == sizeof form - 1;
    for (size_t i = 0; ok && form[i]; i++)
        ok = form[i] == 'd' ? s[i] >= '0' && s[i] <= '9' : s[i] == form[i];
    struct tm t = {0};
    char again[sizeof form] = "";
    if (ok && sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2dZ", &t.tm_year, &t.tm_mon, &t.tm_mday, &t.tm_hour, &t.tm_min,
                     &t.tm_sec) == 6) {
        t.tm_year -= 1900;
        t.tm_mon -= 1;
        *out = timegm(&t);
        strftime(again, sizeof again, "%Y-%m-%dT%H:%M:%SZ", &t); /* timegm() has put days like 31 June right */
    }
    if (strcmp(s, again) != 0)
        return st_fail(e, ST_INPUT, "%s: %s: want a time like 2025-06-19T10:16:03Z", where, key);
    return 0;
}

static int need_array(const json_t *o, const char *where, const char *key, const json_t **out, struct st_err *e)
{
    int rc = st_json_need(o, where, key, e);
    if (rc)
        return rc;
    *out = json_object_get(o, key);
    return json_is_array(*out) ? 0 : st_fail(e, ST_INPUT, "%s: %s: want an array", where, key);
}

/* Statuses of levels.
 * ------------------------------------------------------------------------------------------------------------ */

/* The status of a platform of which one part (TDX module, QE) has a status of its own. */
static enum st_tcb_status worse(enum st_tcb_status platform, enum st_tcb_status part)
{
    if (part == ST_TCB_REVOKED || platform == ST_TCB_REVOKED)
        return ST_TCB_REVOKED;
    if (part == ST_TCB_UP_TO_DATE || platform >= ST_TCB_OUT_OF_DATE)
        return platform > part ? platform : part;
    return platform == ST_TCB_CONFIGURATION || platform == ST_TCB_CONFIGURATION_AND_SW_HARDENING
               ? ST_TCB_OUT_OF_DATE_CONFIGURATION
               : ST_TCB_OUT_OF_DATE;
}

/* id stands in the comma-separated list. */
static bool listed(const struct st_buf *list, const char *id)
{
    size_t len = strlen(id);
    for (const char *p = list->len ? list->p : NULL; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (strncmp(p, id, len) == 0 && (p[len] == 0 || p[len] == ','))
            return true;
    return false;
}

static int add_advisories(const json_t *level, const char *where, struct st_buf *out, struct st_err *e)
{
    const json_t *list = json_object_get(level, "advisoryIDs");
    if (!list)
        return 0;
    if (!json_is_array(list) || json_array_size(list) > MAX_ADVISORIES)
        return st_fail(e, ST_INPUT, "%s: advisoryIDs: want an array of at most %d", where, MAX_ADVISORIES);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *id = json_string_value(json_array_get(list, i));
        size_t len = id ? strlen(id) : 0;
        if (len == 0 || len > MAX_ADVISORY || strpbrk(id, ", \t\r\n"))
            return st_fail(e, ST_INPUT, "%s: advisoryIDs: want names of 1 to %d characters", where, MAX_ADVISORY);
        if (!listed(out, id))
            st_buf_addf(out, "%s%s", out->len ? "," : "", id);
    }
    return out->failed ? st_fail(e, ST_MEMORY, "%s: no memory for advisories", where) : 0;
}

/* Takes over status, date and advisories of the level that fits. */
static int add_level(const json_t *level, const char *where, bool part, struct st_tcb_found *found, struct st_err *e)
{
    const char *word = "";
    int64_t date = 0;
    int rc = need_str(level, where, "tcbStatus", &word, e);
    if (rc == 0)
        rc = need_time(level, where, "tcbDate", &date, e);
    if (rc == 0)
        rc = add_advisories(level, where, &found->advisories, e);
    if (rc)
        return rc;
    for (unsigned s = 0; s < ST_TCB_STATUS_COUNT; s++)
        if (strcmp(word, words[s]) == 0) {
            /* A part's own levels know three words only. */
            if (part && s != ST_TCB_UP_TO_DATE && s != ST_TCB_OUT_OF_DATE && s != ST_TCB_REVOKED)
                break;
            found->status = part ? worse(found->status, s) : worse(s, found->status);
            if (!found->date || date < found->date)
                found->date = date;
            return 0;
        }
    return st_fail(e, ST_INPUT, "%s: tcbStatus: unknown", where);
}

/* The first level of a part whose isvsvn is reached. */
static int add_part_level(const json_t *o, const char *where, unsigned svn, struct st_tcb_found *found,
                          struct st_err *e)
{
    const json_t *levels = NULL;
    int rc = need_array(o, where, "tcbLevels", &levels, e);
    for (size_t i = 0; rc == 0 && i < json_array_size(levels); i++) {
        const json_t *level = json_array_get(levels, i);
        int64_t want = 0;
        rc = need_int(json_object_get(level, "tcb"), where, "isvsvn", UINT16_MAX, &want, e);
        if (rc == 0 && svn >= want)
            return add_level(level, where, true, found, e);
    }
    return rc ? rc : st_fail(e, ST_VERIFY, "%s: no level for isvsvn %u", where, svn);
}

/* TCB info.
 * ------------------------------------------------------------------------------------------------------------ */

static int read_tcb_info(struct st_tcb_info *t, struct st_err *e)
{
    static const char where[] = "tcbInfo";
    int64_t version = 0, evaluation = 0, type = 0;
    const char *id = "SGX"; /* version 2 has none */
    int rc = need_int(t->json, where, "version", 3, &version, e);
    if (rc == 0 && version < 2)
        return st_fail(e, ST_UNSUPPORTED, "%s: version: want 2 or 3, got %d", where, (int)version);
    if (rc == 0 && version == 3)
        rc = need_str(t->json, where, "id", &id, e);
    if (rc == 0)
        rc = need_int(t->json, where, "tcbType", INT32_MAX, &type, e);
    if (rc == 0)
        rc = need_int(t->json, where, "tcbEvaluationDataNumber", UINT32_MAX, &evaluation, e);
    if (rc == 0)
        rc = need_time(t->json, where, "issueDate", &t->issued, e);
    if (rc == 0)
        rc = need_time(t->json, where, "nextUpdate", &t->next_update, e);
    if (rc == 0)
        rc = need_hex(t->json, where, "fmspc", t->fmspc, sizeof t->fmspc, e);
    if (rc == 0)
        rc = need_hex(t->json, where, "pceId", t->pce_id, sizeof t->pce_id, e);
    if (rc)
        return rc;
    t->is_tdx = strcmp(id, "TDX") == 0;
    if (!t->is_tdx && strcmp(id, "SGX") != 0)
        return st_fail(e, ST_UNSUPPORTED, "%s: id: want SGX or TDX", where);
    if (type != 0) /* how levels are compared */
        return st_fail(e, ST_UNSUPPORTED, "%s: tcbType: want 0, got %d", where, (int)type);
    t->version = (unsigned)version;
    t->evaluation = (uint32_t)evaluation;
    return 0;
}

int st_tcb_info_parse(struct st_span json, struct st_tcb_info *out, struct st_err *e)
{
    struct st_tcb_info t = {0};
    int rc = st_json_parse(json.p, json.len, "tcbInfo", &t.json, e);
    if (rc == 0)
        rc = read_tcb_info(&t, e);
    if (rc) {
        st_tcb_info_free(&t);
        return rc;
    }
    *out = t;
    return 0;
}

void st_tcb_info_free(struct st_tcb_info *t)
{
    json_decref(t->json);
    *t = (struct st_tcb_info){0};
}

/* MRSIGNERSEAM and attributes as one description of a module has them. */
static int match_module(const json_t *o, const char *where, const struct st_td_report *td, struct st_err *e)
{
    uint8_t signer[48], attributes[8], mask[8];
    int rc = need_hex(o, where, "mrsigner", signer, sizeof signer, e);
    if (rc == 0)
        rc = need_hex(o, where, "attributes", attributes, sizeof attributes, e);
    if (rc == 0)
        rc = need_hex(o, where, "attributesMask", mask, sizeof mask, e);
    if (rc)
        return rc;
    if (memcmp(signer, td->mrsignerseam, sizeof signer) != 0)
        return st_fail(e, ST_VERIFY, "%s: mrsigner: another signed the TDX module", where);
    for (size_t i = 0; i < sizeof mask; i++)
        if ((td->seamattributes[i] & mask[i]) != attributes[i])
            return st_fail(e, ST_VERIFY, "%s: attributes: the TDX module has others", where);
    return 0;
}

int st_tcb_info_module(const struct st_tcb_info *t, const struct st_td_report *td, struct st_tcb_found *found,
                       struct st_err *e)
{
    unsigned version = td->tee_tcb_svn[1], svn = td->tee_tcb_svn[0];
    const json_t *list = NULL;
    char want[16];
    if (version == 0) /* modules before 1.5 are one line of SVNs, judged with the platform's */
        return match_module(json_object_get(t->json, "tdxModule"), "tdxModule", td, e);
    int rc = need_array(t->json, "tcbInfo", "tdxModuleIdentities", &list, e);
    snprintf(want, sizeof want, "TDX_%02X", version);
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        const char *id = "";
        rc = need_str(one, "tdxModuleIdentities", "id", &id, e);
        if (rc || strcasecmp(id, want) != 0)
            continue;
        rc = match_module(one, want, td, e);
        return rc ? rc : add_part_level(one, want, svn, found, e);
    }
    return rc ? rc : st_fail(e, ST_VERIFY, "tdxModuleIdentities: none for %s", want);
}

/* The sixteen numbers of a level -> svn: an array of objects, or (version 2) fields of the level itself. */
static int read_components(const json_t *tcb, const char *key, unsigned version, uint8_t svn[16], struct st_err *e)
{
    const json_t *list = NULL;
    char name[32];
    int rc = version == 2 ? 0 : need_array(tcb, "tcbLevels", key, &list, e);
    if (rc == 0 && list && json_array_size(list) != 16)
        return st_fail(e, ST_INPUT, "tcbLevels: %s: want 16 components, got %zu", key, json_array_size(list));
    for (size_t i = 0; rc == 0 && i < 16; i++) {
        int64_t v = 0;
        snprintf(name, sizeof name, list ? "svn" : "sgxtcbcomp%02zusvn", i + 1);
        rc = need_int(list ? json_array_get(list, i) : tcb, "tcbLevels", name, UINT8_MAX, &v, e);
        svn[i] = (uint8_t)v;
    }
    return rc;
}

static bool reaches(const uint8_t *have, const uint8_t *want, size_t from)
{
    for (size_t i = from; i < 16; i++)
        if (have[i] < want[i])
            return false;
    return true;
}

/* *fits: every number of the level is reached. */
static int level_fits(const struct st_tcb_info *t, const json_t *level, const struct st_pck *pck,
                      const struct st_td_report *td, bool *fits, struct st_err *e)
{
    const json_t *tcb = json_object_get(level, "tcb");
    uint8_t want[16];
    int64_t pce_svn = 0;
    int rc = read_components(tcb, "sgxtcbcomponents", t->version, want, e);
    if (rc == 0)
        rc = need_int(tcb, "tcbLevels", "pcesvn", UINT16_MAX, &pce_svn, e);
    if (rc)
        return rc;
    *fits = reaches(pck->svn, want, 0) && pck->pce_svn >= pce_svn;
    if (!td)
        return 0;
    rc = read_components(tcb, "tdxtcbcomponents", t->version, want, e);
    /* The first two are the module's, which has levels of its own from version 1 on. */
    *fits = *fits && rc == 0 && reaches(td->tee_tcb_svn, want, td->tee_tcb_svn[1] ? 2 : 0);
    return rc;
}

int st_tcb_info_level(const struct st_tcb_info *t, const struct st_pck *pck, const struct st_td_report *td,
                      struct st_tcb_found *found, struct st_err *e)
{
    const json_t *levels = NULL;
    if (t->is_tdx != (td != NULL))
        return st_fail(e, ST_VERIFY, "tcbInfo: want the one for %s", td ? "TDX" : "SGX");
    int rc = need_array(t->json, "tcbInfo", "tcbLevels", &levels, e);
    for (size_t i = 0; rc == 0 && i < json_array_size(levels); i++) {
        bool fits = false;
        rc = level_fits(t, json_array_get(levels, i), pck, td, &fits, e);
        if (rc == 0 && fits)
            return add_level(json_array_get(levels, i), "tcbLevels", false, found, e);
    }
    return rc ? rc : st_fail(e, ST_VERIFY, "tcbInfo: no level is reached by this platform");
}

/* The quoting enclave's identity.
 * ------------------------------------------------------------------------------------------------------------ */

static int read_qe_identity(struct st_qe_identity *q, struct st_err *e)
{
    static const char where[] = "enclaveIdentity";
    int64_t version = 0, evaluation = 0, product = 0;
    const char *id = "";
    int rc = need_int(q->json, where, "version", INT32_MAX, &version, e);
    if (rc == 0 && version != 2)
        return st_fail(e, ST_UNSUPPORTED, "%s: version: want 2, got %d", where, (int)version);
    if (rc == 0)
        rc = need_str(q->json, where, "id", &id, e);
    if (rc == 0)
        rc = need_int(q->json, where, "tcbEvaluationDataNumber", UINT32_MAX, &evaluation, e);
    if (rc == 0)
        rc = need_int(q->json, where, "isvprodid", UINT16_MAX, &product, e);
    if (rc == 0)
        rc = need_time(q->json, where, "issueDate", &q->issued, e);
    if (rc == 0)
        rc = need_time(q->json, where, "nextUpdate", &q->next_update, e);
    const struct {
        const char *key;
        uint8_t *to;
        size_t len;
    } fields[] = {
        {"miscselect", q->miscselect, sizeof q->miscselect},
        {"miscselectMask", q->miscselect_mask, sizeof q->miscselect_mask},
        {"attributes", q->attributes, sizeof q->attributes},
        {"attributesMask", q->attributes_mask, sizeof q->attributes_mask},
        {"mrsigner", q->mrsigner, sizeof q->mrsigner},
    };
    for (size_t i = 0; rc == 0 && i < sizeof fields / sizeof *fields; i++)
        rc = need_hex(q->json, where, fields[i].key, fields[i].to, fields[i].len, e);
    if (rc)
        return rc;
    q->is_tdx = strcmp(id, "TD_QE") == 0;
    if (!q->is_tdx && strcmp(id, "QE") != 0)
        return st_fail(e, ST_UNSUPPORTED, "%s: id: want QE or TD_QE", where);
    q->evaluation = (uint32_t)evaluation;
    q->isv_prod_id = (uint16_t)product;
    return 0;
}

int st_qe_identity_parse(struct st_span json, struct st_qe_identity *out, struct st_err *e)
{
    struct st_qe_identity q = {0};
    int rc = st_json_parse(json.p, json.len, "enclaveIdentity", &q.json, e);
    if (rc == 0)
        rc = read_qe_identity(&q, e);
    if (rc) {
        st_qe_identity_free(&q);
        return rc;
    }
    *out = q;
    return 0;
}

void st_qe_identity_free(struct st_qe_identity *q)
{
    json_decref(q->json);
    *q = (struct st_qe_identity){0};
}

static bool equal_masked(const uint8_t *have, const uint8_t *want, const uint8_t *mask, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((have[i] & mask[i]) != want[i])
            return false;
    return true;
}

int st_qe_identity_match(const struct st_qe_identity *q, const struct st_sgx_report *qe, struct st_tcb_found *found,
                         struct st_err *e)
{
    const char *differs = NULL;
    if (!equal_masked(qe->miscselect, q->miscselect, q->miscselect_mask, sizeof q->miscselect))
        differs = "MISCSELECT";
    else if (!equal_masked(qe->attributes, q->attributes, q->attributes_mask, sizeof q->attributes))
        differs = "attributes";
    else if (memcmp(qe->mrsigner, q->mrsigner, sizeof q->mrsigner) != 0)
        differs = "MRSIGNER";
    else if (qe->isv_prod_id != q->isv_prod_id)
        differs = "ISVPRODID";
    if (differs)
        return st_fail(e, ST_VERIFY, "enclaveIdentity: the quoting enclave has another %s", differs);
    return add_part_level(q->json, "enclaveIdentity", qe->isv_svn, found, e);
}

#include "cli/attest_receipt.h"
#include "base/file.h"
#include "crypto/digest.h"

#include <string.h>

enum { MAX_FILE = 1024 };

int st_saved_receipt_read(const char *path, struct st_saved_receipt *out, struct st_err *e)
{
    struct st_buf b = {0};
    int rc = st_file_read(path, MAX_FILE, &b, e);
    size_t len = b.len;
    while (!rc && len && strchr(" \t\r\n", b.p[len - 1]))
        len--;
    if (!rc && len == 2 * ST_RECEIPT_LEN)
        rc = st_unhex(b.p, len, out->bytes, ST_RECEIPT_LEN, path, e);
    else if (!rc && b.len == ST_RECEIPT_LEN)
        memcpy(out->bytes, b.p, ST_RECEIPT_LEN);
    else if (!rc)
        rc = st_fail(e, ST_INPUT, "%s: want a receipt: %d bytes, or so many in hexadecimal", path, ST_RECEIPT_LEN);
    if (!rc && st_receipt_parse((struct st_span){out->bytes, ST_RECEIPT_LEN}, &out->says, e))
        rc = st_err_prefix(e, "%s", path);
    st_buf_free(&b);
    return rc;
}

static void check(struct st_verdict *v, const char *name, bool holds, const char *yes, const char *no)
{
    struct st_check *c = st_appraisal_check(&v->found, name, "%s", holds ? yes : no);
    if (holds)
        c->result = ST_CHECK_PASS;
    else if (v->good) {
        v->good = false;
        v->code = ST_VERIFY;
    }
}

static int check_content(struct st_verdict *v, const char *name, const char *path, const uint8_t want[32],
                         struct st_err *e)
{
    struct st_map m;
    uint8_t got[32];
    if (!path)
        return 0;
    if (st_map_open(path, &m, e))
        return e->code;
    st_sha256(m.p, m.len, got);
    check(v, name, memcmp(got, want, sizeof got) == 0, "the receipt is for this content",
          "the receipt is for another content");
    st_map_close(&m);
    return 0;
}

int st_saved_receipt_judge(const struct st_saved_receipt *r, const struct st_bundle *b, const char *request,
                           const char *reply, struct st_verdict *v, struct st_err *e)
{
    static const uint8_t none[32];
    const struct st_binding *k = &b->binding;
    struct st_receipt want = r->says;
    struct st_err why;
    int64_t time;
    bool bound = b->has_binding && memcmp(k->receipt_key, r->says.key, sizeof r->says.key) == 0;
    check(v, "receipt.key", bound, "the evidence certifies it", "the evidence certifies another key");
    /* Only under the key of the evidence does a signature mean anything. */
    memcpy(want.key, b->has_binding ? k->receipt_key : none, sizeof want.key);
    bool signed_by = st_receipt_verify((struct st_span){r->bytes, ST_RECEIPT_LEN}, &want, &time, &why) == 0;
    check(v, "receipt.signature", bound && signed_by, "signed by that key", "not signed by the key of the evidence");
    const uint8_t *model = b->has_binding && k->has_model ? k->model : none;
    check(v, "receipt.model", memcmp(model, r->says.model, 32) == 0, "the model that the evidence states",
          "another model than the evidence states");
    if (check_content(v, "receipt.request", request, r->says.request, e) ||
        check_content(v, "receipt.reply", reply, r->says.reply, e))
        return e->code;
    st_appraisal_time(&v->found, "receipt.time", r->says.time);
    st_appraisal_hex(&v->found, "receipt.request_hash", r->says.request, 32);
    st_appraisal_hex(&v->found, "receipt.reply_hash", r->says.reply, 32);
    st_appraisal_hex(&v->found, "receipt.model", r->says.model, 32);
    return v->found.failed ? st_fail(e, ST_MEMORY, "no memory for the verdict") : 0;
}

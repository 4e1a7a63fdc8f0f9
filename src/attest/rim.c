#include "attest/rim.h"
#include "crypto/digest.h"
#include "text/base64.h"

#include <libxml/c14n.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define DSIG "http://www.w3.org/2000/09/xmldsig#"
#define C14N11 "http://www.w3.org/2006/12/xml-c14n11"
#define SWID "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
#define SHA384_NS "http://www.w3.org/2001/04/xmlenc#sha384"

static int malformed(const char *what, struct st_err *e)
{
    return st_fail(e, ST_INPUT, "rim: %s", what);
}

/* ---- elements ---- */

static bool is_element(const xmlNode *n, const char *ns, const char *name)
{
    return n->type == XML_ELEMENT_NODE && n->ns && n->ns->href && strcmp((const char *)n->ns->href, ns) == 0 &&
           strcmp((const char *)n->name, name) == 0;
}

/* The only child element of this name; NULL when there is none or more than one. */
static xmlNode *only_child(const xmlNode *parent, const char *ns, const char *name)
{
    xmlNode *found = NULL;
    for (xmlNode *n = parent ? parent->children : NULL; n; n = n->next) {
        if (!is_element(n, ns, name))
            continue;
        if (found)
            return NULL;
        found = n;
    }
    return found;
}

static size_t count_elements(const xmlNode *parent)
{
    size_t count = 0;
    for (const xmlNode *n = parent->children; n; n = n->next)
        count += n->type == XML_ELEMENT_NODE;
    return count;
}

/* An attribute without a namespace (ns NULL) or of one -> out; false when it is absent or too long. */
static bool get_attribute(const xmlNode *n, const char *ns, const char *name, char *out, size_t cap)
{
    xmlChar *v = ns ? xmlGetNsProp((xmlNode *)(uintptr_t)n, (const xmlChar *)name, (const xmlChar *)ns)
                    : xmlGetNoNsProp((xmlNode *)(uintptr_t)n, (const xmlChar *)name);
    bool ok = v && strlen((const char *)v) < cap;
    if (ok)
        strcpy(out, (const char *)v);
    xmlFree(v);
    return ok;
}

static bool attribute_is(const xmlNode *n, const char *name, const char *want)
{
    char v[128];
    return n && get_attribute(n, NULL, name, v, sizeof v) && strcmp(v, want) == 0;
}

/* The element's text, base64 with white space in it. */
static bool get_base64(const xmlNode *n, struct st_buf *out)
{
    struct st_buf text = {0};
    xmlChar *v = n ? xmlNodeGetContent(n) : NULL;
    for (const xmlChar *c = v; c && *c; c++)
        if (*c != ' ' && *c != '\n' && *c != '\r' && *c != '\t')
            st_buf_add(&text, c, 1);
    st_buf_clear(out);
    bool ok = text.p && !text.failed && st_base64_decode(text.p, text.len, out) && !out->failed;
    st_buf_free(&text);
    xmlFree(v);
    return ok;
}

/* ---- canonical form ---- */

struct part {
    const xmlNode *root;
    bool inside; /* the subtree of root, or everything but it */
};

static int is_visible(void *user, xmlNode *node, xmlNode *parent)
{
    const struct part *part = user;
    /* Attributes and namespaces go with their element. */
    const xmlNode *n = node->type == XML_ATTRIBUTE_NODE || node->type == XML_NAMESPACE_DECL ? parent : node;
    while (n && n != part->root)
        n = n->parent;
    return (n != NULL) == part->inside;
}

static int canonical(xmlDoc *doc, struct part *part, struct st_buf *out, struct st_err *e)
{
    xmlOutputBuffer *b = xmlAllocOutputBuffer(NULL);
    if (!b)
        return st_fail(e, ST_MEMORY, "rim: out of memory");
    int n = xmlC14NExecute(doc, is_visible, part, XML_C14N_1_1, NULL, 0, b);
    if (n >= 0)
        st_buf_add(out, xmlOutputBufferGetContent(b), xmlOutputBufferGetSize(b));
    xmlOutputBufferClose(b);
    return n >= 0 && !out->failed ? 0 : malformed("has no canonical form", e);
}

/* ---- signature ---- */

struct signature {
    const xmlNode *whole, *info, *key_info;
    struct st_buf digest, value;
};

static int read_signature(const xmlNode *root, struct signature *s, struct st_err *e)
{
    s->whole = only_child(root, DSIG, "Signature");
    s->info = only_child(s->whole, DSIG, "SignedInfo");
    s->key_info = only_child(only_child(s->whole, DSIG, "KeyInfo"), DSIG, "X509Data");
    const xmlNode *reference = only_child(s->info, DSIG, "Reference");
    const xmlNode *transforms = only_child(reference, DSIG, "Transforms");
    if (!s->whole || !s->info || !s->key_info || !reference || !transforms || count_elements(s->info) != 3 ||
        count_elements(reference) != 3 || count_elements(transforms) != 2)
        return malformed("want one enveloped XML signature with one reference and two transforms", e);
    const xmlNode *first = xmlFirstElementChild((xmlNode *)(uintptr_t)transforms);
    const xmlNode *second = xmlLastElementChild((xmlNode *)(uintptr_t)transforms);
    if (!attribute_is(only_child(s->info, DSIG, "CanonicalizationMethod"), "Algorithm", C14N11) ||
        !attribute_is(only_child(s->info, DSIG, "SignatureMethod"), "Algorithm",
                      "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384") ||
        !attribute_is(only_child(reference, DSIG, "DigestMethod"), "Algorithm",
                      "http://www.w3.org/2001/04/xmldsig-more#sha384") ||
        !attribute_is(reference, "URI", "") || !is_element(first, DSIG, "Transform") ||
        !attribute_is(first, "Algorithm", DSIG "enveloped-signature") || !is_element(second, DSIG, "Transform") ||
        !attribute_is(second, "Algorithm", C14N11))
        return malformed("its signature uses other algorithms than NVIDIA's", e);
    if (!get_base64(only_child(reference, DSIG, "DigestValue"), &s->digest) || s->digest.len != SHA384_DIGEST_LENGTH ||
        !get_base64(only_child(s->whole, DSIG, "SignatureValue"), &s->value) || s->value.len != 96)
        return malformed("want a digest of 48 and a signature of 96 bytes in base64", e);
    return 0;
}

static int read_certificates(const xmlNode *data, struct st_certs *out, struct st_err *e)
{
    struct st_buf der = {0};
    int rc = 0;
    for (const xmlNode *n = data->children; n && !rc; n = n->next) {
        if (!is_element(n, DSIG, "X509Certificate"))
            continue;
        rc = get_base64(n, &der) ? st_certs_add(out, der.p, der.len, "rim", e)
                                 : malformed("a certificate is not base64", e);
    }
    st_buf_free(&der);
    return rc ? rc : out->n ? 0 : malformed("its signature names no certificate", e);
}

static int check_signature(xmlDoc *doc, const struct signature *s, const struct st_certs *roots, int64_t time,
                           int64_t *until, struct st_err *e)
{
    struct st_certs chain = {0};
    struct st_buf bytes = {0};
    uint8_t digest[SHA384_DIGEST_LENGTH];
    struct part rest = {s->whole, false}, info = {s->info, true};
    int rc = canonical(doc, &rest, &bytes, e);
    if (rc)
        goto out;
    SHA384((const uint8_t *)bytes.p, bytes.len, digest);
    if (memcmp(digest, s->digest.p, sizeof digest) != 0) {
        rc = st_fail(e, ST_VERIFY, "rim: its digest is not the one that was signed");
        goto out;
    }
    st_buf_clear(&bytes);
    rc = canonical(doc, &info, &bytes, e);
    if (!rc)
        rc = read_certificates(s->key_info, &chain, e);
    if (rc)
        goto out;
    const uint8_t *value = (const uint8_t *)s->value.p;
    const struct st_x509_verify v = {
        .leaf = st_certs_leaf(&chain), .chain = &chain, .roots = roots, .time = time, .until = until};
    if (!v.leaf)
        rc = st_fail(e, ST_VERIFY, "rim: its certificates are no chain");
    else if (st_x509_verify(&v, e) ||
             st_ecdsa_verify(X509_get0_pubkey(v.leaf), bytes.p, bytes.len, value, value + 48, 48, e))
        rc = st_err_prefix(e, "rim");
out:
    st_certs_free(&chain);
    st_buf_free(&bytes);
    return rc;
}

/* ---- measurements ---- */

static int add_values(const xmlNode *n, struct st_rim *out, struct st_err *e)
{
    char text[128], name[32];
    char *end = text;
    if (!attribute_is(n, "type", "Measurement") || attribute_is(n, "active", "False"))
        return 0;
    if (!attribute_is(n, "active", "True") || !attribute_is(n, "size", "48"))
        return malformed("a measurement: want active True or False and size 48", e);
    unsigned long index =
        get_attribute(n, NULL, "index", text, sizeof text) ? strtoul(text, &end, 10) : ST_RIM_MAX_INDEX;
    if (index >= ST_RIM_MAX_INDEX || *end || !*text || *text == '-' || *text == '+')
        return malformed("a measurement: index: want 0..255", e);
    unsigned long count = get_attribute(n, NULL, "alternatives", text, sizeof text) ? strtoul(text, &end, 10) : 0;
    if (count == 0 || count > ST_RIM_MAX_VALUES - out->n_value || *end)
        return malformed("a measurement: alternatives: want 1 or more, 1024 in all", e);
    for (unsigned long i = 0; i < count; i++) {
        struct st_rim_value *v = &out->values[out->n_value];
        snprintf(name, sizeof name, "Hash%lu", i);
        if (!get_attribute(n, SHA384_NS, name, text, sizeof text) ||
            st_unhex(text, strlen(text), v->hash, ST_RIM_HASH, "rim: a measurement's hash", e))
            return malformed("a measurement: want as many hashes of 96 digits as alternatives", e);
        v->index = (uint8_t)index;
        out->n_value++;
    }
    return 0;
}

static int read_values(const xmlNode *root, struct st_rim *out, struct st_err *e)
{
    const xmlNode *meta = only_child(root, SWID, "Meta"), *payload = only_child(root, SWID, "Payload");
    if (!meta || !payload || !get_attribute(meta, NULL, "colloquialVersion", out->version, sizeof out->version) ||
        !*out->version)
        return malformed("want one Meta with colloquialVersion and one Payload", e);
    for (const xmlNode *n = payload->children; n; n = n->next)
        if (is_element(n, SWID, "Resource") && add_values(n, out, e))
            return e->code;
    return out->n_value ? 0 : malformed("holds no active measurement", e);
}

/* ---- whole ---- */

/* Hostile documents must not write on the caller's standard error. */
static void ignore(void *user, xmlErrorPtr error)
{
    (void)user;
    (void)error;
}

/* Documents whose signature was found good: a RIM is one file for all machines with that driver or VBIOS, and its four
 * signatures cost more than all else in a GPU's evidence. */
#define REMEMBERED 16
static struct {
    pthread_mutex_t lock;
    size_t next;
    struct {
        uint8_t key[32];
        int64_t from, until; /* good at from <= time < until */
    } list[REMEMBERED];
} good = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Of every byte of the document and the roots. */
static int document_key(const void *p, size_t len, const struct st_certs *roots, uint8_t key[32])
{
    uint8_t in[32 + 32 * ST_X509_MAX];
    st_sha256(p, len, in);
    for (size_t i = 0; i < roots->n; i++)
        if (X509_digest(roots->p[i], EVP_sha256(), in + 32 + 32 * i, NULL) != 1)
            return ST_INTERNAL;
    st_sha256(in, 32 + 32 * roots->n, key);
    return 0;
}

static bool is_known(const uint8_t key[32], int64_t time, int64_t *until)
{
    bool known = false;
    pthread_mutex_lock(&good.lock);
    for (size_t i = 0; i < REMEMBERED && !known; i++) {
        known = memcmp(good.list[i].key, key, 32) == 0 && time >= good.list[i].from && time < good.list[i].until;
        if (known)
            *until = good.list[i].until;
    }
    pthread_mutex_unlock(&good.lock);
    return known;
}

static void remember(const uint8_t key[32], int64_t time, int64_t until)
{
    pthread_mutex_lock(&good.lock);
    size_t i = good.next++ % REMEMBERED;
    memcpy(good.list[i].key, key, 32);
    good.list[i].from = time;
    good.list[i].until = until;
    pthread_mutex_unlock(&good.lock);
}

static int read_document(xmlDoc *doc, const uint8_t key[32], const struct st_certs *roots, int64_t time,
                         struct st_rim *out, struct st_err *e)
{
    struct signature s = {0};
    const xmlNode *root = xmlDocGetRootElement(doc);
    if (!root || doc->intSubset || doc->extSubset || !is_element(root, SWID, "SoftwareIdentity"))
        return malformed("want a SoftwareIdentity of ISO/IEC 19770-2:2015 without a document type", e);
    int rc = read_values(root, out, e);
    if (rc || is_known(key, time, &out->until))
        return rc;
    rc = read_signature(root, &s, e);
    if (!rc)
        rc = check_signature(doc, &s, roots, time, &out->until, e);
    if (!rc)
        remember(key, time, out->until);
    st_buf_free(&s.digest);
    st_buf_free(&s.value);
    return rc;
}

int st_rim_read(const void *p, size_t len, const struct st_certs *roots, int64_t time, struct st_rim *out,
                struct st_err *e)
{
    memset(out, 0, sizeof *out);
    if (len == 0 || len > ST_RIM_MAX_BYTES)
        return st_fail(e, ST_INPUT, "rim: want 1..%zu bytes, got %zu", ST_RIM_MAX_BYTES, len);
    uint8_t key[32];
    if (document_key(p, len, roots, key))
        return st_fail(e, ST_INTERNAL, "rim: roots: no digest");
    xmlStructuredErrorFunc before = xmlStructuredError;
    void *before_user = xmlStructuredErrorContext;
    xmlSetStructuredErrorFunc(NULL, ignore);
    xmlDoc *doc = xmlReadMemory(p, (int)len, NULL, NULL, XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    int rc = doc ? read_document(doc, key, roots, time, out, e) : malformed("is not well-formed XML", e);
    xmlFreeDoc(doc);
    xmlSetStructuredErrorFunc(before_user, before);
    return rc;
}

/* Several kinds of evidence as one bundle. Items stand in the order in which their kinds were named. */
#include "attest/collector.h"
#include "attest/binding.h"
#include "attest/bundle.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define X(kind) extern const struct st_collector st_collector_##kind;
#include "attest/collectors.def"
#undef X

static const struct st_collector *const collectors[] = {
#define X(kind) &st_collector_##kind,
#include "attest/collectors.def"
#undef X
    NULL};
#define N_COLLECTOR ((int)(sizeof collectors / sizeof *collectors) - 1)

const struct st_collector *st_collector_at(int i)
{
    return i >= 0 && i <= N_COLLECTOR ? collectors[i] : NULL;
}

const struct st_collector *st_collector_find(const char *kind)
{
    for (int i = 0; i < N_COLLECTOR; i++)
        if (strcmp(collectors[i]->kind, kind) == 0)
            return collectors[i];
    return NULL;
}

struct st_collection {
    struct part {
        const struct st_collector *by;
        void *h;
        pthread_mutex_t busy; /* unchanged() on one thread while another collects */
    } parts[ST_EVIDENCE_MAX_ITEMS];
    size_t n;
    char *endorsements; /* directory, NULL = none */
};

/* ---- opening ---- */

static int unknown(const char *kind, struct st_err *e)
{
    char known[128] = "";
    for (int i = 0; i < N_COLLECTOR; i++) {
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", collectors[i]->kind);
    }
    return st_fail(e, ST_UNSUPPORTED, "evidence: '%.40s' is not collected here; known: %s", kind, known);
}

static int open_part(struct st_collection *c, const char *kind, const struct st_collect_opts *o, struct st_err *e)
{
    const struct st_collector *by = st_collector_find(kind);
    if (!by)
        return unknown(kind, e);
    for (size_t i = 0; i < c->n; i++)
        if (c->parts[i].by == by)
            return st_fail(e, ST_USAGE, "evidence: '%s' is named twice", kind);
    struct part *p = &c->parts[c->n];
    if (by->open(o, &p->h, e))
        return e->code;
    p->by = by;
    pthread_mutex_init(&p->busy, NULL);
    c->n++;
    return 0;
}

/* The items as they will be, without content yet. */
static void lay_out(const struct st_collection *c, struct st_bundle *out)
{
    *out = (struct st_bundle){.n_item = c->n};
    for (size_t i = 0; i < c->n; i++)
        out->items[i].kind = c->parts[i].by->kind;
}

static bool can_carry(const struct st_collection *c)
{
    struct st_bundle b;
    lay_out(c, &b);
    return st_binding_carrier(&b) >= 0;
}

int st_collection_open(const char *const *kinds, size_t n, const struct st_collect_opts *o, struct st_collection **out,
                       struct st_err *e)
{
    int rc = 0;
    *out = NULL;
    if (n == 0 || n > ST_EVIDENCE_MAX_ITEMS)
        return st_fail(e, ST_USAGE, "evidence: want 1..%d kinds, got %zu", ST_EVIDENCE_MAX_ITEMS, n);
    struct st_collection *c = calloc(1, sizeof *c);
    if (!c)
        return st_fail(e, ST_MEMORY, "evidence: no memory");
    if (o->endorsements && !(c->endorsements = strdup(o->endorsements)))
        rc = st_fail(e, ST_MEMORY, "evidence: no memory");
    for (size_t i = 0; i < n && !rc; i++)
        rc = open_part(c, kinds[i], o, e);
    if (!rc && !can_carry(c))
        rc = st_fail(e, ST_USAGE, "evidence: nothing here can carry the node's keys; want tdx, snp, sgx, tpm or sim");
    if (rc)
        st_collection_close(c);
    else
        *out = c;
    return rc;
}

void st_collection_close(struct st_collection *c)
{
    if (!c)
        return;
    while (c->n) {
        struct part *p = &c->parts[--c->n];
        p->by->close(p->h);
        pthread_mutex_destroy(&p->busy);
    }
    free(c->endorsements);
    free(c);
}

int st_collection_unchanged(struct st_collection *c, struct st_err *e)
{
    int rc = 0;
    for (size_t i = 0; i < c->n && !rc; i++) {
        struct part *p = &c->parts[i];
        if (!p->by->unchanged)
            continue;
        pthread_mutex_lock(&p->busy);
        rc = p->by->unchanged(p->h, e);
        pthread_mutex_unlock(&p->busy);
    }
    return rc;
}

/* ---- what a sandbox must leave ---- */

static void need(const char **paths, size_t *n, const char *path)
{
    if (*n < ST_COLLECT_MAX_NEEDS && st_path_exists(path))
        paths[(*n)++] = path;
}

void st_collect_needs_read(struct st_collect_needs *n, const char *path)
{
    need(n->read, &n->n_read, path);
}

void st_collect_needs_write(struct st_collect_needs *n, const char *path)
{
    need(n->write, &n->n_write, path);
}

void st_collection_needs(const struct st_collection *c, struct st_collect_needs *out)
{
    *out = (struct st_collect_needs){0};
    for (size_t i = 0; i < c->n; i++)
        if (c->parts[i].by->needs)
            c->parts[i].by->needs(c->parts[i].h, out);
    if (c->endorsements)
        st_collect_needs_read(out, c->endorsements);
}

/* ---- collecting ---- */

struct target {
    struct st_bundle *bundle;
    struct st_evidence *item;
};

static int endorse(void *ctx, enum st_endorsement_type t, const void *p, size_t n, struct st_err *e)
{
    struct target *to = ctx;
    struct st_span data;
    if (st_bundle_keep(to->bundle, p, n, &data, e))
        return e->code;
    return st_bundle_attach(to->item, t, data, to->item->kind, e);
}

static int collect_item(struct st_collection *c, struct st_bundle *b, size_t i, struct st_err *e)
{
    struct target to = {b, &b->items[i]};
    struct part *p = &c->parts[i];
    struct st_buf bytes = {0};
    uint8_t data[ST_REPORT_DATA];
    size_t len = 0;
    int rc = st_binding_expected(b, i, data, &len, e);
    if (!rc) {
        pthread_mutex_lock(&p->busy);
        rc = p->by->collect(p->h, data, len, &bytes, endorse, &to, e);
        pthread_mutex_unlock(&p->busy);
    }
    if (!rc && bytes.failed)
        rc = st_fail(e, ST_MEMORY, "%s: no memory for the evidence", to.item->kind);
    if (!rc)
        rc = st_bundle_keep(b, bytes.p, bytes.len, &to.item->data, e);
    st_buf_free(&bytes);
    return rc;
}

static int add_file(struct st_collection *c, struct st_bundle *b, const char *path, struct st_err *e)
{
    struct st_buf bytes = {0};
    struct st_span data;
    int rc = st_file_read(path, ST_EVIDENCE_MAX_BYTES, &bytes, e);
    unsigned types = rc ? 0 : st_endorsement_recognise((const uint8_t *)bytes.p, bytes.len);
    if (!rc && !types)
        rc = st_fail(e, ST_INPUT, "%s: no endorsement of a type known here", path);
    if (!rc)
        rc = st_bundle_keep(b, bytes.p, bytes.len, &data, e);
    for (size_t i = 0; i < c->n && !rc; i++)
        for (int t = 0; t < ST_ENDORSEMENT_COUNT && !rc; t++)
            if (types & c->parts[i].by->endorsements & 1u << t)
                rc = st_bundle_attach(&b->items[i], (enum st_endorsement_type)t, data, path, e);
    st_buf_free(&bytes);
    return rc;
}

static int visible(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

static int add_directory(struct st_collection *c, struct st_bundle *b, struct st_err *e)
{
    struct dirent **names;
    char path[ST_PATH_MAX];
    int rc = 0, n = scandir(c->endorsements, &names, visible, alphasort);
    if (n < 0)
        return st_fail(e, ST_IO, "%s: cannot be read: %s", c->endorsements, strerror(errno));
    for (int i = 0; i < n; i++) {
        if (!rc && !st_path_join(path, sizeof path, c->endorsements, names[i]->d_name, e))
            rc = add_file(c, b, path, e);
        else if (!rc)
            rc = e->code;
        free(names[i]);
    }
    free(names);
    return rc;
}

int st_collection_collect(struct st_collection *c, const struct st_binding *b, struct st_bundle *out, struct st_err *e)
{
    int rc = 0;
    lay_out(c, out);
    out->has_binding = true;
    out->binding = *b;
    int carrier = st_binding_carrier(out);
    for (size_t i = 0; i < c->n && !rc; i++)
        if ((int)i != carrier)
            rc = collect_item(c, out, i, e);
    if (!rc)
        rc = collect_item(c, out, (size_t)carrier, e);
    if (!rc && c->endorsements)
        rc = add_directory(c, out, e);
    if (rc)
        st_bundle_free(out);
    return rc;
}

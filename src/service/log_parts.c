#include "service/log_parts.h"
#include "attest/tiles.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of the directory that gateways leave to issuers: without an issuer's keys of the day nobody can pay anybody. */
#define ISSUERS_ROOM (16 << 10)

static void part_free(struct st_log_part *part)
{
    if (!part)
        return;
    st_directory_wipe(&part->row);
    st_buf_free(&part->text);
    free(part);
}

static const char *name_of(const struct st_log_part *part)
{
    return part->row.n_gateway ? part->row.gateways[0].name : part->row.issuers[0].name;
}

/* Gateways before issuers, by name: where a part stands says nothing of when it came. */
static int order(const struct st_log_part *a, const struct st_log_part *b)
{
    if (a->row.n_gateway != b->row.n_gateway)
        return a->row.n_gateway ? -1 : 1;
    return strcmp(name_of(a), name_of(b));
}

static int part_read(struct st_span bytes, const char *where, struct st_log_part **out, struct st_err *e)
{
    struct st_log_part *part = *out = NULL;
    if (st_alloc(&part, 1, sizeof *part, "part", e))
        return e->code;
    if (st_directory_parse_part(bytes.p, bytes.len, where, &part->row, e)) {
        part_free(part);
        return e->code;
    }
    if (part->row.n_gateway)
        st_directory_write_gateway(&part->row.gateways[0], &part->text);
    else
        st_directory_write_issuer(&part->row.issuers[0], &part->text);
    if (part->text.failed) {
        part_free(part);
        return st_fail(e, ST_MEMORY, "%s: out of memory", where);
    }
    *out = part;
    return 0;
}

/* Puts the part in its place; *old is the one whose place it takes, or NULL. */
static bool insert(struct st_log_parts *p, struct st_log_part *part, struct st_log_part **old)
{
    size_t at = 0, gateways = 0;
    *old = NULL;
    while (at < p->n && order(p->of[at], part) < 0)
        at++;
    if (at < p->n && order(p->of[at], part) == 0) {
        *old = p->of[at];
        p->of[at] = part;
        return true;
    }
    for (size_t i = 0; i < p->n; i++)
        gateways += p->of[i]->row.n_gateway;
    if (part->row.n_gateway ? gateways == ST_DIRECTORY_MAX_GATEWAYS : p->n - gateways == ST_DIRECTORY_MAX_ISSUERS)
        return false;
    memmove(p->of + at + 1, p->of + at, (p->n - at) * sizeof *p->of);
    p->of[at] = part;
    p->n++;
    return true;
}

static void take_out(struct st_log_parts *p, const struct st_log_part *part)
{
    size_t at = 0;
    while (p->of[at] != part)
        at++;
    p->n--;
    memmove(p->of + at, p->of + at + 1, (p->n - at) * sizeof *p->of);
}

static int check_fits(const struct st_log_parts *p, bool gateway, struct st_err *e)
{
    struct st_buf b = {0};
    size_t len = 0;
    for (size_t i = 0; i < p->n; i++)
        len += p->of[i]->row.n_gateway ? p->of[i]->text.len : 0;
    if (gateway && len > ST_TILE_MAX_ENTRY - ISSUERS_ROOM)
        return st_fail(e, ST_INPUT, "part: gateways' parts together: want at most %d bytes, got %zu",
                       ST_TILE_MAX_ENTRY - ISSUERS_ROOM, len);
    int rc = st_log_parts_write(p, (int64_t)1 << 39, 1, &b, e); /* as many digits as there will ever be */
    st_buf_free(&b);
    return rc;
}

int st_log_parts_put(struct st_log_parts *p, const struct st_submitter *who, struct st_span bytes, struct st_err *e)
{
    struct st_log_part *part, *old;
    if (part_read(bytes, "part", &part, e))
        return e->code;
    bool gateway = part->row.n_gateway > 0;
    if (gateway != (who->kind == ST_SUBMITTER_GATEWAY) || strcmp(name_of(part), who->name) != 0) {
        part_free(part);
        return st_fail(e, ST_INPUT, "part: want the %s %s", st_submitter_kind_name(who->kind), who->name);
    }
    if (!insert(p, part, &old)) {
        part_free(part);
        return st_fail(e, ST_INPUT, "part: there are %d %ss already",
                       gateway ? ST_DIRECTORY_MAX_GATEWAYS : ST_DIRECTORY_MAX_ISSUERS,
                       st_submitter_kind_name(who->kind));
    }
    if (check_fits(p, gateway, e)) { /* as it was */
        struct st_log_part *none;
        if (old)
            insert(p, old, &none);
        else
            take_out(p, part);
        part_free(part);
        return e->code;
    }
    p->changed =
        p->changed || !old || old->text.len != part->text.len || memcmp(old->text.p, part->text.p, part->text.len) != 0;
    part_free(old);
    return 0;
}

static bool is_named(const struct st_submitters *s, enum st_submitter_kind kind, const char *name)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->of[i].kind == kind && strcmp(s->of[i].name, name) == 0)
            return true;
    return false;
}

static int restore_one(struct st_log_parts *p, const struct st_buf *text, struct st_err *e)
{
    struct st_log_part *part, *old;
    if (text->failed)
        return st_fail(e, ST_MEMORY, "directory: out of memory");
    if (part_read((struct st_span){(const uint8_t *)text->p, text->len}, "directory", &part, e))
        return e->code;
    insert(p, part, &old);
    part_free(old);
    return 0;
}

int st_log_parts_restore(struct st_log_parts *p, const struct st_directory *d, const struct st_submitters *s,
                         struct st_err *e)
{
    struct st_buf text = {0};
    int rc = 0;
    for (size_t i = 0; i < d->n_gateway + d->n_issuer && !rc; i++) {
        bool gateway = i < d->n_gateway;
        const struct st_directory_issuer *issuer = gateway ? NULL : &d->issuers[i - d->n_gateway];
        if (!is_named(s, gateway ? ST_SUBMITTER_GATEWAY : ST_SUBMITTER_ISSUER,
                      gateway ? d->gateways[i].name : issuer->name)) {
            p->changed = true;
            continue;
        }
        st_buf_clear(&text);
        if (gateway)
            st_directory_write_gateway(&d->gateways[i], &text);
        else
            st_directory_write_issuer(issuer, &text);
        rc = restore_one(p, &text, e);
    }
    st_buf_free(&text);
    return rc;
}

int st_log_parts_write(const struct st_log_parts *p, int64_t time, uint32_t every, struct st_buf *out, struct st_err *e)
{
    struct st_directory *d; /* borrows all that it holds */
    if (st_alloc(&d, 1, sizeof *d, "directory", e))
        return e->code;
    *d = (struct st_directory){.epoch = (uint64_t)(time / every), .time = time, .every = every};
    for (size_t i = 0; i < p->n; i++)
        if (p->of[i]->row.n_gateway)
            d->gateways[d->n_gateway++] = p->of[i]->row.gateways[0];
        else
            d->issuers[d->n_issuer++] = p->of[i]->row.issuers[0];
    int rc = st_directory_write(d, out, e);
    free(d);
    return rc;
}

void st_log_parts_wipe(struct st_log_parts *p)
{
    for (size_t i = 0; i < p->n; i++)
        part_free(p->of[i]);
    *p = (struct st_log_parts){0};
}

#include "engine/record.h"
#include "base/file.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define ALIGN 8
#define DEFAULT_MAX ((uint64_t)1 << 30)

static const char magic[8] = "STRECORD";

/* As it stands in the file, little-endian like this machine. */
struct head {
    uint32_t kind, format;
    uint64_t id;
    int32_t layer, expert;
    uint32_t n_row, n_in, n_out, zero;
    uint64_t len, time_ns;
    char roles[ST_RECORD_ROLES];
};
_Static_assert(sizeof(struct head) == ST_RECORD_HEAD, "no gaps");
_Static_assert(ST_RECORD_HEAD % ALIGN == 0 && ST_RECORD_FILE_HEAD % ALIGN == 0, "bytes of entries are aligned");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is little-endian");

struct st_recorder {
    const struct st_transport *inner;
    struct st_transport transport;
    char path[ST_PATH_MAX];
    int fd;
    uint64_t max_bytes;
    double begin; /* st_now() */
    struct st_recorder_stats stats;
};

/* All of it, or IO. */
static int write_all(struct st_recorder *r, struct iovec *v, int n, struct st_err *e)
{
    while (n) {
        ssize_t done = writev(r->fd, v, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return st_fail(e, ST_IO, "recording %s: %s", r->path, strerror(errno));
        r->stats.bytes += (uint64_t)done;
        for (; n && (size_t)done >= v->iov_len; n--)
            done -= (ssize_t)v++->iov_len;
        if (n) {
            v->iov_base = (char *)v->iov_base + done;
            v->iov_len -= (size_t)done;
        }
    }
    return 0;
}

static size_t padding(uint64_t len)
{
    return (size_t)(-len % ALIGN);
}

static void describe(const struct st_exchange *x, struct head *h)
{
    size_t at = 0;
    h->id = x->id;
    h->layer = x->ops[0].layer;
    h->expert = x->ops[0].expert;
    h->n_row = x->n_row;
    if (x->pair.n_inner) {
        h->n_in = x->pair.n_inner;
        h->n_out = x->pair.n_b;
        snprintf(h->roles, sizeof h->roles, "%s", x->pair.what);
        return;
    }
    const struct st_plan_weight *w = &x->plan->weights[x->ops[0].weight];
    h->n_in = x->ops[0].op == ST_OP_EMBED ? w->n_out : w->n_in; /* the embedding is asked for transposed */
    for (int i = 0; i < x->n_op; i++) {
        const char *name = st_role_name(x->ops[i].role);
        size_t n = strlen(name);
        h->n_out += x->plan->slot_width[x->ops[i].out];
        if (at + (at != 0) + n >= sizeof h->roles)
            continue;
        if (at)
            h->roles[at++] = ',';
        memcpy(h->roles + at, name, n);
        at += n;
    }
}

/* The last entry, for which there is always room. */
static void make_full(struct st_recorder *r, struct head *h)
{
    char text[ST_MEM_TEXT];
    st_log(ST_LOG_WARN, "recording %s: full at %s; what follows is not recorded", r->path,
           st_mem_text((size_t)r->stats.bytes, text));
    *h = (struct head){.kind = ST_RECORD_FULL, .layer = -1, .expert = -1, .time_ns = h->time_ns};
    r->stats.full = true;
}

static int append(struct st_recorder *r, enum st_record_kind kind, const struct st_exchange *x,
                  const struct st_exposed *bytes, struct st_err *e)
{
    static const char zeros[ALIGN];
    struct head h = {
        .kind = kind, .format = bytes->format, .len = bytes->len, .time_ns = (uint64_t)((st_now() - r->begin) * 1e9)};
    if (r->stats.full)
        return 0;
    describe(x, &h);
    if (kind == ST_RECORD_OUT && h.len != (uint64_t)h.n_row * h.n_in * sizeof(uint32_t))
        return st_fail(e, ST_INTERNAL, "recording %s: %u rows of %u values in %llu bytes", r->path, h.n_row, h.n_in,
                       (unsigned long long)h.len);
    if (h.len > ST_RECORD_MAX_LEN || r->stats.bytes + 2 * sizeof h + h.len + padding(h.len) > r->max_bytes)
        make_full(r, &h);
    struct iovec v[] = {{&h, sizeof h}, {bytes->p, (size_t)h.len}, {(void *)zeros, padding(h.len)}};
    if (write_all(r, v, 3, e))
        return e->code;
    r->stats.n_entry++;
    return 0;
}

static int submit(void *ctx, const struct st_exchange *x, const struct st_exposed *rows, struct st_err *e)
{
    struct st_recorder *r = ctx;
    if (append(r, ST_RECORD_OUT, x, rows, e))
        return e->code;
    return r->inner->submit(r->inner->ctx, x, rows, e);
}

static int complete(void *ctx, const struct st_exchange *x, struct st_exposed *reply, struct st_err *e)
{
    struct st_recorder *r = ctx;
    if (r->inner->complete(r->inner->ctx, x, reply, e))
        return e->code;
    return append(r, ST_RECORD_IN, x, reply, e);
}

int st_recorder_new(const struct st_recorder_opts *o, struct st_recorder **out, struct st_err *e)
{
    *out = NULL;
    struct st_recorder *r = calloc(1, sizeof *r);
    if (!r)
        return st_fail(e, ST_MEMORY, "recording: out of memory");
    r->inner = o->inner;
    r->transport = (struct st_transport){.submit = submit, .complete = complete, .ctx = r};
    r->max_bytes = o->max_bytes ? o->max_bytes : DEFAULT_MAX;
    r->fd = -1;
    r->begin = st_now();
    int rc = 0;
    if (strlen(o->path) >= sizeof r->path)
        rc = st_fail(e, ST_USAGE, "recording: the path is longer than %zu bytes", sizeof r->path - 1);
    else {
        uint32_t numbers[2] = {ST_RECORD_VERSION, 0};
        struct iovec v[] = {{(void *)magic, sizeof magic}, {numbers, sizeof numbers}};
        strcpy(r->path, o->path);
        r->fd = open(r->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        rc = r->fd < 0 ? st_fail(e, ST_IO, "recording %s: %s", r->path, strerror(errno)) : write_all(r, v, 2, e);
    }
    if (rc)
        st_recorder_free(r);
    else
        *out = r;
    return rc;
}

void st_recorder_free(struct st_recorder *r)
{
    if (!r)
        return;
    if (r->fd >= 0)
        close(r->fd);
    free(r);
}

const struct st_transport *st_recorder_transport(const struct st_recorder *r)
{
    return &r->transport;
}

bool st_record_is_pair(const struct st_record_entry *entry)
{
    return strncmp(entry->roles, "attention_", strlen("attention_")) == 0;
}

void st_recorder_stats(const struct st_recorder *r, struct st_recorder_stats *out)
{
    *out = r->stats;
}

int st_record_check_head(struct st_span file, const char *name, struct st_err *e)
{
    uint32_t version, zero;
    if (file.len < ST_RECORD_FILE_HEAD || memcmp(file.p, magic, sizeof magic) != 0)
        return st_fail(e, ST_INPUT, "%s: not a recording", name);
    memcpy(&version, file.p + 8, sizeof version);
    memcpy(&zero, file.p + 12, sizeof zero);
    if (version != ST_RECORD_VERSION)
        return st_fail(e, ST_UNSUPPORTED, "%s: recording of version %u; this program reads %u", name, version,
                       ST_RECORD_VERSION);
    if (zero)
        return st_fail(e, ST_INPUT, "%s: reserved: want 0, got %u", name, zero);
    return 0;
}

static bool is_zero(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= b[i];
    return any == 0;
}

/* Names of roles, commas between them, zeros behind. */
static bool good_roles(const char *roles)
{
    size_t n = strnlen(roles, ST_RECORD_ROLES);
    return n < ST_RECORD_ROLES && strspn(roles, "abcdefghijklmnopqrstuvwxyz_,") == n &&
           is_zero(roles + n, ST_RECORD_ROLES - n);
}

static int check_entry(const struct head *h, const char *name, uint64_t n, struct st_err *e)
{
    const char *field = NULL;
    if (h->kind < ST_RECORD_OUT || h->kind > ST_RECORD_FULL)
        field = "kind";
    else if (h->format > ST_EXPOSED_F32)
        field = "format";
    else if (h->layer < -1)
        field = "layer";
    else if (h->expert < -1)
        field = "expert";
    else if (h->zero)
        field = "reserved";
    else if (!good_roles(h->roles))
        field = "roles";
    else if (h->len > ST_RECORD_MAX_LEN || (h->kind == ST_RECORD_OUT && h->len / 4 != (uint64_t)h->n_row * h->n_in) ||
             (h->kind == ST_RECORD_OUT && h->len % 4) || (h->kind == ST_RECORD_FULL && h->len))
        field = "len";
    return field ? st_fail(e, ST_INPUT, "%s: entry %llu: bad %s", name, (unsigned long long)n, field) : 0;
}

int st_record_parse(struct st_span file, size_t *at, const char *name, uint64_t n, struct st_record_entry *out,
                    struct st_err *e)
{
    struct head h;
    size_t left = file.len - *at;
    *out = (struct st_record_entry){.kind = ST_RECORD_END, .torn = left != 0};
    if (left < sizeof h)
        return 0;
    memcpy(&h, file.p + *at, sizeof h);
    if (check_entry(&h, name, n, e))
        return e->code;
    left -= sizeof h;
    size_t whole = (size_t)h.len + padding(h.len); /* both bounded by ST_RECORD_MAX_LEN */
    if (left < whole)
        return 0;
    const uint8_t *bytes = file.p + *at + sizeof h;
    if (!is_zero(bytes + h.len, whole - (size_t)h.len))
        return st_fail(e, ST_INPUT, "%s: entry %llu: bad padding", name, (unsigned long long)n);
    if (h.kind == ST_RECORD_FULL && left)
        return st_fail(e, ST_INPUT, "%s: entry %llu: says it is the last, but %zu bytes follow", name,
                       (unsigned long long)n, left);
    *at += sizeof h + whole;
    *out = (struct st_record_entry){.kind = h.kind,
                                    .format = h.format,
                                    .id = h.id,
                                    .layer = h.layer,
                                    .expert = h.expert,
                                    .n_row = h.n_row,
                                    .n_in = h.n_in,
                                    .n_out = h.n_out,
                                    .time_ns = h.time_ns,
                                    .bytes = {bytes, (size_t)h.len}};
    memcpy(out->roles, h.roles, sizeof out->roles);
    return 0;
}

struct st_record {
    struct st_map map;
    char name[ST_PATH_MAX];
    size_t at;
    uint64_t n, time_ns; /* entries read; time of the last */
};

int st_record_open(const char *path, struct st_record **out, struct st_err *e)
{
    *out = NULL;
    struct st_record *r = calloc(1, sizeof *r);
    if (!r)
        return st_fail(e, ST_MEMORY, "%s: out of memory", path);
    int rc = st_map_open(path, &r->map, e);
    if (!rc) {
        snprintf(r->name, sizeof r->name, "%s", path);
        rc = st_record_check_head((struct st_span){r->map.p, r->map.len}, r->name, e);
    }
    r->at = ST_RECORD_FILE_HEAD;
    if (rc)
        st_record_close(r);
    else
        *out = r;
    return rc;
}

void st_record_close(struct st_record *r)
{
    if (!r)
        return;
    st_map_close(&r->map);
    free(r);
}

int st_record_next(struct st_record *r, struct st_record_entry *out, struct st_err *e)
{
    uint64_t n = r->n++;
    if (st_record_parse((struct st_span){r->map.p, r->map.len}, &r->at, r->name, n, out, e))
        return e->code;
    if (out->kind == ST_RECORD_END)
        return 0;
    if (out->time_ns < r->time_ns)
        return st_fail(e, ST_INPUT, "%s: entry %llu: time: want %llu ns or later, as of the entry before", r->name,
                       (unsigned long long)n, (unsigned long long)r->time_ns);
    r->time_ns = out->time_ns;
    return 0;
}

#include "channel/bhttp.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

/* ---- what parts of a message may hold ---- */

static bool is_token(struct st_span s)
{
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              (c && strchr("!#$%&'*+-.^_`|~", c))))
            return false;
    }
    return s.len > 0;
}

static bool is_name(struct st_span s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.p[i] >= 'A' && s.p[i] <= 'Z')
            return false;
    return is_token(s);
}

/* RFC 9113 section 8.2.1. */
static bool is_value(struct st_span s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.p[i] == 0 || s.p[i] == '\r' || s.p[i] == '\n')
            return false;
    return !s.len || (!strchr(" \t", s.p[0]) && !strchr(" \t", s.p[s.len - 1]));
}

/* Visible ASCII without the characters of `not`. */
static bool is_visible(struct st_span s, const char * not )
{
    for (size_t i = 0; i < s.len; i++)
        if (s.p[i] <= ' ' || s.p[i] >= 0x7f || strchr(not, s.p[i]))
            return false;
    return true;
}

static bool is_scheme(struct st_span s)
{
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = s.p[i];
        if (!((c >= 'a' && c <= 'z') || (i && ((c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.'))))
            return false;
    }
    return s.len > 0;
}

static bool is_path(struct st_span s)
{
    return s.len && is_visible(s, "#") && (s.p[0] == '/' || (s.len == 1 && s.p[0] == '*'));
}

/* RFC 9113 section 8.3.1; user information in an authority would be a password in the clear. */
static int check_control(enum st_bhttp_kind kind, const struct st_bhttp_head *h, struct st_err *e)
{
    if (kind == ST_BHTTP_RESPONSE)
        return h->status >= 200 && h->status <= 599 ? 0 : st_fail(e, ST_INPUT, "bhttp: status: want 200 to 599");
    if (!is_token(h->method))
        return st_fail(e, ST_INPUT, "bhttp: method: want a token");
    if (!is_scheme(h->scheme))
        return st_fail(e, ST_INPUT, "bhttp: scheme: want lowercase letters");
    if (!is_visible(h->authority, "@/?#\\"))
        return st_fail(e, ST_INPUT, "bhttp: authority: want a host, and a port perhaps");
    if (!is_path(h->path))
        return st_fail(e, ST_INPUT, "bhttp: path: want one that begins with /");
    return 0;
}

static int check_field(const struct st_bhttp_field *f, struct st_err *e)
{
    if (!is_name(f->name))
        return st_fail(e, ST_INPUT, "bhttp: field name: want a lowercase token");
    if (!is_value(f->value))
        return st_fail(e, ST_INPUT, "bhttp: field value: want no NUL, CR, LF nor spaces at its ends");
    return 0;
}

bool st_bhttp_find(struct st_bhttp_fields f, const char *name, struct st_span *value)
{
    size_t len = strlen(name), n = 0;
    for (size_t i = 0; i < f.n; i++)
        if (f.p[i].name.len == len && memcmp(f.p[i].name.p, name, len) == 0) {
            *value = f.p[i].value;
            n++;
        }
    return n == 1;
}

/* ---- writing ---- */

static void add_string(struct st_buf *out, struct st_span s)
{
    st_varint_add(out, s.len);
    st_buf_add(out, s.p, s.len);
}

static int add_fields(struct st_buf *out, struct st_bhttp_fields f, struct st_err *e)
{
    for (size_t i = 0; i < f.n; i++) {
        int rc = check_field(&f.p[i], e);
        if (rc)
            return rc;
        add_string(out, f.p[i].name);
        add_string(out, f.p[i].value);
    }
    return 0;
}

/* A field section with its length before it. */
static int add_section(struct st_buf *out, struct st_bhttp_fields f, struct st_err *e)
{
    size_t len = 0;
    for (size_t i = 0; i < f.n; i++)
        len +=
            st_varint_width(f.p[i].name.len) + f.p[i].name.len + st_varint_width(f.p[i].value.len) + f.p[i].value.len;
    st_varint_add(out, len);
    return add_fields(out, f, e);
}

static int add_control(struct st_buf *out, enum st_bhttp_kind kind, bool known, const struct st_bhttp_head *h,
                       struct st_err *e)
{
    int rc = check_control(kind, h, e);
    if (rc)
        return rc;
    st_varint_add(out, (known ? 0 : 2) + (uint64_t)kind);
    if (kind == ST_BHTTP_RESPONSE)
        st_varint_add(out, h->status);
    else {
        add_string(out, h->method);
        add_string(out, h->scheme);
        add_string(out, h->authority);
        add_string(out, h->path);
    }
    return 0;
}

int st_bhttp_write(struct st_buf *out, enum st_bhttp_kind kind, const struct st_bhttp_head *head,
                   struct st_span content, struct st_bhttp_fields trailers, struct st_err *e)
{
    int rc = add_control(out, kind, true, head, e);
    if (!rc)
        rc = add_section(out, head->fields, e);
    if (!rc)
        add_string(out, content);
    return rc ? rc : add_section(out, trailers, e);
}

int st_bhttp_begin(struct st_buf *out, enum st_bhttp_kind kind, const struct st_bhttp_head *head, struct st_err *e)
{
    int rc = add_control(out, kind, false, head, e);
    if (!rc)
        rc = add_fields(out, head->fields, e);
    if (!rc)
        st_varint_add(out, 0);
    return rc;
}

void st_bhttp_add_content(struct st_buf *out, const void *p, size_t len)
{
    if (len)
        add_string(out, (struct st_span){p, len});
}

int st_bhttp_end(struct st_buf *out, struct st_bhttp_fields trailers, struct st_err *e)
{
    st_varint_add(out, 0);
    int rc = add_fields(out, trailers, e);
    if (!rc)
        st_varint_add(out, 0);
    return rc;
}

void st_bhttp_add_filler(struct st_buf *out, size_t total)
{
    static const char lines[] = "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n"
                                "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n";
    /* A width that fits every total: 65 is 2 + 63, one byte more than the shortest form would give. */
    size_t width = total <= 1 + 63 ? 1 : total <= 2 + 16383 ? 2 : 4, left = total - width;
    st_varint_add_wide(out, left, width);
    while (left) {
        size_t n = left < sizeof lines - 1 ? left : sizeof lines - 1;
        st_buf_add(out, lines, n);
        left -= n;
    }
}

void st_bhttp_pad(struct st_buf *out, size_t start, size_t len)
{
    static const char zeros[256];
    while (!out->failed && out->len - start < len) {
        size_t left = len - (out->len - start);
        st_buf_add(out, zeros, left < sizeof zeros ? left : sizeof zeros);
    }
}

size_t st_bhttp_bucket(size_t len)
{
    size_t step = (size_t)1 << 20, b = 4096;
    if (len > step)
        return len > SIZE_MAX - step ? len : (len + step - 1) / step * step;
    while (b < len)
        b *= 2;
    return b;
}

/* ---- reading: a machine that takes one integer or one string at a time ---- */

enum step {
    FRAMING,
    CONTROL_LEN, /* of method, scheme, authority, path */
    CONTROL,
    STATUS,
    SECTION_LEN, /* known length only */
    NAME_LEN,
    NAME,
    VALUE_LEN,
    VALUE,
    CONTENT_LEN,
    CONTENT,
    PADDING,
};

int st_bhttp_reader_init(struct st_bhttp_reader *r, enum st_bhttp_kind kind, const struct st_bhttp_limits *limits,
                         struct st_err *e)
{
    size_t fields, all;
    *r = (struct st_bhttp_reader){.kind = kind, .limits = *limits, .step = FRAMING};
    if (!st_mul_size(limits->n_fields, sizeof *r->header.field, &fields) || !st_add_size(fields, limits->head, &all) ||
        !st_mul_size(all, 2, &all))
        return st_fail(e, ST_USAGE, "bhttp: the limits are too large");
    char *p = malloc(all ? all : 1); /* most of it is never touched: not worth zeroing */
    if (!p)
        return st_fail(e, ST_MEMORY, "bhttp reader: no memory for %zu bytes", all);
    r->memory = p;
    r->header.field = (struct st_bhttp_field *)p;
    r->trailer.field = (struct st_bhttp_field *)(p + fields);
    r->header.text = p + 2 * fields;
    r->trailer.text = p + 2 * fields + limits->head;
    return 0;
}

void st_bhttp_reader_wipe(struct st_bhttp_reader *r)
{
    if (r->memory) {
        OPENSSL_cleanse(r->header.text, r->header.len);
        OPENSSL_cleanse(r->trailer.text, r->trailer.len);
        free(r->memory);
    }
    *r = (struct st_bhttp_reader){.step = PADDING};
}

static struct st_bhttp_section *section(struct st_bhttp_reader *r)
{
    return r->in_trailer ? &r->trailer : &r->header;
}

/* Pointers into the text, which stays where it is. */
static void resolve(struct st_bhttp_section *s, size_t at)
{
    for (size_t i = 0; i < s->n; i++) {
        s->field[i].name.p = (const uint8_t *)s->text + at;
        at += s->field[i].name.len;
        s->field[i].value.p = (const uint8_t *)s->text + at;
        at += s->field[i].value.len;
    }
}

static int head_complete(struct st_bhttp_reader *r, struct st_err *e)
{
    struct st_span *const control[4] = {&r->head.method, &r->head.scheme, &r->head.authority, &r->head.path};
    size_t at = 0;
    for (size_t i = 0; i < r->n_control; i++) {
        *control[i] = (struct st_span){(const uint8_t *)r->header.text + at, r->control_len[i]};
        at += r->control_len[i];
    }
    resolve(&r->header, at);
    r->head.fields = (struct st_bhttp_fields){r->header.field, r->header.n};
    int rc = check_control(r->kind, &r->head, e);
    r->has_head = !rc;
    r->step = CONTENT_LEN;
    return rc;
}

static void begin_section(struct st_bhttp_reader *r)
{
    r->step = r->known ? SECTION_LEN : NAME_LEN;
}

static void begin_trailers(struct st_bhttp_reader *r)
{
    r->in_trailer = true;
    begin_section(r);
}

static int end_section(struct st_bhttp_reader *r, struct st_err *e)
{
    if (r->in_trailer) {
        resolve(&r->trailer, 0);
        r->step = PADDING;
        return 0;
    }
    if (!r->interim)
        return head_complete(r, e);
    OPENSSL_cleanse(r->header.text, r->header.len);
    r->header.n = r->header.len = 0; /* informational: dropped */
    r->interim = false;
    r->step = STATUS;
    return 0;
}

/* A string of `len` bytes comes: is there room? */
static int begin_string(struct st_bhttp_reader *r, uint64_t len, int step, struct st_err *e)
{
    const struct st_bhttp_section *s = section(r);
    if (len > r->limits.head - s->len)
        return st_fail(e, ST_INPUT, "bhttp: want at most %zu bytes of head", r->limits.head);
    if (r->known && step != CONTROL && len > r->section_left)
        return st_fail(e, ST_INPUT, "bhttp: a field is longer than its section");
    r->left = len;
    r->step = step;
    return 0;
}

static int end_value(struct st_bhttp_reader *r, struct st_err *e)
{
    struct st_bhttp_section *s = section(r);
    struct st_bhttp_field *f = &s->field[s->n], seen = *f;
    seen.value.p = (const uint8_t *)s->text + s->len - f->value.len;
    seen.name.p = seen.value.p - f->name.len;
    int rc = check_field(&seen, e);
    if (rc)
        return rc;
    s->n++;
    if (r->known && r->section_left == 0)
        return end_section(r, e);
    r->step = NAME_LEN;
    return 0;
}

/* The string being read is complete. */
static int end_string(struct st_bhttp_reader *r, struct st_err *e)
{
    if (r->step == NAME)
        r->step = VALUE_LEN;
    else if (r->step == VALUE)
        return end_value(r, e);
    else if (++r->n_control < 4)
        r->step = CONTROL_LEN;
    else
        begin_section(r);
    return 0;
}

static int on_framing(struct st_bhttp_reader *r, uint64_t v, struct st_err *e)
{
    if (v > 3 || (v & 1) != (uint64_t)r->kind)
        return st_fail(e, ST_INPUT, "bhttp: framing: want a %s", r->kind == ST_BHTTP_REQUEST ? "request" : "response");
    r->known = v < 2;
    r->step = r->kind == ST_BHTTP_REQUEST ? CONTROL_LEN : STATUS;
    return 0;
}

static int on_status(struct st_bhttp_reader *r, uint64_t v, struct st_err *e)
{
    if (v < 100 || v > 599)
        return st_fail(e, ST_INPUT, "bhttp: status: want 100 to 599");
    r->interim = v < 200;
    if (r->interim && ++r->n_interim > r->limits.n_interim)
        return st_fail(e, ST_INPUT, "bhttp: want at most %zu informational responses", r->limits.n_interim);
    r->head.status = (unsigned)v;
    begin_section(r);
    return 0;
}

static int on_name_len(struct st_bhttp_reader *r, uint64_t v, struct st_err *e)
{
    struct st_bhttp_section *s = section(r);
    if (v == 0)
        return r->known ? st_fail(e, ST_INPUT, "bhttp: field name: want at least one byte") : end_section(r, e);
    if (s->n == r->limits.n_fields)
        return st_fail(e, ST_INPUT, "bhttp: want at most %zu fields", r->limits.n_fields);
    int rc = begin_string(r, v, NAME, e);
    if (!rc)
        s->field[s->n].name.len = (size_t)v;
    return rc;
}

static int on_value_len(struct st_bhttp_reader *r, uint64_t v, struct st_err *e)
{
    struct st_bhttp_section *s = section(r);
    int rc = begin_string(r, v, VALUE, e);
    if (!rc)
        s->field[s->n].value.len = (size_t)v;
    return rc ? rc : v ? 0 : end_string(r, e);
}

static int on_control_len(struct st_bhttp_reader *r, uint64_t v, struct st_err *e)
{
    int rc = begin_string(r, v, CONTROL, e);
    if (!rc)
        r->control_len[r->n_control] = (size_t)v;
    return rc ? rc : v ? 0 : end_string(r, e);
}

static int on_content_len(struct st_bhttp_reader *r, uint64_t v, struct st_err *e)
{
    if (v > r->limits.content - r->n_content)
        return st_fail(e, ST_INPUT, "bhttp: want at most %llu bytes of content", (unsigned long long)r->limits.content);
    r->n_content += v;
    r->left = v;
    r->step = CONTENT;
    if (v == 0)
        begin_trailers(r);
    return 0;
}

static int on_section_len(struct st_bhttp_reader *r, uint64_t v, struct st_err *e)
{
    /* Every field has two lengths of up to 8 bytes besides its name and value. */
    if (v > r->limits.head + 16 * (uint64_t)r->limits.n_fields)
        return st_fail(e, ST_INPUT, "bhttp: want at most %zu bytes of head", r->limits.head);
    r->section_left = v;
    r->step = NAME_LEN;
    return v ? 0 : end_section(r, e);
}

static int on_number(struct st_bhttp_reader *r, uint64_t v, struct st_err *e)
{
    switch ((enum step)r->step) {
    case FRAMING:
        return on_framing(r, v, e);
    case CONTROL_LEN:
        return on_control_len(r, v, e);
    case STATUS:
        return on_status(r, v, e);
    case SECTION_LEN:
        return on_section_len(r, v, e);
    case NAME_LEN:
        return on_name_len(r, v, e);
    case VALUE_LEN:
        return on_value_len(r, v, e);
    default:
        return on_content_len(r, v, e);
    }
}

static int read_number(struct st_bhttp_reader *r, struct st_span *in, struct st_err *e)
{
    bool counted = r->known && (r->step == NAME_LEN || r->step == VALUE_LEN);
    if (counted && r->section_left-- == 0)
        return st_fail(e, ST_INPUT, "bhttp: a field is longer than its section");
    uint64_t v;
    uint8_t byte = *in->p++;
    in->len--;
    return st_varint_feed(&r->number, byte, &v) ? on_number(r, v, e) : 0;
}

static int read_string(struct st_bhttp_reader *r, struct st_span *in, struct st_err *e)
{
    struct st_bhttp_section *s = section(r);
    size_t n = in->len < r->left ? in->len : (size_t)r->left;
    memcpy(s->text + s->len, in->p, n); /* begin_string() made sure of the room */
    s->len += n;
    r->left -= n;
    if (r->known && r->step != CONTROL)
        r->section_left -= n;
    *in = (struct st_span){in->p + n, in->len - n};
    return r->left ? 0 : end_string(r, e);
}

static void read_content(struct st_bhttp_reader *r, struct st_span *in, struct st_span *content)
{
    size_t n = in->len < r->left ? in->len : (size_t)r->left;
    *content = (struct st_span){in->p, n};
    *in = (struct st_span){in->p + n, in->len - n};
    r->left -= n;
    if (r->left)
        return;
    if (r->known)
        begin_trailers(r);
    else
        r->step = CONTENT_LEN;
}

static int read_padding(struct st_bhttp_reader *r, struct st_span *in, struct st_err *e)
{
    uint8_t any = 0;
    if (in->len > r->limits.padding - r->n_padding)
        return st_fail(e, ST_INPUT, "bhttp: want at most %llu bytes of padding", (unsigned long long)r->limits.padding);
    for (size_t i = 0; i < in->len; i++)
        any |= in->p[i];
    r->n_padding += in->len;
    *in = (struct st_span){in->p + in->len, 0};
    return any ? st_fail(e, ST_INPUT, "bhttp: padding: want zeros") : 0;
}

int st_bhttp_read(struct st_bhttp_reader *r, struct st_span *in, struct st_span *content, struct st_err *e)
{
    int rc = 0;
    *content = (struct st_span){0};
    while (!rc && in->len && !content->len)
        switch ((enum step)r->step) {
        case CONTROL:
        case NAME:
        case VALUE:
            rc = read_string(r, in, e);
            break;
        case CONTENT:
            read_content(r, in, content);
            break;
        case PADDING:
            rc = read_padding(r, in, e);
            break;
        default:
            rc = read_number(r, in, e);
        }
    return rc;
}

int st_bhttp_read_end(struct st_bhttp_reader *r, struct st_err *e)
{
    bool at_section = r->step == (r->known ? SECTION_LEN : NAME_LEN) && !section(r)->n && !r->interim;
    bool may_end =
        r->number.have == 0 && (r->step == PADDING || at_section || (r->step == CONTENT_LEN && r->n_content == 0));
    if (!may_end)
        return st_fail(e, ST_INPUT, "bhttp: the message is cut short");
    int rc = r->has_head ? 0 : head_complete(r, e);
    r->step = PADDING;
    r->in_trailer = true;
    return rc;
}

const struct st_bhttp_head *st_bhttp_head(const struct st_bhttp_reader *r)
{
    return r->has_head ? &r->head : NULL;
}

struct st_bhttp_fields st_bhttp_trailers(const struct st_bhttp_reader *r)
{
    bool complete = r->in_trailer && r->step == PADDING;
    return (struct st_bhttp_fields){r->trailer.field, complete ? r->trailer.n : 0};
}

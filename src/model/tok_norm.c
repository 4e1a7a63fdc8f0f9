/* Normalizers. */
#include "model/tok.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

bool st_tok_is_word(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* joiners; circled, squared and negative letters are Alphabetic though symbols */
        return cp == 0x200c || cp == 0x200d || (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
               (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189);
    }
}

/* Unicode normalization forms. utf8proc's own ordering of combining marks takes quadratic time on a long run of them,
 * so the ordering is done here, by counting. */
struct points {
    utf8proc_int32_t *p;
    size_t n, cap;
};

static bool points_reserve(struct points *s, size_t more)
{
    if (s->n + more <= s->cap)
        return true;
    size_t cap = (s->n + more) * 2;
    utf8proc_int32_t *p = realloc(s->p, cap * sizeof *p);
    if (!p)
        return false;
    s->p = p;
    s->cap = cap;
    return true;
}

/* The `tokenizers` package normalizes by the tables of Unicode 9, so no model has seen text in which younger marks were
 * put in order or younger characters taken apart. Here they are left alone too: all characters whose combining class or
 * decomposition utf8proc 2.8 knows and tokenizers 0.23.3 does not. */
static const int32_t younger[][2] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x107ba},
    {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11938},
    {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
    {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
    {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
};

static bool is_younger(utf8proc_int32_t cp)
{
    size_t lo = 0, hi = cp < younger[0][0] ? 0 : sizeof younger / sizeof *younger;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > younger[mid][1])
            lo = mid + 1;
        else if (cp < younger[mid][0])
            hi = mid;
        else
            return true;
    }
    return false;
}

static int class_of(utf8proc_int32_t cp)
{
    return is_younger(cp) ? 0 : utf8proc_get_property(cp)->combining_class & 0xff;
}

/* Stable sort of a run of combining marks by class; tmp [n]. */
static void order_run(utf8proc_int32_t *p, size_t n, utf8proc_int32_t *tmp)
{
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++)
        at[class_of(p[i]) + 1]++;
    for (int c = 0; c < 256; c++)
        at[c + 1] += at[c];
    for (size_t i = 0; i < n; i++)
        tmp[at[class_of(p[i])]++] = p[i];
    memcpy(p, tmp, n * sizeof *p);
}

static bool order_marks(struct points *s)
{
    utf8proc_int32_t *tmp = NULL;
    size_t cap = 0;
    for (size_t i = 0; i < s->n;) {
        size_t start = i;
        while (i < s->n && class_of(s->p[i]) != 0)
            i++;
        if (i - start > 1) {
            if (i - start > cap) {
                free(tmp);
                cap = i - start;
                tmp = malloc(cap * sizeof *tmp);
                if (!tmp)
                    return false;
            }
            order_run(s->p + start, i - start, tmp);
        }
        i += i == start;
    }
    free(tmp);
    return true;
}

/* Text that every form leaves alone: ASCII, and for NFC all below U+0300. */
static bool is_inert(const char *text, size_t len, int options)
{
    uint8_t limit = (options & (UTF8PROC_COMPOSE | UTF8PROC_COMPAT)) == UTF8PROC_COMPOSE ? 0xcc : 0x80;
    for (size_t i = 0; i < len; i++)
        if ((uint8_t)text[i] >= limit)
            return false;
    return true;
}

static bool decompose(const char *text, size_t len, int options, struct points *s)
{
    for (size_t i = 0; i < len;) {
        uint32_t cp = 0xfffd;
        size_t n = st_utf8_next((const uint8_t *)text + i, len - i, &cp);
        int boundary = 0;
        if (!points_reserve(s, 32)) /* the longest decomposition is 18 */
            return false;
        utf8proc_ssize_t k = 1;
        if (is_younger((utf8proc_int32_t)cp))
            s->p[s->n] = (utf8proc_int32_t)cp;
        else
            k = utf8proc_decompose_char((utf8proc_int32_t)cp, s->p + s->n, 32, (utf8proc_option_t)options, &boundary);
        if (k < 0 || k > 32)
            return false;
        s->n += (size_t)k;
        i += n ? n : 1;
    }
    return true;
}

/* Composes between the younger characters, which take no part. */
static bool compose(struct points *s, int options)
{
    size_t out = 0;
    for (size_t i = 0, j; i < s->n; i = j) {
        for (j = i; j < s->n && !is_younger(s->p[j]);)
            j++;
        utf8proc_ssize_t n = 0;
        if (j > i)
            n = utf8proc_normalize_utf32(s->p + i, (utf8proc_ssize_t)(j - i), (utf8proc_option_t)options);
        if (n < 0)
            return false;
        memmove(s->p + out, s->p + i, (size_t)n * sizeof *s->p);
        out += (size_t)n;
        if (j < s->n)
            s->p[out++] = s->p[j++];
    }
    s->n = out;
    return true;
}

static bool unicode_form(const char *text, size_t len, int options, struct st_buf *out)
{
    if (is_inert(text, len, options)) {
        st_buf_add(out, text, len);
        return true;
    }
    struct points s = {0};
    bool ok = decompose(text, len, options, &s) && order_marks(&s);
    if (ok && (options & UTF8PROC_COMPOSE))
        ok = compose(&s, options);
    for (size_t i = 0; ok && i < s.n; i++) {
        uint8_t b[4];
        st_buf_add(out, b, st_utf8_put((uint32_t)s.p[i], b));
    }
    free(s.p);
    return ok && !out->failed;
}

static void add_plain(struct st_tok_text *out, char flag, size_t n)
{
    char run[64];
    memset(run, flag, sizeof run);
    for (; n > sizeof run; n -= sizeof run)
        st_buf_add(&out->plain, run, sizeof run);
    st_buf_add(&out->plain, run, n);
}

/* Each run of equal flags on its own: a mark that a user wrote never composes with a character of the template. */
static bool apply_unicode(const struct st_tok_norm *n, const char *text, size_t len, const char *plain,
                          struct st_tok_text *out)
{
    if (!plain)
        return unicode_form(text, len, n->arg, &out->text);
    for (size_t i = 0, j; i < len; i = j) {
        for (j = i + 1; j < len && plain[j] == plain[i];)
            j++;
        size_t before = out->text.len;
        if (!unicode_form(text + i, j - i, n->arg, &out->text))
            return false;
        add_plain(out, plain[i], out->text.len - before);
    }
    return true;
}

static void copy_range(struct st_tok_text *out, const char *text, const char *plain, size_t start, size_t end)
{
    st_buf_add(&out->text, text + start, end - start);
    if (plain)
        st_buf_add(&out->plain, plain + start, end - start);
}

static int apply_replace(struct st_tok_run *run, const struct st_tok_norm *n, const char *text, size_t len,
                         const char *plain, size_t limit, struct st_tok_text *out)
{
    struct st_tok_finder f = {.p = &n->pattern, .m = &run->match, .text = text, .len = len};
    size_t done = 0, start, end;
    int rc = 0;
    /* Past the limit the caller refuses: there is no need to make the rest. */
    while (out->text.len <= limit && (rc = st_tok_find(&f, &start, &end, run->e)) > 0) {
        copy_range(out, text, plain, done, start);
        st_buf_add(&out->text, n->content, n->content_len);
        if (plain)
            add_plain(out, start < end && memchr(plain + start, 1, end - start) ? 1 : 0, n->content_len);
        done = end;
    }
    copy_range(out, text, plain, done, len);
    return rc < 0 ? run->e->code : 0;
}

static void apply_strip(const struct st_tok_norm *n, const char *text, size_t len, const char *plain,
                        struct st_tok_text *out)
{
    size_t start = 0, end = 0;
    bool seen = false;
    for (size_t i = 0; i < len;) {
        uint32_t cp = 0;
        size_t k = st_utf8_next((const uint8_t *)text + i, len - i, &cp);
        k = k ? k : 1;
        if (!st_tok_is_space(cp)) {
            start = seen ? start : i;
            seen = true;
            end = i + k;
        }
        i += k;
    }
    if (!seen)
        start = end = (n->arg & 1) ? len : 0;
    copy_range(out, text, plain, (n->arg & 1) ? start : 0, (n->arg & 2) ? end : len);
}

static int apply(struct st_tok_run *run, const struct st_tok_norm *n, const char *text, size_t len, const char *plain,
                 size_t limit, struct st_tok_text *out)
{
    int rc = 0;
    bool ok = true;
    switch (n->kind) {
    case ST_TOK_NORM_UNICODE:
        ok = apply_unicode(n, text, len, plain, out);
        break;
    case ST_TOK_NORM_PREPEND:
        if (len) {
            st_buf_add(&out->text, n->content, n->content_len);
            if (plain)
                add_plain(out, 0, n->content_len);
        }
        copy_range(out, text, plain, 0, len);
        break;
    case ST_TOK_NORM_REPLACE:
        rc = apply_replace(run, n, text, len, plain, limit, out);
        break;
    case ST_TOK_NORM_STRIP:
        apply_strip(n, text, len, plain, out);
        break;
    }
    if (!ok || out->text.failed || out->plain.failed)
        return st_fail(run->e, ST_MEMORY, "no memory to normalize a text of %zu bytes", len);
    return rc;
}

/* A file that replaces each character by a million, twice over, must not take all memory. Unicode's own forms make a
 * character at most 18 times as long. */
static size_t longest_result(size_t len)
{
    return len > INT32_MAX / 64 ? INT32_MAX : 64 * len + (1u << 20);
}

int st_tok_normalize(struct st_tok_run *run, const char *text, size_t len, const char *plain, struct st_tok_text **out)
{
    size_t limit = longest_result(len);
    for (int i = 0; i < run->t->n_norm; i++) {
        *out = &run->norm[i & 1];
        st_buf_clear(&(*out)->text);
        st_buf_clear(&(*out)->plain);
        int rc = apply(run, &run->t->norm[i], text, len, plain, limit, *out);
        if (rc)
            return rc;
        text = (*out)->text.p ? (*out)->text.p : "";
        len = (*out)->text.len;
        plain = plain ? ((*out)->plain.p ? (*out)->plain.p : "") : NULL;
        if (len > limit)
            return st_fail(run->e, ST_INPUT, "the normalized text is longer than %zu bytes", limit);
    }
    return 0;
}

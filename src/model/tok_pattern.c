/* Patterns. Tokenizer files write regexes for Oniguruma (Ruby syntax, Unicode); here PCRE2 matches them. Constructs
 * that both read alike are passed on, those that differ are rewritten (\s and \w by Unicode property: PCRE2's \s has
 * U+180E, its \w lacks marks) and what cannot be rewritten is refused by name, so that no regex silently means
 * something else. */
#include "model/tok.h"
#include "text/utf8.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Steps of one match before it is given up: about a tenth of a second. */
#define MATCH_LIMIT 10000000u
#define JIT_STACK_MAX (4u << 20)

bool st_tok_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == 32 || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

struct translate {
    const char *p, *end, *where;
    struct st_buf out;
    bool in_class;
    struct st_err *e;
};

static int refuse(struct translate *t, const char *what)
{
    return st_fail(t->e, ST_UNSUPPORTED, "%s: this regex uses %s, which is not supported", t->where, what);
}

/* At a backslash. */
static int escape(struct translate *t)
{
    if (t->end - t->p < 2)
        return st_fail(t->e, ST_INPUT, "%s: the regex ends in a backslash", t->where);
    char c = t->p[1];
    t->p += 2;
    if (!isalnum((unsigned char)c) || strchr("rntfeAz", c) || c == 'd' || c == 'D' || c == 'x' || c == 'p' ||
        c == 'P') {
        st_buf_addf(&t->out, "\\%c", c);
        const char *close =
            strchr("pPx", c) && t->p < t->end && *t->p == '{' ? memchr(t->p, '}', (size_t)(t->end - t->p)) : NULL;
        for (; close && t->p <= close; t->p++) /* this {...} is no quantifier */
            st_buf_add(&t->out, t->p, 1);
        return 0;
    }
    if (c == 's' || c == 'S') {
        st_buf_add_str(&t->out, c == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
        return 0;
    }
    if (c == 'w' || (c == 'W' && !t->in_class)) {
        const char *set = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
        if (t->in_class)
            st_buf_add_str(&t->out, set);
        else
            st_buf_addf(&t->out, "[%s%s]", c == 'W' ? "^" : "", set);
        return 0;
    }
    if (c == 'u' && t->end - t->p >= 4) {
        for (int i = 0; i < 4; i++)
            if (!isxdigit((unsigned char)t->p[i]))
                return st_fail(t->e, ST_INPUT, "%s: the regex has \\u without four hexadecimal digits", t->where);
        st_buf_addf(&t->out, "\\x{%.4s}", t->p);
        t->p += 4;
        return 0;
    }
    char what[3] = {'\\', c, 0};
    return refuse(t, what);
}

/* At '(' : plain and non-capturing groups, look-around, atomic groups, case folding. */
static int group(struct translate *t)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
    if (t->end - t->p < 2 || t->p[1] != '?') {
        if (t->end - t->p >= 2 && t->p[1] == '*')
            return refuse(t, "(*...)");
        st_buf_add(&t->out, t->p++, 1);
        return 0;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t n = strlen(known[i]);
        if ((size_t)(t->end - t->p) >= n && memcmp(t->p, known[i], n) == 0) {
            st_buf_add(&t->out, t->p, n);
            t->p += n;
            return 0;
        }
    }
    return refuse(t, "a group of another kind than (?: (?= (?! (?<= (?<! (?> (?i:");
}

/* At '[' outside a class. */
static int open_class(struct translate *t)
{
    t->in_class = true;
    st_buf_add(&t->out, t->p++, 1);
    if (t->p < t->end && *t->p == '^')
        st_buf_add(&t->out, t->p++, 1);
    if (t->p < t->end && *t->p == ']')
        return refuse(t, "a character class that begins with ]");
    return 0;
}

static int translate(struct translate *t)
{
    while (t->p < t->end) {
        int rc = 0;
        if (*t->p == '\\')
            rc = escape(t);
        else if (t->in_class && *t->p == '[')
            rc = refuse(t, "a class inside a class");
        else if (t->in_class && *t->p == '&' && t->p + 1 < t->end && t->p[1] == '&')
            rc = refuse(t, "&& in a class");
        else if (!t->in_class && *t->p == '[')
            rc = open_class(t);
        else if (!t->in_class && *t->p == '(')
            rc = group(t);
        else if (!t->in_class && *t->p == '}' && t->p + 1 < t->end && t->p[1] == '+')
            rc = refuse(t, "{n,m}+"); /* greedy in Ruby, possessive in PCRE2 */
        else {
            t->in_class = t->in_class && *t->p != ']';
            st_buf_add(&t->out, t->p++, 1);
        }
        if (rc)
            return rc;
    }
    return t->out.failed ? st_fail(t->e, ST_MEMORY, "%s: no memory for the regex", t->where) : 0;
}

int st_tok_pattern_regex(const char *regex, size_t len, const char *where, struct st_tok_pattern *out, struct st_err *e)
{
    *out = (struct st_tok_pattern){0};
    if (len > ST_TOK_MAX_REGEX)
        return st_fail(e, ST_INPUT, "%s: a regex of %zu bytes; at most %d are accepted", where, len, ST_TOK_MAX_REGEX);
    struct translate t = {.p = regex, .end = regex + len, .where = where, .e = e};
    int error = 0;
    PCRE2_SIZE at = 0;
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    int rc = translate(&t);
    if (rc)
        goto out;
    if (!cc) {
        rc = st_fail(e, ST_MEMORY, "%s: no memory for the regex", where);
        goto out;
    }
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(cc, 32);
    /* MULTILINE: ^ and $ of Ruby syntax are those of lines. */
    out->code = pcre2_compile((PCRE2_SPTR)(t.out.p ? t.out.p : ""), t.out.len,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, cc);
    if (!out->code) {
        rc = st_fail(e, ST_UNSUPPORTED, "%s: PCRE2 cannot read this regex (error %d at %zu)", where, error, at);
        goto out;
    }
    if (pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE) == PCRE2_ERROR_NOMEMORY)
        rc = st_fail(e, ST_MEMORY, "%s: no memory for the regex", where);
out:
    if (rc)
        st_tok_pattern_free(out);
    pcre2_compile_context_free(cc);
    st_buf_free(&t.out);
    return rc;
}

int st_tok_pattern_literal(const char *text, size_t len, struct st_tok_pattern *out, struct st_err *e)
{
    *out = (struct st_tok_pattern){.text = malloc(len + 1), .len = len};
    if (!out->text)
        return st_fail(e, ST_MEMORY, "no memory for a pattern of %zu bytes", len);
    memcpy(out->text, text, len);
    out->text[len] = 0;
    return 0;
}

void st_tok_pattern_free(struct st_tok_pattern *p)
{
    pcre2_code_free(p->code);
    free(p->text);
    *p = (struct st_tok_pattern){0};
}

int st_tok_match_init(struct st_tok_match *m, struct st_err *e)
{
    m->data = pcre2_match_data_create(32, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_MAX, NULL);
    if (!m->data || !m->context || !m->stack)
        return st_fail(e, ST_MEMORY, "no memory for the regex's scratch");
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    pcre2_set_heap_limit(m->context, 64 << 10); /* KiB */
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return 0;
}

void st_tok_match_wipe(struct st_tok_match *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    *m = (struct st_tok_match){0};
}

/* The next match at or after `from`: 1, 0 or -1. */
static int search(const struct st_tok_finder *f, size_t from, size_t *start, size_t *end, struct st_err *e)
{
    if (!f->p->code) {
        const char *hit = f->p->len ? memmem(f->text + from, f->len - from, f->p->text, f->p->len) : NULL;
        if (!hit)
            return 0;
        *start = (size_t)(hit - f->text);
        *end = *start + f->p->len;
        return 1;
    }
    int rc = pcre2_match(f->p->code, (PCRE2_SPTR)f->text, f->len, from, PCRE2_NO_UTF_CHECK, f->m->data, f->m->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        st_fail(e, ST_INPUT, "the tokenizer's regex gave up on this text (PCRE2 error %d)", rc);
        return -1;
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(f->m->data);
    *start = o[0];
    *end = o[1];
    return 1;
}

int st_tok_find(struct st_tok_finder *f, size_t *start, size_t *end, struct st_err *e)
{
    while (f->at <= f->len) {
        int rc = search(f, f->at, start, end, e);
        if (rc <= 0)
            return rc;
        if (*start < *end || !f->any || *end != f->last_end) {
            f->at = f->last_end = *end;
            f->any = true;
            return 1;
        }
        /* An empty match where the last one ended does not count; look from the next character on. */
        uint32_t cp;
        size_t n = st_utf8_next((const uint8_t *)f->text + f->at, f->len - f->at, &cp);
        f->at += n ? n : 1;
    }
    return 0;
}

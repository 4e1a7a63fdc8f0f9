/* The sections of tokenizer.json that say how text is prepared: normalizer, pre_tokenizer, post_processor. What is not
 * known is refused by its type's name. */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define MAX_DEPTH 4

int st_tok_json_dup(const json_t *o, const char *where, const char *key, char **out, size_t *len, struct st_err *e)
{
    const char *s = NULL;
    if (st_json_need(o, where, key, e) || st_json_str(o, where, key, &s, e))
        return e->code;
    *len = strlen(s);
    *out = strdup(s);
    return *out ? 0 : st_fail(e, ST_MEMORY, "%s: no memory for %s", where, key);
}

int st_tok_json_pattern(const json_t *o, const char *where, const char *key, struct st_tok_pattern *out,
                        struct st_err *e)
{
    const json_t *p = json_object_get(o, key);
    const char *text = NULL, *regex = NULL;
    if (!json_is_object(p))
        return st_fail(e, ST_INPUT, "%s: %s: want {\"String\": ...} or {\"Regex\": ...}", where, key);
    if (st_json_str(p, where, "String", &text, e) || st_json_str(p, where, "Regex", &regex, e))
        return e->code;
    if (!text == !regex)
        return st_fail(e, ST_INPUT, "%s: %s: want {\"String\": ...} or {\"Regex\": ...}", where, key);
    if (text)
        return st_tok_pattern_literal(text, strlen(text), out, e);
    return st_tok_pattern_regex(regex, strlen(regex), where, out, e);
}

/* The type of a part, and for a Sequence its list (else NULL). */
static int read_type(const json_t *o, const char *where, const char *list_key, int depth, const char **type,
                     const json_t **list, struct st_err *e)
{
    *list = NULL;
    if (!json_is_object(o))
        return st_fail(e, ST_INPUT, "%s: want an object", where);
    if (st_json_need(o, where, "type", e) || st_json_str(o, where, "type", type, e))
        return e->code;
    if (strcmp(*type, "Sequence") != 0)
        return 0;
    *list = json_object_get(o, list_key);
    if (!json_is_array(*list) || depth >= MAX_DEPTH)
        return st_fail(e, ST_INPUT, "%s: %s: want an array, at most %d deep", where, list_key, MAX_DEPTH);
    return 0;
}

static int too_many(const char *where, struct st_err *e)
{
    return st_fail(e, ST_INPUT, "%s: more than %d parts", where, ST_TOK_MAX_STAGE);
}

/* Normalizers.
 * ----------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int options;
} unicode_forms[] = {
    {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
    {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
    {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

static int read_strip(const json_t *o, const char *where, struct st_tok_norm *n, struct st_err *e)
{
    bool left = true, right = true;
    if (st_json_bool(o, where, "strip_left", &left, e) || st_json_bool(o, where, "strip_right", &right, e))
        return e->code;
    n->kind = ST_TOK_NORM_STRIP;
    n->arg = left | right << 1;
    return 0;
}

static int read_normalizer(const json_t *o, const char *where, int depth, struct st_tokenizer *t, struct st_err *e)
{
    const char *type = "";
    const json_t *list;
    int rc = read_type(o, where, "normalizers", depth, &type, &list, e);
    for (size_t i = 0; !rc && i < json_array_size(list); i++)
        rc = read_normalizer(json_array_get(list, i), where, depth + 1, t, e);
    if (rc || list)
        return rc;
    if (t->n_norm == ST_TOK_MAX_STAGE)
        return too_many(where, e);
    struct st_tok_norm *n = &t->norm[t->n_norm++];
    for (size_t i = 0; i < sizeof unicode_forms / sizeof *unicode_forms; i++)
        if (strcmp(type, unicode_forms[i].name) == 0) {
            *n = (struct st_tok_norm){.kind = ST_TOK_NORM_UNICODE, .arg = unicode_forms[i].options};
            return 0;
        }
    if (strcmp(type, "Prepend") == 0) {
        n->kind = ST_TOK_NORM_PREPEND;
        return st_tok_json_dup(o, where, "prepend", &n->content, &n->content_len, e);
    }
    if (strcmp(type, "Replace") == 0) {
        n->kind = ST_TOK_NORM_REPLACE;
        rc = st_tok_json_pattern(o, where, "pattern", &n->pattern, e);
        return rc ? rc : st_tok_json_dup(o, where, "content", &n->content, &n->content_len, e);
    }
    if (strcmp(type, "Strip") == 0)
        return read_strip(o, where, n, e);
    return st_fail(e, ST_UNSUPPORTED,
                   "%s: normalizer '%.40s' is not supported; supported: NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip, "
                   "Sequence",
                   where, type);
}

int st_tok_json_normalizer(const json_t *v, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    return v && !json_is_null(v) ? read_normalizer(v, where, 0, t, e) : 0;
}

/* Pre-tokenizers.
 * -------------------------------------------------------------------------------------------------------- */

/* NULL when there are too many. */
static struct st_tok_stage *new_stage(struct st_tokenizer *t, enum st_tok_stage_kind kind, const char *where,
                                      struct st_err *e)
{
    if (t->n_stage == ST_TOK_MAX_STAGE) {
        too_many(where, e);
        return NULL;
    }
    struct st_tok_stage *s = &t->stage[t->n_stage++];
    *s = (struct st_tok_stage){.kind = kind, .behavior = ST_TOK_ISOLATED};
    return s;
}

int st_tok_stage_regex(struct st_tokenizer *t, const char *regex, enum st_tok_behavior b, const char *where,
                       struct st_err *e)
{
    struct st_tok_stage *s = new_stage(t, ST_TOK_STAGE_SPLIT, where, e);
    if (!s)
        return e->code;
    s->behavior = b;
    return st_tok_pattern_regex(regex, strlen(regex), where, &s->pattern, e);
}

static int read_split(const json_t *o, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    struct st_tok_stage *s = new_stage(t, ST_TOK_STAGE_SPLIT, where, e);
    const char *behavior = NULL;
    if (!s || st_tok_json_pattern(o, where, "pattern", &s->pattern, e) || st_json_need(o, where, "behavior", e) ||
        st_json_str(o, where, "behavior", &behavior, e) || st_json_bool(o, where, "invert", &s->invert, e))
        return e->code;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(behavior, names[i]) == 0) {
            s->behavior = (enum st_tok_behavior)i;
            return 0;
        }
    return st_fail(e, ST_UNSUPPORTED, "%s: Split: behavior '%.40s' is not supported", where, behavior);
}

static int read_byte_level(const json_t *o, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    bool space = true, regex = true;
    if (st_json_bool(o, where, "add_prefix_space", &space, e) || st_json_bool(o, where, "use_regex", &regex, e) ||
        (space && !new_stage(t, ST_TOK_STAGE_SPACE, where, e)) ||
        (regex && st_tok_stage_regex(t, ST_TOK_REGEX_GPT2, ST_TOK_ISOLATED, where, e)))
        return e->code;
    t->byte_level = t->byte_mapped = true;
    return 0;
}

int st_tok_json_metaspace(const json_t *o, const char *where, struct st_tok_pattern *out, enum st_tok_scheme *scheme,
                          bool *split, struct st_err *e)
{
    static const char *const names[] = {"always", "first", "never"};
    const char *text = NULL, *name = NULL;
    bool prefix = true, ignored = true;
    if (st_json_need(o, where, "replacement", e) || st_json_str(o, where, "replacement", &text, e) ||
        st_json_str(o, where, "prepend_scheme", &name, e) || st_json_bool(o, where, "add_prefix_space", &prefix, e) ||
        st_json_bool(o, where, "split", split ? split : &ignored, e))
        return e->code;
    name = name ? name : prefix ? "always" : "never"; /* files from before prepend_scheme */
    int i = 0;
    while (i < 3 && strcmp(name, names[i]) != 0)
        i++;
    if (i == 3)
        return st_fail(e, ST_UNSUPPORTED, "%s: Metaspace: prepend_scheme '%.40s' is not supported", where, name);
    *scheme = (enum st_tok_scheme)i;
    if (!*text || strlen(text) > 4)
        return st_fail(e, ST_INPUT, "%s: Metaspace: replacement: want one character", where);
    return st_tok_pattern_literal(text, strlen(text), out, e);
}

static int read_metaspace(const json_t *o, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    struct st_tok_stage *m = new_stage(t, ST_TOK_STAGE_META, where, e), *s;
    bool split = true;
    if (!m || st_tok_json_metaspace(o, where, &m->pattern, &m->scheme, &split, e))
        return e->code;
    if (!split)
        return 0;
    s = new_stage(t, ST_TOK_STAGE_SPLIT, where, e);
    if (!s)
        return e->code;
    s->behavior = ST_TOK_MERGED_NEXT;
    return st_tok_pattern_literal(m->pattern.text, m->pattern.len, &s->pattern, e);
}

static int read_digits(const json_t *o, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    bool individual = false;
    if (st_json_bool(o, where, "individual_digits", &individual, e))
        return e->code;
    return st_tok_stage_regex(t, "\\p{N}", individual ? ST_TOK_ISOLATED : ST_TOK_CONTIGUOUS, where, e);
}

static int read_pre(const json_t *o, const char *where, int depth, struct st_tokenizer *t, struct st_err *e)
{
    const char *type = "";
    const json_t *list;
    int rc = read_type(o, where, "pretokenizers", depth, &type, &list, e);
    for (size_t i = 0; !rc && i < json_array_size(list); i++)
        rc = read_pre(json_array_get(list, i), where, depth + 1, t, e);
    if (rc || list)
        return rc;
    if (t->byte_level) /* what follows would see the byte alphabet instead of the text */
        return st_fail(e, ST_UNSUPPORTED, "%s: pre_tokenizer '%.40s' after ByteLevel is not supported", where, type);
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(o, where, t, e);
    if (strcmp(type, "Split") == 0)
        return read_split(o, where, t, e);
    if (strcmp(type, "Digits") == 0)
        return read_digits(o, where, t, e);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(o, where, t, e);
    return st_fail(
        e, ST_UNSUPPORTED,
        "%s: pre_tokenizer '%.40s' is not supported; supported: ByteLevel, Split, Digits, Metaspace, Sequence", where,
        type);
}

int st_tok_json_pre(const json_t *v, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    return v && !json_is_null(v) ? read_pre(v, where, 0, t, e) : 0;
}

/* Post-processors.
 * ------------------------------------------------------------------------------------------------------- */

static int add_affix(struct st_tokenizer *t, uint32_t *list, int *n, uint32_t id, const char *where, struct st_err *e)
{
    if (*n == ST_TOK_MAX_AFFIX)
        return st_fail(e, ST_INPUT, "%s: more than %d tokens in front or behind", where, ST_TOK_MAX_AFFIX);
    if (id >= t->vocab.n_id || !t->vocab.entry[id].flags)
        return st_fail(e, ST_INPUT, "%s: token id %u is not in the vocabulary", where, id);
    list[(*n)++] = id;
    return 0;
}

/* The ids of one special token of a template. */
static int template_token(const json_t *o, const json_t *item, const char *where, bool behind, struct st_tokenizer *t,
                          struct st_err *e)
{
    const char *name = NULL;
    if (st_json_need(item, where, "id", e) || st_json_str(item, where, "id", &name, e))
        return e->code;
    const json_t *ids = json_object_get(json_object_get(json_object_get(o, "special_tokens"), name), "ids");
    if (!json_is_array(ids))
        return st_fail(e, ST_INPUT, "%s: special_tokens: a token of the template is missing", where);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *v = json_array_get(ids, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= ST_TOK_MAX_ID)
            return st_fail(e, ST_INPUT, "%s: special_tokens: ids: want token ids", where);
        if (add_affix(t, behind ? t->suffix : t->prefix, behind ? &t->n_suffix : &t->n_prefix,
                      (uint32_t)json_integer_value(v), where, e))
            return e->code;
    }
    return 0;
}

static int read_template(const json_t *o, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    const json_t *single = json_object_get(o, "single");
    int n_text = 0;
    if (!json_is_array(single))
        return st_fail(e, ST_INPUT, "%s: TemplateProcessing: single: want an array", where);
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *token = json_object_get(item, "SpecialToken");
        if (token && template_token(o, token, where, n_text > 0, t, e))
            return e->code;
        n_text += json_object_get(item, "Sequence") != NULL;
        if (!token == !json_object_get(item, "Sequence"))
            return st_fail(e, ST_INPUT, "%s: single[%zu]: want SpecialToken or Sequence", where, i);
    }
    if (n_text != 1)
        return st_fail(e, ST_INPUT, "%s: TemplateProcessing: single: want one Sequence, got %d", where, n_text);
    return 0;
}

static int read_post(const json_t *o, const char *where, int depth, struct st_tokenizer *t, struct st_err *e)
{
    const char *type = "";
    const json_t *list;
    int rc = read_type(o, where, "processors", depth, &type, &list, e);
    for (size_t i = 0; !rc && i < json_array_size(list); i++)
        rc = read_post(json_array_get(list, i), where, depth + 1, t, e);
    if (rc || list || strcmp(type, "ByteLevel") == 0) /* ByteLevel changes offsets only */
        return rc;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(o, where, t, e);
    return st_fail(e, ST_UNSUPPORTED,
                   "%s: post_processor '%.40s' is not supported; supported: TemplateProcessing, ByteLevel, Sequence",
                   where, type);
}

int st_tok_json_post(const json_t *v, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    return v && !json_is_null(v) ? read_post(v, where, 0, t, e) : 0;
}

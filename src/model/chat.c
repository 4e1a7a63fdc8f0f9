/* Chat templates, written out from the Jinja templates that the models ship. Each writes the conversation as text with
 * its special tokens spelled out; what people wrote is marked, so that the tokenizer reads no special token in it. */
#include "model/chat.h"
#include "base/file.h"
#include "model/texts.h"
#include "text/json.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TEMPLATE (1u << 20) /* bytes of a template file */
#define MAX_CONFIG (4u << 20)

struct draft {
    struct st_buf text;
    struct st_plain_range *range;
    size_t n, cap;
    bool failed;
};

struct st_chat_template {
    const char *name;
    void (*write)(const struct st_chat_template *t, struct draft *d, const struct st_chat_msg *m, size_t n);
    bool alternate;             /* an optional system message, then user and assistant in turns, user last */
    const char *default_system; /* used when the conversation has none */
    const char *opening;        /* what the answer begins with */
    bool drop_thoughts;         /* earlier answers lose what stands before </think> */
    bool space_front, space_back, system_last, trim; /* mistral: see write_mistral */
    const char *needs[3];                            /* special tokens that the vocabulary must have */
    const char *stops[3];
};

/* Writing.
 * --------------------------------------------------------------------------------------------------------------- */

static void put(struct draft *d, const char *text)
{
    st_buf_add_str(&d->text, text);
}

/* Text that somebody wrote. */
static void put_plain(struct draft *d, const char *text, size_t len)
{
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 16;
        struct st_plain_range *p = realloc(d->range, cap * sizeof *p);
        if (!p) {
            d->failed = true;
            return;
        }
        d->range = p;
        d->cap = cap;
    }
    if (len)
        d->range[d->n++] = (struct st_plain_range){d->text.len, d->text.len + len};
    st_buf_add(&d->text, text, len);
}

/* White space as Python's str.strip sees it. */
static bool is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

static size_t trimmed_end(const char *text, size_t len)
{
    size_t end = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp = 0;
        size_t n = st_utf8_next((const uint8_t *)text + i, len - i, &cp);
        i += n ? n : 1;
        if (!n || !is_space(cp))
            end = i;
    }
    return end;
}

static size_t trimmed_start(const char *text, size_t len)
{
    size_t i = 0, n;
    uint32_t cp = 0;
    while (i < len && (n = st_utf8_next((const uint8_t *)text + i, len - i, &cp)) && is_space(cp))
        i += n;
    return i;
}

static void put_trimmed(struct draft *d, const struct st_chat_msg *m)
{
    size_t end = trimmed_end(m->text, m->len), start = trimmed_start(m->text, end);
    put_plain(d, m->text + start, end - start);
}

/* Takes white space off the end of the draft, down to `from`. */
static void trim_draft(struct draft *d, size_t from)
{
    if (d->text.failed || d->text.len == from)
        return;
    d->text.len = from + trimmed_end(d->text.p + from, d->text.len - from);
    while (d->n && d->range[d->n - 1].end > d->text.len) {
        d->range[d->n - 1].end = d->text.len;
        d->n -= d->range[d->n - 1].start >= d->text.len;
    }
}

static const char *role_name(enum st_chat_role r)
{
    static const char *const names[] = {"system", "user", "assistant"};
    return names[r];
}

static void write_llama2(const struct st_chat_template *t, struct draft *d, const struct st_chat_msg *m, size_t n)
{
    (void)t;
    const struct st_chat_msg *system = m[0].role == ST_CHAT_SYSTEM ? &m[0] : NULL;
    for (size_t i = system != NULL; i < n; i++) {
        if (m[i].role == ST_CHAT_ASSISTANT) {
            put(d, " ");
            put_trimmed(d, &m[i]);
            put(d, " </s>");
            continue;
        }
        put(d, "<s>[INST] ");
        if (system) {
            size_t from = d->text.len;
            put(d, "<<SYS>>\n");
            put_plain(d, system->text, system->len);
            put(d, "\n<</SYS>>\n\n");
            put_plain(d, m[i].text, m[i].len);
            trim_draft(d, from);
        } else
            put_trimmed(d, &m[i]);
        put(d, " [/INST]");
        system = NULL;
    }
}

/* Mistral has no system block: its text stands before a user message, the first (before v0.3) or the last. */
static void write_mistral(const struct st_chat_template *t, struct draft *d, const struct st_chat_msg *m, size_t n)
{
    size_t first = m[0].role == ST_CHAT_SYSTEM;
    put(d, "<s>");
    for (size_t i = first; i < n; i++) {
        if (m[i].role == ST_CHAT_ASSISTANT) {
            put(d, t->space_front || t->trim ? " " : "");
            if (t->trim)
                put_trimmed(d, &m[i]);
            else
                put_plain(d, m[i].text, m[i].len);
            put(d, "</s>");
            continue;
        }
        put(d, t->space_front ? " [INST] " : "[INST] ");
        if (first && i == (t->system_last ? n - 1 : 1)) {
            put_plain(d, m[0].text, m[0].len);
            put(d, "\n\n");
        }
        put_plain(d, m[i].text, m[i].len);
        put(d, t->space_back ? " [/INST]" : "[/INST]");
    }
}

static void write_llama3(const struct st_chat_template *t, struct draft *d, const struct st_chat_msg *m, size_t n)
{
    size_t i = 0;
    put(d, "<|begin_of_text|>");
    if (t->default_system) { /* Llama 3.1 and later: a system block with dates, always */
        put(d, "<|start_header_id|>system<|end_header_id|>\n\n");
        put(d, t->default_system);
        if (m[0].role == ST_CHAT_SYSTEM)
            put_trimmed(d, &m[i++]);
        put(d, "<|eot_id|>");
    }
    for (; i < n; i++) {
        put(d, "<|start_header_id|>");
        put(d, role_name(m[i].role));
        put(d, "<|end_header_id|>\n\n");
        put_trimmed(d, &m[i]);
        put(d, "<|eot_id|>");
    }
    put(d, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

/* What stands after the last </think> and the line ends behind it. */
static struct st_chat_msg without_thoughts(const struct st_chat_msg *m)
{
    struct st_chat_msg out = *m;
    for (size_t i = m->len; i >= 8; i--)
        if (memcmp(m->text + i - 8, "</think>", 8) == 0) {
            while (i < m->len && m->text[i] == '\n')
                i++;
            out.text = m->text + i;
            out.len = m->len - i;
            break;
        }
    return out;
}

static void write_chatml(const struct st_chat_template *t, struct draft *d, const struct st_chat_msg *m, size_t n)
{
    if (t->default_system && m[0].role != ST_CHAT_SYSTEM) {
        put(d, "<|im_start|>system\n");
        put(d, t->default_system);
        put(d, "<|im_end|>\n");
    }
    for (size_t i = 0; i < n; i++) {
        bool past = t->drop_thoughts && m[i].role == ST_CHAT_ASSISTANT;
        struct st_chat_msg x = past ? without_thoughts(&m[i]) : m[i];
        put(d, "<|im_start|>");
        put(d, role_name(x.role));
        put(d, "\n");
        put_plain(d, x.text, x.len);
        put(d, "<|im_end|>\n");
    }
    put(d, "<|im_start|>assistant\n");
    put(d, t->opening ? t->opening : "");
}

/* Story models: the texts, one under the other. BOS is put in front by st_chat_encode. */
static void write_plain(const struct st_chat_template *t, struct draft *d, const struct st_chat_msg *m, size_t n)
{
    (void)t;
    for (size_t i = 0; i < n; i++) {
        put(d, i ? "\n" : "");
        put_plain(d, m[i].text, m[i].len);
    }
}

/* With a full-width bar, and the sign that SentencePiece writes for a space. */
#define DEEPSEEK_BOS "<｜begin▁of▁sentence｜>"
#define DEEPSEEK_EOS "<｜end▁of▁sentence｜>"
#define DEEPSEEK_USER "<｜User｜>"
#define DEEPSEEK_ASSISTANT "<｜Assistant｜>"

static void write_deepseek2(const struct st_chat_template *t, struct draft *d, const struct st_chat_msg *m, size_t n)
{
    static const char *const before[] = {"", "User: ", "Assistant: "}, *const after[] = {"\n\n", "\n\n", DEEPSEEK_EOS};
    (void)t;
    put(d, DEEPSEEK_BOS);
    for (size_t i = 0; i < n; i++) {
        put(d, before[m[i].role]);
        put_plain(d, m[i].text, m[i].len);
        put(d, after[m[i].role]);
    }
    put(d, "Assistant:");
}

/* All system messages stand before the conversation. */
static void write_deepseek3(const struct st_chat_template *t, struct draft *d, const struct st_chat_msg *m, size_t n)
{
    bool first = true;
    (void)t;
    put(d, DEEPSEEK_BOS);
    for (size_t i = 0; i < n; i++)
        if (m[i].role == ST_CHAT_SYSTEM) {
            put(d, first ? "" : "\n\n");
            put_plain(d, m[i].text, m[i].len);
            first = false;
        }
    for (size_t i = 0; i < n; i++) {
        if (m[i].role == ST_CHAT_SYSTEM)
            continue;
        bool user = m[i].role == ST_CHAT_USER;
        put(d, user ? DEEPSEEK_USER : DEEPSEEK_ASSISTANT);
        put_plain(d, m[i].text, m[i].len);
        put(d, user ? "" : DEEPSEEK_EOS);
    }
    put(d, DEEPSEEK_ASSISTANT);
}

/* The templates.
 * --------------------------------------------------------------------------------------------------------- */

#define CHATML .write = write_chatml, .needs = {"<|im_start|>", "<|im_end|>"}, .stops = {"<|im_end|>", "<|endoftext|>"}
#define LLAMA3                                                                                                         \
    .write = write_llama3, .needs = {"<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>"},                        \
    .stops = {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}
#define INST .alternate = true, .needs = {"<s>", "</s>"}, .stops = {"</s>"}

/* Llama 3.1's own date, which its template writes when it is told none: the same prompt gives the same ids every day.
 */
#define LLAMA31_SYSTEM "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

static const struct st_chat_template templates[] = {
    {.name = "llama-2", .write = write_llama2, INST},
    {.name = "llama-3", LLAMA3},
    {.name = "llama-3.1", .default_system = LLAMA31_SYSTEM, LLAMA3},
    {.name = "chatml", CHATML},
    {.name = "qwen2", .default_system = "You are a helpful assistant.", CHATML},
    {.name = "qwen2.5",
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
     CHATML},
    {.name = "qwen3", .drop_thoughts = true, CHATML},
    {.name = "qwen3-thinking", .drop_thoughts = true, .opening = "<think>\n", CHATML},
    {.name = "smollm2",
     .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
     CHATML},
    {.name = "mistral", .write = write_mistral, .space_back = true, INST},
    {.name = "mistral-v0.2", .write = write_mistral, .space_front = true, .space_back = true, INST},
    {.name = "mistral-v0.3", .write = write_mistral, .system_last = true, .trim = true, INST},
    {.name = "deepseek-v2", .write = write_deepseek2, .needs = {DEEPSEEK_BOS, DEEPSEEK_EOS}, .stops = {DEEPSEEK_EOS}},
    {.name = "deepseek-v3",
     .write = write_deepseek3,
     .needs = {DEEPSEEK_BOS, DEEPSEEK_EOS, DEEPSEEK_USER},
     .stops = {DEEPSEEK_EOS}},
    {.name = "plain", .write = write_plain, .stops = {"<|endoftext|>", "</s>", "<s>"}},
};
#define N_TEMPLATE (sizeof templates / sizeof *templates)

static const struct st_chat_template *by_name(const char *name)
{
    for (size_t i = 0; i < N_TEMPLATE; i++)
        if (strcmp(templates[i].name, name) == 0)
            return &templates[i];
    return NULL;
}

int st_chat_find(const char *name, const struct st_chat_template **out, struct st_err *e)
{
    struct st_buf known = {0};
    *out = by_name(name);
    for (size_t i = 0; !*out && i < N_TEMPLATE; i++)
        st_buf_addf(&known, "%s%s", i ? ", " : "", templates[i].name);
    if (!*out)
        st_fail(e, ST_UNSUPPORTED, "chat template '%.60s' is not supported; supported: %s", name,
                known.p ? known.p : "");
    st_buf_free(&known);
    return *out ? 0 : e->code;
}

const char *st_chat_name(const struct st_chat_template *t)
{
    return t->name;
}

/* Detection.
 * ------------------------------------------------------------------------------------------------------------- */

static bool has(const char *text, const char *mark)
{
    return strstr(text, mark) != NULL;
}

/* The default system message that a ChatML template writes out, as a name; "chatml" when it has none, NULL when it is
 * one that is not known here. */
static const char *chatml_variant(const char *text)
{
    static const char head[] = "<|im_start|>system";
    for (const char *p = text; (p = strstr(p, head));) {
        p += sizeof head - 1;
        p += p[0] == '\\' && p[1] == 'n' ? 2 : p[0] == '\n';
        const char *end = strstr(p, "<|im_end|>");
        size_t len = end ? (size_t)(end - p) : 0;
        if (!len || strcspn(p, "'\"{}") < len) /* an expression: what the caller wrote */
            continue;
        for (size_t i = 0; i < N_TEMPLATE; i++) {
            const char *s = templates[i].write == write_chatml ? templates[i].default_system : NULL;
            if (s && strlen(s) == len && memcmp(s, p, len) == 0)
                return templates[i].name;
        }
        return NULL;
    }
    if (has(text, "assistant\\n<think>\\n"))
        return "qwen3-thinking";
    return has(text, "</think>") ? "qwen3" : "chatml";
}

static const char *mistral_variant(const char *text)
{
    if (has(text, "[SYSTEM_PROMPT]"))
        return NULL;
    if (has(text, "' [/INST]") || has(text, "\" [/INST]"))
        return has(text, "' [INST] ") || has(text, "\" [INST] ") ? "mistral-v0.2" : "mistral";
    return has(text, "[INST] ") && has(text, "|trim") ? "mistral-v0.3" : NULL;
}

/* A template that writes texts and nothing around them. */
static bool is_plain(const char *text)
{
    return has(text, "content") && !strpbrk(text, "<>") && !has(text, "role") && !has(text, "eos_token") &&
           !has(text, "INST") && !has(text, "#");
}

/* R1 and V3.1 write and cut thoughts in ways of their own. */
static const char *deepseek_variant(const char *text)
{
    if (has(text, DEEPSEEK_USER))
        return has(text, DEEPSEEK_ASSISTANT) && !has(text, "think") ? "deepseek-v3" : NULL;
    return has(text, "'Assistant: ' + ") && has(text, "eos_token") && !has(text, "think") ? "deepseek-v2" : NULL;
}

/* The name of the template with these marks, or NULL. */
static const char *recognise(const char *text)
{
    if (has(text, "<|start_header_id|>"))
        return has(text, "Cutting Knowledge Date") ? "llama-3.1" : "llama-3";
    if (has(text, "<|im_start|>"))
        return chatml_variant(text);
    if (has(text, "<<SYS>>"))
        return "llama-2";
    if (has(text, "[INST]"))
        return mistral_variant(text);
    if (has(text, DEEPSEEK_USER) || has(text, "'User: ' + "))
        return deepseek_variant(text);
    return is_plain(text) ? "plain" : NULL;
}

/* No template in the checkpoint: the vocabulary tells. */
static const char *from_vocabulary(const struct st_tokenizer *t)
{
    if (st_tokenizer_id(t, "<|start_header_id|>") >= 0 && st_tokenizer_id(t, "<|eot_id|>") >= 0)
        return "llama-3";
    if (st_tokenizer_id(t, "<|im_start|>") >= 0 && st_tokenizer_id(t, "<|im_end|>") >= 0)
        return "chatml";
    if (st_tokenizer_id(t, "[INST]") >= 0 && st_tokenizer_id(t, "[/INST]") >= 0)
        return "mistral-v0.3";
    return "plain";
}

/* chat_template of tokenizer_config.json: a string, or a list of named ones. Stays empty when there is none. */
static int read_config_template(const struct st_texts *t, char *path, struct st_buf *out, struct st_err *e)
{
    json_t *root = NULL;
    struct st_buf config = {0};
    int rc = st_texts_read(t, "tokenizer_config.json", MAX_CONFIG, &config, path, e);
    if (!rc)
        rc = st_json_parse(config.p, config.len, path, &root, e);
    st_buf_free(&config);
    if (rc)
        return rc;
    const json_t *v = json_object_get(root, "chat_template"), *named = NULL;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(v, i), "name"));
        if (name && strcmp(name, "default") == 0)
            named = json_object_get(json_array_get(v, i), "template");
    }
    const char *text = json_string_value(json_is_array(v) ? named : v);
    if (text)
        st_buf_add_str(out, text);
    else if (v && !json_is_null(v))
        rc = st_fail(e, ST_INPUT, "%s: chat_template: want a string, or a list with a template named default", path);
    if (out->failed)
        rc = st_fail(e, ST_MEMORY, "%s: no memory for the template", path);
    json_decref(root);
    return rc;
}

static int read_template(const struct st_texts *t, char *path, struct st_buf *out, struct st_err *e)
{
    if (st_texts_has(t, "chat_template.jinja"))
        return st_texts_read(t, "chat_template.jinja", MAX_TEMPLATE, out, path, e);
    return st_texts_has(t, "tokenizer_config.json") ? read_config_template(t, path, out, e) : 0;
}

int st_chat_detect_in(const struct st_texts *texts, const struct st_tokenizer *t, const struct st_chat_template **out,
                      struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_buf text = {0};
    *out = NULL;
    int rc = read_template(texts, path, &text, e);
    if (rc)
        goto out;
    const char *name = text.len ? recognise(text.p) : from_vocabulary(t);
    if (name)
        *out = by_name(name);
    else
        rc = st_fail(e, ST_UNSUPPORTED, "%s: this chat template is not known; choose one with --chat-template", path);
out:
    st_buf_free(&text);
    return rc;
}

int st_chat_detect(const char *path, const struct st_tokenizer *t, const struct st_chat_template **out,
                   struct st_err *e)
{
    struct st_texts texts;
    *out = NULL;
    int rc = st_texts_open(path, NULL, &texts, e);
    if (!rc)
        rc = st_chat_detect_in(&texts, t, out, e);
    st_texts_close(&texts);
    return rc;
}

/* Encoding.
 * -------------------------------------------------------------------------------------------------------------- */

static int check_roles(const struct st_chat_template *t, const struct st_chat_msg *m, size_t n, struct st_err *e)
{
    if (n == 0)
        return st_fail(e, ST_INPUT, "messages: want at least one");
    if (!t->alternate)
        return 0;
    size_t first = m[0].role == ST_CHAT_SYSTEM;
    for (size_t i = first; i < n; i++) {
        enum st_chat_role want = (i - first) % 2 ? ST_CHAT_ASSISTANT : ST_CHAT_USER;
        if (m[i].role != want)
            return st_fail(e, ST_INPUT, "messages[%zu].role: chat template %s wants '%s' here, got '%s'", i, t->name,
                           role_name(want), role_name(m[i].role));
    }
    if (m[n - 1].role != ST_CHAT_USER)
        return st_fail(e, ST_INPUT, "messages: chat template %s wants a user's message at the end", t->name);
    return 0;
}

int st_chat_encode(const struct st_chat_template *t, const struct st_tokenizer *tok, const struct st_chat_msg *msgs,
                   size_t n, struct st_ids *out, struct st_err *e)
{
    struct draft d = {0};
    size_t before = out->len;
    int rc = check_roles(t, msgs, n, e);
    for (int i = 0; !rc && i < 3 && t->needs[i]; i++)
        if (st_tokenizer_id(tok, t->needs[i]) < 0)
            rc = st_fail(e, ST_INPUT, "chat template %s needs the token %s, which the tokenizer does not have", t->name,
                         t->needs[i]);
    if (rc)
        return rc;
    t->write(t, &d, msgs, n);
    if (d.failed || d.text.failed) {
        rc = st_fail(e, ST_MEMORY, "no memory for a conversation of %zu messages", n);
        goto out;
    }
    if (t->write == write_plain && st_tokenizer_bos(tok) >= 0)
        st_ids_add(out, (uint32_t)st_tokenizer_bos(tok));
    struct st_encode_opts o = {.parse_special = true, .plain = d.range, .n_plain = d.n};
    rc = st_tokenizer_encode(tok, d.text.p ? d.text.p : "", d.text.len, &o, out, e);
out:
    if (rc)
        out->len = before;
    st_buf_wipe(&d.text);
    free(d.range);
    return rc;
}

size_t st_chat_stops(const struct st_chat_template *t, const struct st_tokenizer *tok, uint32_t *out, size_t cap)
{
    size_t n = 0;
    for (int i = 0; i < 3 && t->stops[i]; i++) {
        int64_t id = st_tokenizer_id(tok, t->stops[i]);
        if (id >= 0 && n < cap)
            out[n++] = (uint32_t)id;
    }
    /* A story model begins the next story with BOS. */
    if (t->write == write_plain && st_tokenizer_bos(tok) >= 0 && n < cap)
        out[n++] = (uint32_t)st_tokenizer_bos(tok);
    return n;
}

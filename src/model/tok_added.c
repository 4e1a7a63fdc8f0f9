/* Added tokens: found in a text before anything else, leftmost first, the longest of those that begin there. */
#include "model/tok.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* Marks of chat templates that some files forget to call special. */
static bool looks_like_control(const char *text, size_t len)
{
    static const char *const known[] = {"<s>", "</s>", "[INST]", "[/INST]"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i]) == len && memcmp(text, known[i], len) == 0)
            return true;
    return len > 4 && memcmp(text, "<|", 2) == 0 && memcmp(text + len - 2, "|>", 2) == 0;
}

int st_tok_added_put(struct st_tokenizer *t, struct st_tok_trie *trie, const char *text, size_t len,
                     const struct st_tok_added *a, struct st_err *e)
{
    if (t->n_added == t->cap_added) {
        size_t cap = t->cap_added ? t->cap_added * 2 : 64;
        struct st_tok_added *p = realloc(t->added, cap * sizeof *p);
        if (!p)
            return st_fail(e, ST_MEMORY, "no memory for %zu added tokens", cap);
        t->added = p;
        t->cap_added = cap;
    }
    uint64_t node = 0;
    if (!trie->n_node) {
        trie->n_node = 1;
        trie->only_first = (uint8_t)text[0];
    }
    for (size_t i = 0; i < len; i++) {
        uint64_t key = node << 8 | (uint8_t)text[i];
        uint64_t next = st_tok_map_get(&trie->edge, key, 0);
        if (!next) {
            next = trie->n_node++;
            if (st_tok_map_put(&trie->edge, key, next, e))
                return e->code;
        }
        node = next;
    }
    trie->first[(uint8_t)text[0]] = true;
    if (trie->only_first != (uint8_t)text[0])
        trie->only_first = -1;
    t->added[t->n_added] = *a;
    t->added[t->n_added].control = a->special || looks_like_control(text, len);
    return st_tok_map_put(&trie->leaf, node, t->n_added++, e);
}

void st_tok_trie_free(struct st_tok_trie *t)
{
    st_tok_map_free(&t->edge);
    st_tok_map_free(&t->leaf);
}

/* The first position at or after `at` where some token's first byte stands, or len. */
static size_t skip_to_first(const struct st_tok_trie *trie, const char *text, size_t len, size_t at)
{
    if (trie->only_first >= 0) {
        const char *p = memchr(text + at, trie->only_first, len - at);
        return p ? (size_t)(p - text) : len;
    }
    while (at < len && !trie->first[(uint8_t)text[at]])
        at++;
    return at;
}

/* The longest allowed token at `at`, or NULL. */
static const struct st_tok_added *longest(const struct st_tokenizer *t, const struct st_tok_trie *trie,
                                          const char *text, size_t len, const char *plain, bool special, size_t at,
                                          size_t *end)
{
    const struct st_tok_added *best = NULL;
    bool mixed = plain && plain[at];
    uint64_t node = 0;
    for (size_t i = at; i < len; i++) {
        node = st_tok_map_get(&trie->edge, node << 8 | (uint8_t)text[i], 0);
        if (!node)
            break;
        mixed |= plain && plain[i];
        uint64_t leaf = st_tok_map_get(&trie->leaf, node, UINT64_MAX);
        if (leaf == UINT64_MAX)
            continue;
        const struct st_tok_added *a = &t->added[leaf];
        if ((special || !a->special) && (!mixed || !a->control)) {
            best = a;
            *end = i + 1;
        }
    }
    return best;
}

/* Code point that ends at text[at]; 0 at the beginning. */
static uint32_t before(const char *text, size_t at, size_t *len)
{
    uint32_t cp = 0;
    size_t n = 1;
    while (n < 4 && n < at && ((uint8_t)text[at - n] & 0xc0) == 0x80)
        n++;
    *len = at ? st_utf8_next((const uint8_t *)text + at - n, n, &cp) : 0;
    return *len ? cp : 0;
}

static uint32_t after(const char *text, size_t len, size_t at, size_t *n)
{
    uint32_t cp = 0;
    *n = st_utf8_next((const uint8_t *)text + at, len - at, &cp);
    return *n ? cp : 0;
}

bool st_tok_added_next(const struct st_tokenizer *t, const struct st_tok_trie *trie, const char *text, size_t len,
                       const char *plain, bool special, size_t from, size_t *at, size_t *start, size_t *end,
                       uint32_t *id)
{
    while (trie->n_node && (*at = skip_to_first(trie, text, len, *at)) < len) {
        size_t n, s = *at, stop = 0;
        const struct st_tok_added *a = longest(t, trie, text, len, plain, special, *at, &stop);
        if (!a) {
            (*at)++;
            continue;
        }
        *at = stop;
        if (a->single_word && (st_tok_is_word(before(text, s, &n)) || st_tok_is_word(after(text, len, stop, &n))))
            continue;
        while (a->lstrip && s > from && st_tok_is_space(before(text, s, &n)))
            s -= n;
        while (a->rstrip && stop < len && st_tok_is_space(after(text, len, stop, &n)))
            stop += n;
        *start = s < from ? from : s;
        *end = stop;
        *id = a->id;
        return true;
    }
    return false;
}

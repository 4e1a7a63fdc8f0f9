/* Byte pair encoding of one word: of all neighbouring pairs that a merge joins, the one of the lowest rank is joined,
 * the leftmost first among equals, until none is left. Short words are scanned; long ones keep their pairs in a heap,
 * so that a word of n characters takes O(n log n). */
#include "model/tok.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define SHORT_WORD 24

uint32_t st_tok_byte_letter(uint8_t b)
{
    if ((b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae)
        return b;
    return b <= 0x20 ? 0x100u + b : b <= 0xa0 ? 0x121u + (b - 0x7fu) : 0x143;
}

int st_tok_letter_byte(uint32_t cp)
{
    uint32_t b = cp < 0x100    ? cp
                 : cp <= 0x120 ? cp - 0x100
                 : cp <= 0x142 ? cp - 0x121 + 0x7f
                 : cp == 0x143 ? 0xad
                               : 256;
    return b < 256 && st_tok_byte_letter((uint8_t)b) == cp ? (int)b : -1;
}

int st_tok_merge_put(struct st_tokenizer *t, uint32_t left, uint32_t right, uint32_t rank, uint32_t id,
                     struct st_err *e)
{
    /* A control token is never the result of a merge: text that looks like one stays text. */
    if (t->vocab.entry[id].flags & ST_TOK_SPECIAL)
        return 0;
    return st_tok_map_put(&t->merge, (uint64_t)left << 32 | right, (uint64_t)rank << 32 | id, e);
}

int st_tok_merge_all(struct st_tokenizer *t, const uint32_t *rank, struct st_err *e)
{
    const struct st_tok_vocab *v = &t->vocab;
    for (uint32_t id = 0; id < v->n_id; id++) {
        const struct st_tok_entry *w = &v->entry[id];
        const char *text = v->text.p + w->text;
        if (!(w->flags & ST_TOK_MODEL) || st_tok_vocab_find(v, text, w->text_len, ST_TOK_MODEL) != id)
            continue;
        for (uint32_t cut = 1; cut < w->text_len; cut++) {
            uint32_t l = st_tok_vocab_find(v, text, cut, ST_TOK_MODEL);
            uint32_t r = l == ST_TOK_NONE ? l : st_tok_vocab_find(v, text + cut, w->text_len - cut, ST_TOK_MODEL);
            if (r != ST_TOK_NONE && st_tok_merge_put(t, l, r, rank[id], id, e))
                return e->code;
        }
    }
    return 0;
}

/* Whether a merge makes a token in which `mark` follows another character. */
static bool crosses(const struct st_tokenizer *t, const char *mark, size_t n)
{
    for (size_t i = 0; t->merge.slot && i <= t->merge.mask; i++) {
        if (t->merge.slot[i].key == UINT64_MAX)
            continue;
        const struct st_tok_entry *w = &t->vocab.entry[(uint32_t)t->merge.slot[i].val];
        const char *p = t->vocab.text.p + w->text;
        for (size_t j = n; j + n <= w->text_len; j++)
            if (memcmp(p + j, mark, n) == 0 && memcmp(p + j - n, mark, n) != 0)
                return true;
        for (size_t j = 1; j < n && j + n <= w->text_len; j++)
            if (memcmp(p + j, mark, n) == 0)
                return true;
    }
    return false;
}

void st_tok_bpe_prepare(struct st_tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char name[8];
        uint8_t letter[4] = {(uint8_t)b};
        size_t n = t->byte_mapped ? st_utf8_put(st_tok_byte_letter((uint8_t)b), letter) : 1;
        snprintf(name, sizeof name, "<0x%02X>", b);
        t->byte_id[b] = st_tok_vocab_find(&t->vocab, letter, n, ST_TOK_MODEL);
        t->fallback_id[b] = st_tok_vocab_find(&t->vocab, name, 6, ST_TOK_MODEL);
        if (b < 128)
            t->ascii_id[b] = st_tok_vocab_find(&t->vocab, &(char){(char)b}, 1, ST_TOK_MODEL);
    }
    for (uint32_t i = 0; i < t->vocab.n_id; i++)
        if (t->vocab.entry[i].text_len > t->max_len)
            t->max_len = t->vocab.entry[i].text_len;
    static const char *const marks[] = {"\xe2\x96\x81", " "};
    for (size_t i = 0; i < 2 && !t->byte_level && !t->ignore_merges && !t->words && !t->mark_len; i++) {
        size_t n = strlen(marks[i]);
        if (st_tok_vocab_find(&t->vocab, marks[i], n, ST_TOK_MODEL) != ST_TOK_NONE && !crosses(t, marks[i], n)) {
            memcpy(t->mark, marks[i], n);
            t->mark_len = n;
        }
    }
}

/* Symbols of the word.
 * ------------------------------------------------------------------------------------------------- */

static void add_symbol(struct st_tok_run *r, uint32_t id)
{
    r->symbol[r->n_symbol++].id = id;
}

/* A character that the vocabulary has not: its bytes, or the unknown token. *unk: one is pending. */
static void add_unknown(struct st_tok_run *r, const uint8_t *c, size_t n, bool *unk)
{
    const struct st_tokenizer *t = r->t;
    bool all = t->byte_fallback;
    for (size_t i = 0; i < n; i++)
        all = all && t->fallback_id[c[i]] != ST_TOK_NONE;
    if (all) {
        for (size_t i = 0; i < n; i++)
            add_symbol(r, t->fallback_id[c[i]]);
        return;
    }
    if (t->unk == ST_TOK_NONE)
        return;
    if (*unk && !t->fuse_unk)
        add_symbol(r, t->unk);
    *unk = true;
}

static int split_symbols(struct st_tok_run *r, const char *text, size_t len)
{
    const struct st_tokenizer *t = r->t;
    /* A byte of the alphabet is at most two bytes long as a letter, each of which may fall back to one symbol. */
    size_t need = len * (t->byte_mapped ? 2 : 1) + 1;
    if (need > r->cap_symbol) {
        free(r->symbol);
        r->cap_symbol = 0;
        r->symbol = malloc(need * 2 * sizeof *r->symbol);
        if (!r->symbol)
            return st_fail(r->e, ST_MEMORY, "no memory to encode a word of %zu bytes", len);
        r->cap_symbol = need * 2;
    }
    r->n_symbol = 0;
    bool unk = false;
    for (size_t i = 0; i < len;) {
        const uint8_t *c = (const uint8_t *)text + i;
        uint8_t letter[4];
        uint32_t id, cp;
        size_t n = 1, n_letter = 1;
        if (t->byte_level) {
            id = t->byte_id[*c];
            n_letter = st_utf8_put(t->byte_mapped ? st_tok_byte_letter(*c) : *c, letter);
        } else {
            n = st_utf8_next(c, len - i, &cp);
            n = n_letter = n ? n : 1;
            id = n == 1 ? t->ascii_id[*c & 0x7f] : st_tok_vocab_find(&t->vocab, c, n, ST_TOK_MODEL);
        }
        if (id == ST_TOK_NONE)
            add_unknown(r, t->byte_level ? letter : c, n_letter, &unk);
        else {
            if (unk)
                add_symbol(r, t->unk);
            unk = false;
            add_symbol(r, id);
        }
        i += n;
    }
    if (unk)
        add_symbol(r, t->unk);
    return 0;
}

/* Short words.
 * --------------------------------------------------------------------------------------------------------- */

static uint64_t merge_of(const struct st_tokenizer *t, uint32_t left, uint32_t right)
{
    return st_tok_map_get(&t->merge, (uint64_t)left << 32 | right, UINT64_MAX);
}

static void merge_short(struct st_tok_run *r)
{
    uint64_t pair[SHORT_WORD]; /* merge of symbols i and i + 1: rank << 32 | id */
    size_t n = r->n_symbol;
    struct st_tok_symbol *s = r->symbol;
    for (size_t i = 0; i + 1 < n; i++)
        pair[i] = merge_of(r->t, s[i].id, s[i + 1].id);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (pair[i] >> 32 < pair[best] >> 32)
                best = i;
        if (pair[best] == UINT64_MAX)
            break;
        s[best].id = (uint32_t)pair[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            s[i] = s[i + 1];
            pair[i - 1] = pair[i];
        }
        if (best + 1 < n)
            pair[best] = merge_of(r->t, s[best].id, s[best + 1].id);
        if (best)
            pair[best - 1] = merge_of(r->t, s[best - 1].id, s[best].id);
    }
    r->n_symbol = n;
}

/* Long words.
 * ---------------------------------------------------------------------------------------------------------- */

static bool less(const struct st_tok_heap_item *a, const struct st_tok_heap_item *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->pos < b->pos;
}

/* The heap holds at most one item per first pair and two per merge: room for 3 n is enough. */
static void heap_push(struct st_tok_run *r, int32_t left, int32_t right)
{
    uint64_t m = merge_of(r->t, r->symbol[left].id, r->symbol[right].id);
    if (m == UINT64_MAX)
        return;
    struct st_tok_heap_item item = {(uint32_t)(m >> 32), (uint32_t)left, (uint32_t)m};
    size_t i = r->n_heap++;
    for (; i > 0 && less(&item, &r->heap[(i - 1) / 2]); i = (i - 1) / 2)
        r->heap[i] = r->heap[(i - 1) / 2];
    r->heap[i] = item;
}

static struct st_tok_heap_item heap_pop(struct st_tok_run *r)
{
    struct st_tok_heap_item top = r->heap[0], last = r->heap[--r->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < r->n_heap) {
        if (child + 1 < r->n_heap && less(&r->heap[child + 1], &r->heap[child]))
            child++;
        if (!less(&r->heap[child], &last))
            break;
        r->heap[i] = r->heap[child];
        i = child;
    }
    r->heap[i] = last;
    return top;
}

static int merge_long(struct st_tok_run *r)
{
    struct st_tok_symbol *s = r->symbol;
    size_t n = r->n_symbol;
    if (n > INT32_MAX)
        return st_fail(r->e, ST_INPUT, "a word of %zu characters is too long to encode", n);
    if (n * 3 > r->cap_heap) {
        free(r->heap);
        r->cap_heap = 0;
        r->heap = malloc(n * 3 * sizeof *r->heap);
        if (!r->heap)
            return st_fail(r->e, ST_MEMORY, "no memory to encode a word of %zu characters", n);
        r->cap_heap = n * 3;
    }
    r->n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].prev = (int32_t)i - 1;
        s[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i + 1 < n; i++)
        heap_push(r, (int32_t)i, (int32_t)i + 1);
    while (r->n_heap) {
        struct st_tok_heap_item m = heap_pop(r);
        struct st_tok_symbol *a = &s[m.pos];
        if (a->id == ST_TOK_NONE || a->next < 0)
            continue;
        struct st_tok_symbol *b = &s[a->next];
        /* Stale when the pair has changed since; another pair that makes the same token may take its place. */
        uint64_t now = merge_of(r->t, a->id, b->id);
        if (now == UINT64_MAX || (uint32_t)now != m.id)
            continue;
        a->id = m.id;
        b->id = ST_TOK_NONE;
        a->next = b->next;
        if (b->next >= 0)
            s[b->next].prev = (int32_t)m.pos;
        if (a->prev >= 0)
            heap_push(r, a->prev, (int32_t)m.pos);
        if (a->next >= 0)
            heap_push(r, (int32_t)m.pos, a->next);
    }
    size_t k = 0;
    for (int32_t i = 0; i >= 0; i = s[i].next)
        s[k++].id = s[i].id;
    r->n_symbol = k;
    return 0;
}

/* The word as a whole, when the file says that whole words win. */
static bool whole_word(struct st_tok_run *r, const char *text, size_t len)
{
    const struct st_tokenizer *t = r->t;
    if (len > t->max_len)
        return false;
    if (t->byte_mapped) {
        st_buf_clear(&r->mapped);
        for (size_t i = 0; i < len; i++) {
            uint8_t c[4];
            st_buf_add(&r->mapped, c, st_utf8_put(st_tok_byte_letter((uint8_t)text[i]), c));
        }
        text = r->mapped.failed ? "" : r->mapped.p;
        len = r->mapped.failed ? 0 : r->mapped.len;
    }
    uint32_t id = st_tok_vocab_find(&t->vocab, text, len, ST_TOK_MODEL);
    if (id == ST_TOK_NONE || (t->vocab.entry[id].flags & ST_TOK_SPECIAL))
        return false;
    st_ids_add(r->out, id);
    return true;
}

static int encode_word(struct st_tok_run *r, const char *text, size_t len)
{
    if ((r->t->ignore_merges || r->t->words) && whole_word(r, text, len))
        return 0;
    if (r->t->words && r->t->unk == ST_TOK_NONE)
        return st_fail(r->e, ST_INPUT, "text: a word is not in the vocabulary, which has no unknown token");
    if (r->t->words) {
        st_ids_add(r->out, r->t->unk);
        return 0;
    }
    int rc = split_symbols(r, text, len);
    if (rc)
        return rc;
    if (r->n_symbol <= SHORT_WORD)
        merge_short(r);
    else if ((rc = merge_long(r)))
        return rc;
    for (size_t i = 0; i < r->n_symbol; i++)
        st_ids_add(r->out, r->symbol[i].id);
    return 0;
}

int st_tok_bpe(struct st_tok_run *r, const char *text, size_t len)
{
    const char *mark = r->t->mark;
    size_t n = r->t->mark_len, start = 0;
    bool in_marks = true;
    for (size_t i = 0; n && i + n <= len;) {
        bool is_mark = text[i] == mark[0] && memcmp(text + i, mark, n) == 0;
        if (is_mark && !in_marks) {
            int rc = encode_word(r, text + start, i - start);
            if (rc)
                return rc;
            start = i;
        }
        in_marks = is_mark;
        i += is_mark ? n : 1;
    }
    return encode_word(r, text + start, len - start);
}

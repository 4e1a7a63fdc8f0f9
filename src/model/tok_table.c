/* The two hash tables of a tokenizer. Both are seeded, so that a file cannot be made whose entries all collide. */
#include "base/hooks.h"
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

#define K0 0x9e3779b97f4a7c15ull
#define K1 0xd6e8feb86659fd93ull

static int seed_table(uint64_t seed[2], struct st_err *e)
{
    if (st_random(seed, 2 * sizeof *seed, e))
        return e->code;
    seed[1] |= 1;
    return 0;
}

static int map_grow(struct st_tok_map *m, struct st_err *e)
{
    size_t n_slot = m->slot ? (m->mask + 1) * 2 : 16;
    struct st_tok_slot *s;
    int rc = st_alloc(&s, n_slot, sizeof *s, "a tokenizer table", e);
    if (rc)
        return rc;
    memset(s, 0xff, n_slot * sizeof *s); /* every key UINT64_MAX: free */
    for (size_t i = 0; m->slot && i <= m->mask; i++) {
        if (m->slot[i].key == UINT64_MAX)
            continue;
        size_t j = st_tok_mum(m->slot[i].key ^ m->seed[0], m->seed[1]) & (n_slot - 1);
        while (s[j].key != UINT64_MAX)
            j = (j + 1) & (n_slot - 1);
        s[j] = m->slot[i];
    }
    free(m->slot);
    m->slot = s;
    m->mask = n_slot - 1;
    return 0;
}

int st_tok_map_put(struct st_tok_map *m, uint64_t key, uint64_t val, struct st_err *e)
{
    if (!m->slot && seed_table(m->seed, e))
        return e->code;
    if ((!m->slot || (m->n + 1) * 2 > m->mask + 1) && map_grow(m, e))
        return e->code;
    size_t i = st_tok_mum(key ^ m->seed[0], m->seed[1]) & m->mask;
    while (m->slot[i].key != UINT64_MAX && m->slot[i].key != key)
        i = (i + 1) & m->mask;
    m->n += m->slot[i].key != key;
    m->slot[i] = (struct st_tok_slot){key, val};
    return 0;
}

void st_tok_map_free(struct st_tok_map *m)
{
    free(m->slot);
    *m = (struct st_tok_map){0};
}

static uint32_t hash_text(const struct st_tok_vocab *v, const char *p, size_t len)
{
    uint64_t h = v->seed[0] ^ len, w;
    for (; len >= 8; p += 8, len -= 8) {
        memcpy(&w, p, 8);
        h = st_tok_mum(h ^ w, K0);
    }
    w = 0;
    memcpy(&w, p, len);
    h = st_tok_mum(h ^ w ^ K1, v->seed[1]);
    return (uint32_t)(h ^ h >> 32);
}

static int vocab_grow_table(struct st_tok_vocab *v, struct st_err *e)
{
    size_t n_slot = v->table ? (v->mask + 1) * 2 : 64;
    struct st_tok_link *l;
    int rc = st_alloc(&l, n_slot, sizeof *l, "a tokenizer table", e);
    if (rc)
        return rc;
    memset(l, 0xff, n_slot * sizeof *l);
    for (size_t i = 0; v->table && i <= v->mask; i++) {
        if (v->table[i].id == ST_TOK_NONE)
            continue;
        size_t j = v->table[i].hash & (n_slot - 1);
        while (l[j].id != ST_TOK_NONE)
            j = (j + 1) & (n_slot - 1);
        l[j] = v->table[i];
    }
    free(v->table);
    v->table = l;
    v->mask = n_slot - 1;
    return 0;
}

/* The table's slot that holds this text, or the free one where it belongs. */
static struct st_tok_link *vocab_slot(const struct st_tok_vocab *v, const char *text, size_t len, uint32_t hash)
{
    for (size_t i = hash & v->mask;; i = (i + 1) & v->mask) {
        struct st_tok_link *l = &v->table[i];
        if (l->id == ST_TOK_NONE)
            return l;
        const struct st_tok_entry *t = &v->entry[l->id];
        if (l->hash == hash && t->text_len == len && memcmp(v->text.p + t->text, text, len) == 0)
            return l;
    }
}

static int vocab_reserve(struct st_tok_vocab *v, uint32_t id, struct st_err *e)
{
    if (id < v->cap)
        return 0;
    uint32_t cap = v->cap ? v->cap : 1024;
    while (cap <= id)
        cap *= 2;
    struct st_tok_entry *p = realloc(v->entry, cap * sizeof *p);
    if (!p)
        return st_fail(e, ST_MEMORY, "no memory for a vocabulary of %u tokens", cap);
    memset(p + v->cap, 0, (cap - v->cap) * sizeof *p);
    v->entry = p;
    v->cap = cap;
    return 0;
}

int st_tok_vocab_add(struct st_tok_vocab *v, uint32_t id, const char *text, size_t len, uint32_t flags,
                     const char *where, struct st_err *e)
{
    if (id >= ST_TOK_MAX_ID)
        return st_fail(e, ST_INPUT, "%s: token id %u is too large; at most %u", where, id, ST_TOK_MAX_ID - 1);
    if (!v->table && seed_table(v->seed, e))
        return e->code;
    if (vocab_reserve(v, id, e) || ((!v->table || (v->n + 1) * 2 > v->mask + 1) && vocab_grow_table(v, e)))
        return e->code;
    if (v->entry[id].flags)
        return st_fail(e, ST_INPUT, "%s: token id %u is given twice", where, id);
    if (v->text.len + len > ST_TOK_MAX_FILE)
        return st_fail(e, ST_INPUT, "%s: the tokens are longer than %u bytes together", where, ST_TOK_MAX_FILE);
    size_t at = v->text.len;
    st_buf_add(&v->text, text, len);
    if (v->text.failed)
        return st_fail(e, ST_MEMORY, "%s: no memory for the vocabulary", where);
    v->entry[id] =
        (struct st_tok_entry){.text = (uint32_t)at, .text_len = (uint32_t)len, .flags = flags | ST_TOK_PRESENT};
    if (id >= v->n_id)
        v->n_id = id + 1;
    uint32_t hash = hash_text(v, text, len);
    struct st_tok_link *l = vocab_slot(v, text, len, hash);
    if (l->id == ST_TOK_NONE) {
        *l = (struct st_tok_link){id, hash};
        v->n++;
    }
    return 0;
}

uint32_t st_tok_vocab_find(const struct st_tok_vocab *v, const void *text, size_t len, uint32_t flags)
{
    if (!v->table)
        return ST_TOK_NONE;
    uint32_t id = vocab_slot(v, text, len, hash_text(v, text, len))->id;
    return id != ST_TOK_NONE && (v->entry[id].flags & flags) == flags ? id : ST_TOK_NONE;
}

void st_tok_vocab_free(struct st_tok_vocab *v)
{
    st_buf_free(&v->text);
    st_buf_free(&v->piece);
    free(v->entry);
    free(v->table);
    *v = (struct st_tok_vocab){0};
}

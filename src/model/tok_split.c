/* Pre-tokenization: a text runs through the stages one after another, each cutting its piece into smaller ones; what
 * comes out of the last stage is one word for BPE. Pieces are visited depth first, so nothing is stored but one buffer
 * per stage that rewrites its text. */
#include "model/tok.h"

#include <string.h>

struct segment {
    size_t start, end;
    bool match;
};

/* Whether a segment is joined to the one before it, by the flags of the two. */
static bool joins(enum st_tok_behavior b, bool before, bool now)
{
    switch (b) {
    case ST_TOK_CONTIGUOUS:
        return before == now;
    case ST_TOK_MERGED_PREVIOUS:
        return now && !before;
    case ST_TOK_MERGED_NEXT:
        return before && !now;
    default:
        return false;
    }
}

struct splitter {
    struct st_tok_run *run;
    const struct st_tok_stage *s;
    int next; /* stage */
    const char *text;
    bool at_start;
    struct segment held; /* start == end: nothing */
};

static int pass_held(struct splitter *p)
{
    struct segment h = p->held;
    p->held.start = p->held.end;
    if (h.start == h.end || (p->s->behavior == ST_TOK_REMOVED && h.match))
        return 0;
    return st_tok_pre(p->run, p->next, p->text + h.start, h.end - h.start, p->at_start && h.start == 0);
}

static int add_segment(struct splitter *p, size_t start, size_t end, bool match)
{
    match ^= p->s->invert;
    if (p->held.start != p->held.end && joins(p->s->behavior, p->held.match, match)) {
        p->held.end = end;
        p->held.match = match;
        return 0;
    }
    int rc = pass_held(p);
    p->held = (struct segment){start, end, match};
    return rc;
}

static int split(struct st_tok_run *run, int k, const char *text, size_t len, bool at_start)
{
    struct splitter p = {
        .run = run, .s = &run->t->stage[k], .next = k + 1, .text = text, .at_start = at_start, .held = {0}};
    struct st_tok_finder f = {.p = &p.s->pattern, .m = &run->match, .text = text, .len = len};
    size_t done = 0, start, end;
    int found, rc = 0;
    while (!rc && (found = st_tok_find(&f, &start, &end, run->e)) > 0) {
        if (done < start)
            rc = add_segment(&p, done, start, false);
        if (!rc && start < end)
            rc = add_segment(&p, start, end, true);
        done = end;
    }
    if (!rc && found < 0)
        rc = run->e->code;
    if (!rc && done < len)
        rc = add_segment(&p, done, len, false);
    return rc ? rc : pass_held(&p);
}

/* Text with `front` before it, in the stage's own buffer. */
static int rewrite(struct st_tok_run *run, int k, const char *front, size_t front_len, const char *text, size_t len,
                   bool at_start)
{
    struct st_buf *b = &run->stage[k];
    st_buf_clear(b);
    st_buf_add(b, front, front_len);
    st_buf_add(b, text, len);
    if (b->failed)
        return st_fail(run->e, ST_MEMORY, "no memory for a text of %zu bytes", len);
    return st_tok_pre(run, k + 1, b->p, b->len, at_start);
}

/* Metaspace: every space becomes the replacement; one stands in front unless the text begins with it. */
static int meta(struct st_tok_run *run, int k, const char *text, size_t len, bool at_start)
{
    const struct st_tok_stage *s = &run->t->stage[k];
    const char *mark = s->pattern.text;
    size_t n = s->pattern.len;
    struct st_buf *b = &run->stage[k];
    st_buf_clear(b);
    bool has = text[0] == ' ' || (len >= n && memcmp(text, mark, n) == 0);
    if (!has && (s->scheme == ST_TOK_ALWAYS || (s->scheme == ST_TOK_FIRST && at_start)))
        st_buf_add(b, mark, n);
    for (size_t i = 0; i < len;) {
        const char *space = memchr(text + i, ' ', len - i);
        size_t end = space ? (size_t)(space - text) : len;
        st_buf_add(b, text + i, end - i);
        if (space)
            st_buf_add(b, mark, n);
        i = end + (space != NULL);
    }
    if (b->failed)
        return st_fail(run->e, ST_MEMORY, "no memory for a text of %zu bytes", len);
    return st_tok_pre(run, k + 1, b->p, b->len, at_start);
}

int st_tok_pre(struct st_tok_run *run, int k, const char *text, size_t len, bool at_start)
{
    if (len == 0)
        return 0;
    if (k == run->t->n_stage)
        return st_tok_bpe(run, text, len);
    switch (run->t->stage[k].kind) {
    case ST_TOK_STAGE_SPACE:
        return rewrite(run, k, " ", text[0] == ' ' ? 0 : 1, text, len, at_start);
    case ST_TOK_STAGE_META:
        return meta(run, k, text, len, at_start);
    default:
        return split(run, k, text, len, at_start);
    }
}

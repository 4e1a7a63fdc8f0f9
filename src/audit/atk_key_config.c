/* Key configurations as tags: whoever can give one client a gateway key or an issuer key of its own knows which
 * requests or tokens are that client's. Keys count only when a directory names them that ends a tree which the log and
 * a quorum of witnesses have signed, and which begins with the tree that the client remembers. So a split view has to
 * be made of another signed tree, of another entry below a good one, or of an old tree.
 *
 * The client's steps are those of service/log_client.c, on the same functions (attest/tlog.h); no bytes pass a network.
 * Who checks no witnesses and remembers nothing believes whatever the log's key has signed: the unprotected case.
 *
 * Source: docs/confidential.md; C2SP tlog-witness; RFC 9458 section 8 (key configurations and client privacy). */
#include "audit/atk_key_config.h"
#include "attest/tlog.h"
#include "audit/attack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ORIGIN "audit.example/keys"
#define LEVELS 4
#define LEAVES 8
#define NOW INT64_C(1800000000)

static const char *const witness_name[] = {"witness.example/a", "witness.example/b"};

/* ---- a log and its witnesses ---- */

struct tree {
    struct st_merkle_range range;
    struct st_merkle_hash nodes[LEVELS][LEAVES];
};

static int keep_node(void *ctx, unsigned level, uint64_t index, const struct st_merkle_hash *h, struct st_err *e)
{
    struct tree *t = ctx;
    if (level >= LEVELS || index >= LEAVES)
        return st_fail(e, ST_INTERNAL, "split view: the tree is too large");
    t->nodes[level][index] = *h;
    return 0;
}

static int give_node(void *ctx, unsigned level, uint64_t index, struct st_merkle_hash *out, struct st_err *e)
{
    const struct tree *t = ctx;
    if (level >= LEVELS || index >= LEAVES)
        return st_fail(e, ST_INTERNAL, "split view: no such node");
    *out = t->nodes[level][index];
    return 0;
}

static int append(struct tree *t, const char *entry, struct st_err *e)
{
    const struct st_merkle_sink sink = {keep_node, t};
    struct st_merkle_hash leaf = st_merkle_leaf(entry, strlen(entry));
    return st_merkle_append(&t->range, &leaf, &sink, e);
}

struct parties {
    struct st_ed25519 *log, *witness[2];
};

static void parties_free(struct parties *p)
{
    st_ed25519_free(p->log);
    for (int i = 0; i < 2; i++)
        st_ed25519_free(p->witness[i]);
}

static int parties_new(struct parties *p, struct st_err *e)
{
    *p = (struct parties){0};
    int rc = st_ed25519_new(&p->log, e);
    for (int i = 0; !rc && i < 2; i++)
        rc = st_ed25519_new(&p->witness[i], e);
    return rc;
}

static int key_of(const struct st_ed25519 *k, const char *name, uint8_t type, struct st_note_key *out, struct st_err *e)
{
    uint8_t public[ST_ED25519_PUBLIC];
    st_ed25519_public(k, public);
    return st_note_key_make(name, type, public, out, e);
}

/* A checkpoint of the tree, signed by the log and the first n witnesses. */
static int sign(const struct parties *p, const struct tree *t, int n_witness, int64_t time, struct st_buf *note,
                struct st_err *e)
{
    struct st_checkpoint c = {.origin = ORIGIN, .size = t->range.size, .root = st_merkle_root(&t->range)};
    struct st_buf text = {0};
    int rc = st_checkpoint_write(&c, &text, e);
    const struct st_span span = {(const uint8_t *)text.p, text.len};
    if (!rc)
        rc = st_note_begin(span, note, e);
    if (!rc)
        rc = st_note_sign(span, ORIGIN, p->log, note, e);
    for (int i = 0; !rc && i < n_witness; i++)
        rc = st_cosignature_sign(span, witness_name[i], p->witness[i], time, note, e);
    st_buf_free(&text);
    return rc;
}

/* ---- the client ---- */

struct shown {
    struct st_buf note;
    const char *entry;
    uint64_t index;
    struct st_merkle_proof consistency, inclusion;
};

/* What a client does with an answer of the log: 0 when it would use the keys. */
static int take(struct st_tlog *log, const struct shown *s, struct st_err *e)
{
    int rc = st_tlog_update(log, s->note.p, s->note.len, &s->consistency, NOW, e);
    if (!rc && s->index + 1 != log->last.checkpoint.size)
        rc = st_fail(e, ST_VERIFY, "the directory is not the last entry");
    return rc ? rc
              : st_tlog_includes(log, (struct st_span){(const uint8_t *)s->entry, strlen(s->entry)}, s->index,
                                 &s->inclusion, e);
}

static int client_open(const struct st_split_client *c, const struct parties *p, struct st_tlog *log, struct st_err *e)
{
    struct st_tlog_keys keys = {.origin = ORIGIN, .n_witness = c->quorum ? 2 : 0, .quorum = c->quorum};
    int rc = key_of(p->log, ORIGIN, ST_NOTE_ED25519, &keys.log, e);
    for (size_t i = 0; !rc && i < keys.n_witness; i++)
        rc = key_of(p->witness[i], witness_name[i], ST_NOTE_COSIGNATURE, &keys.witnesses[i], e);
    return rc ? rc : st_tlog_init(log, &keys, e);
}

/* Fills the proofs of the last entry of t, and of its growth from `from`. */
static int prove(struct tree *t, const char *entry, uint64_t from, struct shown *s, struct st_err *e)
{
    const struct st_merkle_source source = {give_node, t};
    s->entry = entry;
    s->index = t->range.size - 1;
    int rc = st_merkle_prove_inclusion(&source, s->index, t->range.size, &s->inclusion, e);
    return rc || from > t->range.size ? rc
                                      : st_merkle_prove_consistency(&source, from, t->range.size, &s->consistency, e);
}

/* ---- split views ---- */

/* What all are shown, and what the victim is. */
struct world {
    struct parties p;
    struct tree open, own; /* own: another last entry */
    struct tree old;       /* the open one before its last entry */
    struct shown good, split;
};
static const char keys_old[] = "{\"keys\":\"of yesterday\"}", keys_open[] = "{\"keys\":\"of everybody\"}",
                  keys_own[] = "{\"keys\":\"of one client\"}";

static int world_new(struct world *w, struct st_err *e)
{
    int rc = parties_new(&w->p, e);
    if (!rc)
        rc = append(&w->open, "{}", e);
    if (!rc)
        rc = append(&w->open, keys_old, e);
    w->old = w->own = w->open;
    if (!rc)
        rc = append(&w->open, keys_open, e);
    if (!rc)
        rc = append(&w->own, keys_own, e);
    if (!rc)
        rc = sign(&w->p, &w->open, 2, NOW - 60, &w->good.note, e);
    return rc ? rc : prove(&w->open, keys_open, 0, &w->good, e);
}

static void world_free(struct world *w)
{
    st_buf_free(&w->good.note);
    st_buf_free(&w->split.note);
    parties_free(&w->p);
}

/* An own tree that n witnesses have cosigned; the victim may have seen the open one. */
static int own_tree(struct world *w, int n_witness, struct st_err *e)
{
    int rc = sign(&w->p, &w->own, n_witness, NOW - 60, &w->split.note, e);
    return rc ? rc : prove(&w->own, keys_own, w->open.range.size, &w->split, e);
}

static int log_alone(struct world *w, struct st_err *e)
{
    return own_tree(w, 0, e);
}

static int one_witness(struct world *w, struct st_err *e)
{
    return own_tree(w, 1, e);
}

/* Under the own tree's text stand the cosignatures of the open one. */
static int borrowed(struct world *w, struct st_err *e)
{
    int rc = own_tree(w, 0, e);
    const char *from = rc ? NULL : memmem(w->good.note.p, w->good.note.len, witness_name[0], strlen(witness_name[0]));
    if (!rc && !from)
        rc = st_fail(e, ST_INTERNAL, "split view: no cosignature");
    if (!rc) {
        while (from > w->good.note.p && from[-1] != '\n')
            from--;
        st_buf_add(&w->split.note, from, w->good.note.len - (size_t)(from - w->good.note.p));
    }
    return rc;
}

static int other_entry(struct world *w, struct st_err *e)
{
    int rc = sign(&w->p, &w->open, 2, NOW - 60, &w->split.note, e);
    return rc ? rc : prove(&w->open, keys_own, w->open.range.size, &w->split, e);
}

/* Keys that stand in the open tree, where all see them, but not at its end: they are not the directory any more. */
static int not_last(struct world *w, struct st_err *e)
{
    const struct st_merkle_source source = {give_node, &w->open};
    int rc = sign(&w->p, &w->open, 2, NOW - 60, &w->split.note, e);
    if (!rc)
        rc = prove(&w->open, keys_old, w->open.range.size, &w->split, e);
    w->split.index = 1;
    return rc ? rc : st_merkle_prove_inclusion(&source, 1, w->open.range.size, &w->split.inclusion, e);
}

/* Log and witnesses made it for all, once; the victim alone is kept on it. */
static int rolled_back(struct world *w, struct st_err *e)
{
    int rc = sign(&w->p, &w->old, 2, NOW - 86400, &w->split.note, e);
    return rc ? rc : prove(&w->old, keys_old, w->open.range.size, &w->split, e);
}

static int all_together(struct world *w, struct st_err *e)
{
    return own_tree(w, 2, e);
}

static const struct {
    const char *what;
    int (*make)(struct world *w, struct st_err *e);
} views[ST_SPLIT_VIEWS] = {
    {"the log signs another tree", log_alone},
    {"the log and one witness of two sign another tree", one_witness},
    {"another tree with the cosignatures of the open one", borrowed},
    {"another directory below the open tree", other_entry},
    {"an earlier entry of the open tree", not_last},
    {"the tree of yesterday", rolled_back},
    {"the log and all witnesses sign another tree", all_together},
};

int st_split_view(const struct st_split_client *c, size_t view, bool *accepted, const char **what, struct st_err *e)
{
    struct world w = {0};
    struct st_tlog log = {0};
    struct st_err why;
    *accepted = false;
    if (view >= ST_SPLIT_VIEWS)
        return st_fail(e, ST_USAGE, "split view %zu: there are %d", view, ST_SPLIT_VIEWS);
    *what = views[view].what;
    int rc = world_new(&w, e);
    if (!rc)
        rc = client_open(c, &w.p, &log, e);
    if (!rc && c->remembers)
        rc = take(&log, &w.good, e); /* the honest view must be taken, or a refusal says nothing */
    if (!rc)
        rc = views[view].make(&w, e);
    if (!rc)
        *accepted = take(&log, &w.split, &why) == 0;
    st_tlog_wipe(&log);
    world_free(&w);
    return rc;
}

/* ---- the attack ---- */

static int count(const struct st_split_client *c, uint64_t *n, const char **first, struct st_err *e)
{
    int rc = 0;
    *n = 0;
    for (size_t i = 0; !rc && i < ST_SPLIT_VIEWS; i++) {
        bool accepted;
        const char *what;
        rc = st_split_view(c, i, &accepted, &what, e);
        if (!rc && accepted && (*n)++ == 0)
            *first = what;
    }
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    static const struct {
        const char *variant, *note;
        struct st_split_client client;
    } kinds[] = {
        {"known client, quorum 2 of 2", "", {2, true}},
        {"new client, quorum 2 of 2", "Nothing is remembered yet.", {2, false}},
        {"known client, quorum 0", "No witness is asked: what is left is the client's memory.", {0, true}},
    };
    const struct st_split_client open = {0, false};
    const char *first = "";
    uint64_t hits;
    if (!a->target->traffic)
        return st_fail(e, ST_UNSUPPORTED, "needs the traffic of a set-up");
    int rc = count(&open, &hits, &first, e);
    const double unprotected = (double)hits / ST_SPLIT_VIEWS;
    for (size_t i = 0; !rc && i < sizeof kinds / sizeof *kinds; i++) {
        struct st_row row = {.chance = 0, .unprotected = unprotected};
        first = "";
        rc = count(&kinds[i].client, &hits, &first, e);
        st_row_all(&row, hits, ST_SPLIT_VIEWS);
        snprintf(row.variant, sizeof row.variant, "%s", kinds[i].variant);
        snprintf(row.note, sizeof row.note, "%s%s%s%s", kinds[i].note, *kinds[i].note && *first ? " " : "",
                 *first ? "Accepted first: " : "", first);
        if (!rc)
            rc = st_rows_add(rows, &row, e);
    }
    return rc;
}

const struct st_attack st_atk_key_config = {.name = "key-config",
                                            .title = "Keys made for one client",
                                            .metric = "share of split views that are accepted",
                                            .source = "docs/confidential.md; C2SP tlog-witness; RFC 9458 section 8",
                                            .adversary = ST_ADVERSARY_GATEWAY,
                                            .needs = ST_TARGET_TRAFFIC,
                                            .run = run};

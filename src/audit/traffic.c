#include "audit/traffic.h"
#include "base/hooks.h"

#include <stdlib.h>

#define PROMPTS 16
#define REPEAT 12
#define CLIENTS 8
#define NODES 5
#define PICKS 256 /* of each client in a draw */
#define DRAWS 12
#define CADENCE 0.05 /* seconds */
#define DOCUMENT 8   /* tokens of the shortest one that makes a prompt and a reply */

static size_t or_usual(size_t n, size_t usual)
{
    return n ? n : usual;
}

/* ---- nodes ---- */

static int pick_nodes(struct st_traffic *t, const struct st_traffic_opts *o, struct st_err *e)
{
    int rc;
    t->n_draw = DRAWS;
    t->n_pick = DRAWS * PICKS * t->n_client;
    if ((rc = st_alloc(&t->picks, t->n_pick, sizeof *t->picks, "picks", e)) != 0)
        return rc;
    for (size_t i = 0; !rc && i < t->n_pick; i++) {
        t->picks[i].client = (uint32_t)(i % t->n_client);
        t->picks[i].node = t->picks[i].client % (uint32_t)t->n_node;
        if (!o->sticky)
            rc = st_random_below((uint32_t)t->n_node, &t->picks[i].node, e);
    }
    return rc;
}

/* ---- requests ---- */

bool st_traffic_document(const struct st_texts_ids *text, size_t n, size_t *lo, size_t *hi)
{
    for (size_t d = 0; d < text->n; d++) {
        *lo = d ? text->ends[d - 1] : 0;
        *hi = text->ends[d];
        if (*hi - *lo >= DOCUMENT && n-- == 0)
            return true;
    }
    return false;
}

void st_traffic_prompt(const struct st_texts_ids *text, const struct st_tokenizer *tok, size_t lo, size_t hi,
                       struct st_buf *out)
{
    for (size_t i = lo; i < lo + (hi - lo) / 2; i++) {
        struct st_span piece = st_tokenizer_piece(tok, text->ids[i]);
        st_buf_add(out, piece.p, piece.len);
    }
}

static size_t count_documents(const struct st_texts_ids *text, size_t most)
{
    size_t n = 0, lo, hi;
    while (n < most && st_traffic_document(text, n, &lo, &hi))
        n++;
    return n;
}

static int ask_all(struct st_traffic *t, const struct st_traffic_opts *o, struct st_err *e)
{
    struct st_traffic_keys *keys = NULL;
    int rc = st_traffic_keys_new(&keys, e);
    for (int w = 0; !rc && w < ST_TRAFFIC_WIRES; w++)
        rc = st_alloc(&t->made.wires[w], t->made.n_request, sizeof *t->made.wires[w], "requests", e);
    for (size_t i = 0; !rc && i < t->made.n_request; i++) {
        size_t lo = 0, hi = 0;
        if (o->cancel && *o->cancel)
            rc = st_fail(e, ST_IO, "cancelled");
        else if (!st_traffic_document(o->text, i % t->made.n_prompt, &lo, &hi))
            rc = st_fail(e, ST_INTERNAL, "traffic: no document %zu", i % t->made.n_prompt);
        else
            rc = st_traffic_request(t, o, keys, i, lo, hi, e);
    }
    st_traffic_keys_free(keys);
    return rc;
}

int st_traffic_make(const struct st_traffic_opts *o, struct st_traffic **out, struct st_err *e)
{
    struct st_traffic *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t)
        return st_fail(e, ST_MEMORY, "traffic: no memory");
    t->made.n_prompt = count_documents(o->text, or_usual(o->n_prompt, PROMPTS));
    t->made.n_request = t->made.n_prompt * or_usual(o->n_repeat, REPEAT);
    t->n_client = or_usual(o->n_client, CLIENTS);
    t->n_node = or_usual(o->n_node, NODES);
    t->cadence_s = o->cadence_s > 0 ? o->cadence_s : CADENCE;
    int rc = 0;
    if (t->made.n_prompt < 2)
        rc = st_fail(e, ST_INPUT, "traffic: want two documents of %d tokens or more, got %zu", DOCUMENT,
                     t->made.n_prompt);
    if (!rc)
        rc = pick_nodes(t, o, e);
    if (!rc)
        rc = st_traffic_tokens(t, o, e);
    if (!rc)
        rc = ask_all(t, o, e);
    if (rc)
        st_traffic_free(t);
    else
        *out = t;
    return rc;
}

static void asked_free(struct st_traffic_asked *a)
{
    for (int w = 0; w < ST_TRAFFIC_WIRES; w++) {
        for (size_t i = 0; a->wires[w] && i < a->n_request; i++)
            free(a->wires[w][i].pieces);
        free(a->wires[w]);
    }
}

void st_traffic_free(struct st_traffic *t)
{
    if (!t)
        return;
    asked_free(&t->made);
    asked_free(&t->ran);
    free(t->picks);
    free(t->sold);
    free(t->spent);
    free(t);
}

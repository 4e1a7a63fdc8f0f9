/* Sizes of sealed messages as fingerprints: the relay (or who watches its wires) has asked each of k prompts himself,
 * and names the one that a client asked by the bytes of the request and the pieces of the reply.
 *
 * Buckets hide a request's length inside of a power of two; pieces of one size hide each event's length. How many
 * pieces a reply has still tells its length (docs/confidential.md). The same question in the open, where each event is
 * a TLS record of its own, is the unprotected score.
 *
 * Source: arXiv 2403.09751 (lengths of tokens in encrypted streams). */
#include "audit/attack.h"
#include "audit/which.h"

#define FIRST 64 /* pieces whose sizes are looked at one by one */

static size_t one(const struct st_traffic_asked *t, enum st_traffic_wire w)
{
    (void)t;
    (void)w;
    return 1;
}

static void up(const struct st_traffic_asked *t, enum st_traffic_wire w, size_t i, double *out)
{
    out[0] = t->wires[w][i].up;
}

static size_t down_count(const struct st_traffic_asked *t, enum st_traffic_wire w)
{
    (void)t;
    (void)w;
    return 2 + FIRST;
}

static void down(const struct st_traffic_asked *t, enum st_traffic_wire w, size_t i, double *out)
{
    const struct st_traffic_request *r = &t->wires[w][i];
    out[0] = (double)r->n_piece;
    out[1] = 0;
    for (size_t k = 0; k < r->n_piece; k++)
        out[1] += r->pieces[k].size;
    for (size_t k = 0; k < FIRST; k++)
        out[2 + k] = k < r->n_piece ? r->pieces[k].size : 0;
}

/* Of those pieces that every reply has but for its last two (the rest of the node's, and the gateway's trailer): their
 * sizes and nothing of its length. */
static size_t shortest(const struct st_traffic_asked *t, enum st_traffic_wire w)
{
    size_t n = FIRST;
    for (size_t i = 0; i < t->n_request; i++) {
        size_t of = t->wires[w][i].n_piece < 2 ? 0 : t->wires[w][i].n_piece - 2;
        n = of < n ? of : n;
    }
    return n;
}

static void each(const struct st_traffic_asked *t, enum st_traffic_wire w, size_t i, double *out)
{
    size_t n = shortest(t, w);
    for (size_t k = 0; k < n; k++)
        out[k] = t->wires[w][i].pieces[k].size;
}

static const struct st_which questions[] = {
    {.variant = "request, in buckets",
     .note = "Requests are padded to powers of two from 4 KiB.",
     .wire = ST_TRAFFIC_STREAM,
     .count = one,
     .figures = up},
    {.variant = "size of each piece of the reply",
     .note = "Of as many pieces as the shortest reply has: what is left is not their number.",
     .wire = ST_TRAFFIC_STREAM,
     .count = shortest,
     .figures = each},
    {.variant = "length of the reply, as produced",
     .note = "The number of pieces is not hidden: about that of tokens.",
     .wire = ST_TRAFFIC_STREAM,
     .count = down_count,
     .figures = down},
    {.variant = "length of the reply, on a cadence",
     .note = "One piece per tick: their number tells how long the reply took.",
     .wire = ST_TRAFFIC_CADENCE,
     .count = down_count,
     .figures = down},
};

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    return st_which_rows(a, questions, sizeof questions / sizeof *questions, rows, e);
}

const struct st_attack st_atk_sizes = {.name = "relay-sizes",
                                       .traffic = true,
                                       .title = "Sizes of sealed messages",
                                       .metric = "chance to name the prompt, of those known",
                                       .source = "arXiv 2403.09751; docs/confidential.md",
                                       .adversary = ST_ADVERSARY_RELAY,
                                       .needs = ST_TARGET_TRAFFIC,
                                       .run = run};

/* Times of a sealed reply's pieces as fingerprints: the relay has asked each of k prompts himself, and names the one
 * that a client asked by the pauses between pieces. An engine that computes several tokens at once where they are easy
 * to foresee writes a reply's text into them. A cadence sends one piece per tick, whatever was produced.
 *
 * To tell times from lengths, only as many pauses count as the shortest reply has. Before the first piece time still
 * tells (the length of the prompt), and so does the end; those are rows of their own.
 *
 * Source: arXiv 2411.01076 (speculative decoding), 2410.17175 (remote timing). */
#include "audit/attack.h"
#include "audit/which.h"

#define FIRST 64 /* pauses */

/* Of every reply, its last piece left out. */
static size_t pauses(const struct st_traffic_asked *t, enum st_traffic_wire w)
{
    size_t n = FIRST;
    for (size_t i = 0; i < t->n_request; i++) {
        size_t of = t->wires[w][i].n_piece < 2 ? 0 : t->wires[w][i].n_piece - 2;
        n = of < n ? of : n;
    }
    return n;
}

static void between(const struct st_traffic_asked *t, enum st_traffic_wire w, size_t i, double *out)
{
    const struct st_traffic_piece *p = t->wires[w][i].pieces;
    size_t n = pauses(t, w);
    for (size_t k = 0; k < n; k++)
        out[k] = p[k + 1].time - p[k].time;
}

static size_t one(const struct st_traffic_asked *t, enum st_traffic_wire w)
{
    for (size_t i = 0; i < t->n_request; i++)
        if (t->wires[w][i].n_piece == 0)
            return 0;
    return 1;
}

static void first(const struct st_traffic_asked *t, enum st_traffic_wire w, size_t i, double *out)
{
    out[0] = t->wires[w][i].pieces[0].time;
}

static void whole(const struct st_traffic_asked *t, enum st_traffic_wire w, size_t i, double *out)
{
    const struct st_traffic_request *r = &t->wires[w][i];
    out[0] = r->pieces[r->n_piece - 1].time;
}

static const struct st_which questions[] = {
    {.variant = "pauses, as produced",
     .note = "Tells text where an engine computes several tokens at once, as the simulated one does, up to 4.",
     .wire = ST_TRAFFIC_STREAM,
     .count = pauses,
     .figures = between},
    {.variant = "pauses, on a cadence",
     .note = "One piece per tick, whatever was produced.",
     .wire = ST_TRAFFIC_CADENCE,
     .count = pauses,
     .figures = between},
    {.variant = "time to the first piece, as produced",
     .note = "About the length of the prompt.",
     .wire = ST_TRAFFIC_STREAM,
     .count = one,
     .figures = first},
    {.variant = "time to the first piece, on a cadence",
     .note = "Rounded up to a tick.",
     .wire = ST_TRAFFIC_CADENCE,
     .count = one,
     .figures = first},
    {.variant = "time to the end, as produced",
     .note = "Not hidden.",
     .wire = ST_TRAFFIC_STREAM,
     .count = one,
     .figures = whole},
    {.variant = "time to the end, on a cadence",
     .note = "Rounded up to a tick, and to the length in pieces.",
     .wire = ST_TRAFFIC_CADENCE,
     .count = one,
     .figures = whole},
};

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    return st_which_rows(a, questions, sizeof questions / sizeof *questions, rows, e);
}

const struct st_attack st_atk_timing = {.name = "relay-timing",
                                        .traffic = true,
                                        .title = "Times of a sealed reply's pieces",
                                        .metric = "chance to name the prompt, of those known",
                                        .source = "arXiv 2411.01076, 2410.17175",
                                        .adversary = ST_ADVERSARY_RELAY,
                                        .needs = ST_TARGET_TRAFFIC,
                                        .run = run};

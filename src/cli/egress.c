#include "cli/egress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SHOWN 8 /* values of a sample */

static void print_sample(const struct st_exchange *x, const struct st_exposed *rows)
{
    size_t n = rows->len / sizeof(uint32_t), width = x->n_row ? n / x->n_row : 0;
    bool field = rows->format == ST_EXPOSED_FIELD;
    fprintf(stderr, "egress: %" PRIu32 " rows of %zu %s for", x->n_row, width, field ? "residues" : "values");
    for (int i = 0; i < x->n_op; i++)
        fprintf(stderr, " %s", x->pair.n_inner ? x->pair.what : x->plan->weights[x->ops[i].weight].name);
    fputs(":", stderr);
    for (size_t i = 0; i < SHOWN && i < n; i++) {
        const char *at = (const char *)rows->p + i * sizeof(uint32_t);
        uint32_t u;
        float f;
        memcpy(&u, at, sizeof u);
        memcpy(&f, at, sizeof f);
        if (field)
            fprintf(stderr, " %" PRIu32, u);
        else
            fprintf(stderr, " %g", (double)f);
    }
    fputs(n > SHOWN ? " ...\n" : "\n", stderr);
}

static int submit(void *ctx, const struct st_exchange *x, const struct st_exposed *rows, struct st_err *e)
{
    struct st_egress *g = ctx;
    if (!g->first)
        g->first = x->ops;
    if (x->ops == g->first)
        print_sample(x, rows);
    g->n_exchange++;
    g->n_bytes += rows->len;
    if (x->ops->last_row_only) { /* the head: the end of a step that gives a token */
        fprintf(stderr, "egress: %" PRIu64 " exchanges and %" PRIu64 " bytes of rows since the last token\n",
                g->n_exchange, g->n_bytes);
        g->n_exchange = g->n_bytes = 0;
    }
    return g->inner->submit(g->inner->ctx, x, rows, e);
}

static int complete(void *ctx, const struct st_exchange *x, struct st_exposed *reply, struct st_err *e)
{
    const struct st_egress *g = ctx;
    return g->inner->complete(g->inner->ctx, x, reply, e);
}

void st_egress_init(struct st_egress *g, const struct st_transport *inner)
{
    *g = (struct st_egress){.outer = {.submit = submit, .complete = complete, .ctx = g}, .inner = inner};
}

#include "audit/ranking.h"

#include <stdlib.h>

struct used {
    uint64_t count;
    uint32_t id;
};

static int by_count(const void *a, const void *b)
{
    const struct used *x = a, *y = b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int order(struct st_ranking *r, struct st_err *e)
{
    struct used *all;
    if (st_alloc(&all, r->n, sizeof *all, "ranks of ids", e))
        return e->code;
    for (uint32_t i = 0; i < r->n; i++)
        all[i] = (struct used){r->count[i], i};
    qsort(all, r->n, sizeof *all, by_count);
    for (uint32_t i = 0; i < r->n; i++) {
        r->id[i] = all[i].id;
        r->place[all[i].id] = i;
        r->n_used += all[i].count > 0;
    }
    free(all);
    return 0;
}

int st_ranking_new(const struct st_texts_ids *t, uint32_t n, struct st_ranking *out, struct st_err *e)
{
    *out = (struct st_ranking){.n = n, .total = st_texts_len(t)};
    int rc = st_alloc(&out->id, n, sizeof *out->id, "ranks of ids", e);
    if (!rc)
        rc = st_alloc(&out->place, n, sizeof *out->place, "ranks of ids", e);
    if (!rc)
        rc = st_alloc(&out->count, n, sizeof *out->count, "ranks of ids", e);
    for (uint64_t i = 0; !rc && i < out->total; i++)
        if (t->ids[i] >= n)
            rc = st_fail(e, ST_INPUT, "text: id %u where there are %u", t->ids[i], n);
        else
            out->count[t->ids[i]]++;
    if (!rc)
        rc = order(out, e);
    if (rc)
        st_ranking_free(out);
    return rc;
}

void st_ranking_free(struct st_ranking *r)
{
    free(r->id);
    free(r->place);
    free(r->count);
    *r = (struct st_ranking){0};
}

void st_ranking_near(uint32_t place, uint32_t n, uint32_t k, uint32_t *out)
{
    uint32_t got = 0, lo = place, hi = place; /* lo..hi are taken */
    if (place >= n)
        lo = hi = place = n - 1;
    out[got++] = place;
    while (got < k) {
        bool below = lo > 0 && (hi + 1 >= n || place - lo < hi - place + 1);
        out[got++] = below ? --lo : ++hi;
    }
}

#include "audit/verdict.h"

#include <math.h>
#include <string.h>

const char *st_verdict_word(enum st_verdict_level l)
{
    static const char *const words[] = {"nothing measurable", "a little", "a part", "most", "nearly everything"};
    return words[l];
}

/* Share of what lies between chance and all; 0 when the interval reaches down to chance. */
static double gain(const struct st_row *r)
{
    double chance = isfinite(r->chance) ? r->chance : 0;
    if (!(r->low > chance))
        return 0;
    return chance < 1 ? (fmin(r->score, 1) - chance) / (1 - chance) : 0;
}

static enum st_verdict_level level(double g)
{
    if (g <= 0)
        return ST_VERDICT_NOTHING;
    if (g < 0.1)
        return ST_VERDICT_LITTLE;
    if (g <= 0.5)
        return ST_VERDICT_PART;
    return g <= 0.9 ? ST_VERDICT_MOST : ST_VERDICT_ALL;
}

size_t st_verdicts(const struct st_rows *rows, struct st_verdict out[ST_VERDICT_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < rows->n; i++) {
        const struct st_row *r = &rows->at[i];
        struct st_verdict *v = NULL;
        if (r->sweep && r->x != 0)
            continue;
        for (size_t k = 0; !v && k < n; k++)
            if (!strcmp(out[k].adversary, r->adversary) && !strcmp(out[k].target, r->target) &&
                out[k].traffic == r->traffic)
                v = &out[k];
        if (!v && n == ST_VERDICT_MAX)
            continue;
        if (!v) {
            v = &out[n++];
            *v = (struct st_verdict){.adversary = r->adversary, .target = r->target, .worst = r, .traffic = r->traffic};
        }
        v->n_row++;
        if (gain(r) > gain(v->worst))
            v->worst = r;
        v->level = level(gain(v->worst));
    }
    return n;
}

void st_verdict_text(const struct st_verdict *v, struct st_buf *out)
{
    const struct st_row *r = v->worst;
    st_buf_addf(out, "%s%s: %s%s%s%s got %.3g (%.3g to %.3g; %s), chance %.3g",
                v->traffic ? "of lengths and times, " : "", st_verdict_word(v->level), r->attack,
                *r->variant ? " (" : "", r->variant, *r->variant ? ")" : "", r->score, r->low, r->high, r->metric,
                r->chance);
    if (isfinite(r->unprotected))
        st_buf_addf(out, ", without protection %.3g", r->unprotected);
}

#include "audit/verdict.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

const char *st_verdict_word(enum st_verdict_level l)
{
    static const char *const words[] = {"nothing measurable", "a little", "a part", "most", "nearly everything"};
    return words[l];
}

#define INTERVAL 0.05 /* of a row: 95 % */
#define LUCK 0.0025   /* how often luck may pass for a leak, per verdict: a report has some twenty of them */

/* Half an interval, in standard deviations, that luck leaves with this chance when n rows are looked at together. */
static double width(size_t n, double luck)
{
    double low = 0, high = 10;
    for (int i = 0; i < 60; i++) {
        double z = (low + high) / 2;
        if (erfc(z / sqrt(2)) * (double)n > luck)
            low = z;
        else
            high = z;
    }
    return high;
}

/* Share of what lies between chance and all; 0 when the interval, widened for n rows, reaches down to chance. Where
 * guessing never hits (a share whose chance is 0), no number of tries makes a hit luck; a cosine or a BLEU is above 0
 * by luck as well. */
static double gain(const struct st_row *r, size_t n)
{
    double chance = isfinite(r->chance) ? r->chance : 0;
    double widened = r->score - (r->score - r->low) * width(n, LUCK) / width(1, INTERVAL);
    bool never = st_row_is_share(r) && r->chance == 0;
    if (!(never ? r->low > 0 : widened > chance))
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

/* A row about noise is about another setting than the preset. */
static bool counts(const struct st_row *r)
{
    return !r->sweep || r->x == 0;
}

static bool about(const struct st_verdict *v, const struct st_row *r)
{
    return !strcmp(v->adversary, r->adversary) && !strcmp(v->target, r->target) && v->traffic == r->traffic &&
           v->others == r->others;
}

static void judge(struct st_verdict *v, const struct st_rows *rows)
{
    double best = -1;
    for (size_t i = 0; i < rows->n; i++) {
        const struct st_row *r = &rows->at[i];
        double g = counts(r) && about(v, r) ? gain(r, v->n_row) : -1;
        if (g > best) {
            best = g;
            v->worst = r;
        }
    }
    v->level = level(best);
}

size_t st_verdicts(const struct st_rows *rows, struct st_verdict out[ST_VERDICT_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < rows->n; i++) {
        const struct st_row *r = &rows->at[i];
        size_t k = 0;
        if (!counts(r))
            continue;
        while (k < n && !about(&out[k], r))
            k++;
        if (k == ST_VERDICT_MAX)
            continue;
        if (k == n)
            out[n++] = (struct st_verdict){
                .adversary = r->adversary, .target = r->target, .traffic = r->traffic, .others = r->others};
        out[k].n_row++;
    }
    for (size_t k = 0; k < n; k++)
        judge(&out[k], rows);
    return n;
}

const char *st_verdict_target(const struct st_verdict *v)
{
    if (v->others)
        return "schemes of others";
    return *v->target ? v->target : "any preset";
}

void st_verdict_evidence(const struct st_verdict *v, struct st_buf *out)
{
    const struct st_row *r = v->worst;
    const char *own = st_row_own_variant(r);
    if (v->level == ST_VERDICT_NOTHING)
        st_buf_addf(out, "%zu row%s tried, none above guessing; the first: ", v->n_row, v->n_row > 1 ? "s" : "");
    st_buf_addf(out, "%s, ", r->metric);
    st_row_score(r, out);
    st_buf_add_str(out, "; guessing gets ");
    st_row_figure(r, r->chance, out);
    if (isfinite(r->unprotected)) {
        st_buf_add_str(out, ", without protection ");
        st_row_unprotected(r, out);
    }
    st_buf_addf(out, "; by %s%s%s%s", r->attack, *own ? " (" : "", own, *own ? ")" : "");
}

void st_verdict_text(const struct st_verdict *v, struct st_buf *out)
{
    st_buf_addf(out, "%s%s: ", v->traffic ? "of lengths and times, " : "", st_verdict_word(v->level));
    st_verdict_evidence(v, out);
}

void st_verdict_summary(const struct st_verdict *v, size_t n, enum st_verdict_level level, struct st_buf *out)
{
    const char *last = NULL;
    for (size_t i = 0; i < n; i++) {
        if (v[i].traffic || v[i].others || v[i].level != level)
            continue;
        if (last && !strcmp(last, v[i].adversary))
            st_buf_addf(out, "; %s", st_verdict_target(&v[i]));
        else
            st_buf_addf(out, "%s%s (%s", last ? "), " : "", v[i].adversary, st_verdict_target(&v[i]));
        last = v[i].adversary;
    }
    st_buf_add_str(out, last ? ")" : "");
}

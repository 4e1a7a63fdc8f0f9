#include "audit/report.h"

#include "audit/chart.h"
#include "audit/verdict.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
    "*{box-sizing:border-box}body{margin:0 auto;max-width:64rem;padding:1.5rem;background:var(--page);color:var(--ink);"
    "font:16px/1.5 "
    "system-ui,sans-serif}h1,h2,h3{line-height:1.2}a{color:inherit}a:focus-visible,[tabindex]:focus-visible"
    "{outline:3px solid var(--mark);outline-offset:2px}table{border-collapse:collapse;width:100%;font-size:.875rem}"
    "th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid var(--line);vertical-align:top}"
    "td.n{font-variant-numeric:tabular-nums;white-space:nowrap}.wide{overflow-x:auto}code{font-size:.875em}"
    "li{margin:.25rem 0}svg{max-width:100%;height:auto}.l0{color:var(--mark)}.l3,.l4{color:var(--bar)}"
    "@media print{body{max-width:none;font-size:11pt}h2{break-after:avoid}svg,tr{break-inside:avoid}}";

/* Rows that a test chooses; the caller frees. NULL without memory. */
static const struct st_row **pick(const struct st_rows *rows, bool (*want)(const struct st_row *, const char *),
                                  const char *arg, size_t *n)
{
    const struct st_row **out = malloc((rows->n + 1) * sizeof *out);
    *n = 0;
    for (size_t i = 0; out && i < rows->n; i++)
        if (want(&rows->at[i], arg))
            out[(*n)++] = &rows->at[i];
    return out;
}

static bool in_sweep(const struct st_row *r, const char *x_name)
{
    return r->sweep && r->x_name && strcmp(r->x_name, x_name) == 0;
}

static bool of_target(const struct st_row *r, const char *target)
{
    return strcmp(r->target, target) == 0;
}

/* Calls fn for each different word that `word` gives, in the order of rows. */
static void each(const struct st_rows *rows, const char *(*word)(const struct st_row *),
                 void (*fn)(void *arg, const char *word), void *arg)
{
    for (size_t i = 0; i < rows->n; i++) {
        const char *w = word(&rows->at[i]);
        bool seen = !w;
        for (size_t k = 0; !seen && k < i; k++) {
            const char *other = word(&rows->at[k]);
            seen = other && strcmp(other, w) == 0;
        }
        if (!seen)
            fn(arg, w);
    }
}

static const char *x_name_of(const struct st_row *r)
{
    return r->sweep ? r->x_name : NULL;
}

static const char *target_of(const struct st_row *r)
{
    return r->target;
}

static void put_real(struct st_buf *b, double v)
{
    if (isfinite(v))
        st_buf_addf(b, "%.3g", v);
    else
        st_buf_add_str(b, "-");
}

struct page {
    const struct st_report *r;
    struct st_buf *b;
};

/* ---- HTML ---- */

static void tag(struct st_buf *b, const char *open, const char *text, const char *close)
{
    st_buf_add_str(b, open);
    st_chart_escape(b, text);
    st_buf_add_str(b, close);
}

static void html_verdicts(const struct page *p)
{
    struct st_verdict v[ST_VERDICT_MAX];
    size_t n = st_verdicts(&p->r->findings->rows, v);
    st_buf_add_str(p->b, "<h2 id=\"verdicts\">What each of them gets</h2>\n");
    for (int a = 0; a < ST_ADVERSARY_COUNT; a++) {
        const char *name = st_adversary_name((enum st_adversary)a);
        bool any = false;
        for (size_t i = 0; i < n; i++) {
            struct st_buf text = {0};
            if (strcmp(v[i].adversary, name))
                continue;
            if (!any) {
                tag(p->b, "<h3>", name, ": ");
                tag(p->b, "", st_adversary_what((enum st_adversary)a), "</h3>\n<ul>\n");
            }
            any = true;
            st_verdict_text(&v[i], &text);
            st_buf_addf(p->b, "<li class=\"l%d\">", (int)v[i].level);
            tag(p->b, "<strong>", *v[i].target ? v[i].target : "any", "</strong>: ");
            st_chart_escape(p->b, text.p ? text.p : "");
            st_buf_add_str(p->b, "</li>\n");
            st_buf_free(&text);
        }
        st_buf_add_str(p->b, any ? "</ul>\n" : "");
    }
}

static void html_sweep(void *arg, const char *x_name)
{
    const struct page *p = arg;
    size_t n;
    const struct st_row **rows = pick(&p->r->findings->rows, in_sweep, x_name, &n);
    if (rows && n) {
        tag(p->b, "<h3>", x_name, "</h3>\n<div class=\"wide\" tabindex=\"0\">");
        st_chart_sweep(p->b, rows, n, false);
        st_buf_add_str(p->b, "</div>\n");
    }
    p->b->failed |= !rows;
    free(rows);
}

static void html_row(const struct page *p, const struct st_row *r)
{
    struct st_buf *b = p->b;
    tag(b, "<tr><td>", r->attack, "</td><td>");
    tag(b, "", r->variant, "</td><td>");
    tag(b, "", r->adversary, "</td><td class=\"n\">");
    st_buf_addf(b, "%.3g <small>(%.3g to %.3g)</small></td><td class=\"n\">", r->score, r->low, r->high);
    put_real(b, r->chance);
    st_buf_add_str(b, "</td><td class=\"n\">");
    put_real(b, r->unprotected);
    st_buf_addf(b, "</td><td class=\"n\">%" PRIu64 "</td><td>", r->n);
    tag(b, "", r->metric, *r->note ? "; " : "");
    tag(b, "", r->note, "</td><td><code>");
    tag(b, "", p->r->command, " --attacks ");
    st_chart_escape(b, r->attack);
    st_buf_addf(b, " --seed %" PRIu64 "</code></td></tr>\n", r->seed);
}

static void html_target(void *arg, const char *target)
{
    const struct page *p = arg;
    size_t n;
    const struct st_row **rows = pick(&p->r->findings->rows, of_target, target, &n);
    if (rows && n) {
        tag(p->b, "<h3>", *target ? target : "schemes of others, on data of their own", "</h3>\n");
        st_buf_add_str(p->b, "<div class=\"wide\" tabindex=\"0\">");
        st_chart_bars(p->b, rows, n, false);
        st_buf_add_str(p->b,
                       "<table><thead><tr><th>attack</th><th>variant</th><th>by</th><th>score</th><th>chance</th>"
                       "<th>without protection</th><th>n</th><th>counts</th><th>again</th></tr></thead><tbody>\n");
        for (size_t i = 0; i < n; i++)
            html_row(p, rows[i]);
        st_buf_add_str(p->b, "</tbody></table></div>\n");
    }
    p->b->failed |= !rows;
    free(rows);
}

static void html_not_run(const struct page *p)
{
    const struct st_findings *f = p->r->findings;
    if (!f->n_not_run)
        return;
    st_buf_add_str(p->b, "<h2 id=\"not-run\">Not run</h2>\n<p>What was not tried says nothing.</p>\n<ul>\n");
    for (size_t i = 0; i < f->n_not_run; i++) {
        tag(p->b, "<li>", f->not_run[i].attack, *f->not_run[i].label ? ", " : "");
        tag(p->b, "", f->not_run[i].label, ": ");
        tag(p->b, "", f->not_run[i].why, "</li>\n");
    }
    st_buf_add_str(p->b, "</ul>\n");
}

void st_report_html(const struct st_report *r, struct st_buf *out)
{
    struct page p = {r, out};
    st_buf_addf(out,
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                "content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" "
                "content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>What leaks</title><style>%s%s</style>"
                "</head><body>\n<h1>What leaks: ",
                st_chart_style, style);
    st_chart_escape(out, r->model);
    st_buf_addf(out,
                "</h1>\n<nav><a href=\"#verdicts\">what each of them gets</a> &middot; <a href=\"#series\">series</a> "
                "&middot; <a href=\"#rows\">all rows</a>%s</nav>\n<p>Audit of ",
                r->findings->n_not_run ? " &middot; <a href=\"#not-run\">not run</a>" : "");
    st_chart_escape(out, r->target);
    st_buf_addf(out,
                ", seed %" PRIu64
                ". A score is what an attack recovered, 0 to 1; chance is what guessing gets; without "
                "protection is what the same attack gets when nothing is hidden. These are the attacks that we know: a "
                "low score is no proof that there is no better one.</p>\n",
                r->seed);
    html_verdicts(&p);
    st_buf_add_str(out, "<h2 id=\"series\">Noise against accuracy against recovery, and other series</h2>\n");
    each(&r->findings->rows, x_name_of, html_sweep, &p);
    st_buf_add_str(out, "<h2 id=\"rows\">All rows</h2>\n");
    each(&r->findings->rows, target_of, html_target, &p);
    html_not_run(&p);
    st_buf_add_str(out, "</body></html>\n");
}

/* ---- Markdown ---- */

/* Bars and line ends would break a table. */
static void md(struct st_buf *b, const char *s)
{
    for (; *s; s++)
        if (*s == '|')
            st_buf_add_str(b, "\\|");
        else if (*s == '<')
            st_buf_add_str(b, "&lt;");
        else
            st_buf_add(b, (unsigned char)*s < ' ' ? " " : s, 1);
}

static void md_rows(const struct page *p)
{
    struct st_buf *b = p->b;
    st_buf_add_str(b,
                   "\n| attack | variant | by | score | 95 % | chance | without protection | n | perplexity added |\n"
                   "|---|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < p->r->findings->rows.n; i++) {
        const struct st_row *r = &p->r->findings->rows.at[i];
        st_buf_add_str(b, "| ");
        md(b, r->attack);
        st_buf_add_str(b, " | ");
        md(b, r->variant);
        st_buf_addf(b, " | %s | **%.3g** | %.3g to %.3g | ", r->adversary, r->score, r->low, r->high);
        put_real(b, r->chance);
        st_buf_add_str(b, " | ");
        put_real(b, r->unprotected);
        st_buf_addf(b, " | %" PRIu64 " | ", r->n);
        put_real(b, r->sweep ? r->cost : NAN);
        st_buf_add_str(b, " |\n");
    }
}

void st_report_markdown(const struct st_report *r, const char *figure, struct st_buf *out)
{
    struct page p = {r, out};
    struct st_verdict v[ST_VERDICT_MAX];
    size_t n = st_verdicts(&r->findings->rows, v);
    st_buf_add_str(out, "## ");
    md(out, r->model);
    st_buf_addf(out, "\n\nMade by `%s --seed %" PRIu64 "`.\n\n", r->command, r->seed);
    for (size_t i = 0; i < n; i++) {
        struct st_buf text = {0};
        st_verdict_text(&v[i], &text);
        st_buf_addf(out, "- **%s**, %s: ", v[i].adversary, *v[i].target ? v[i].target : "schemes of others");
        md(out, text.p ? text.p : "");
        st_buf_add_str(out, "\n");
        st_buf_free(&text);
    }
    if (figure) {
        st_buf_add_str(out, "\n![scores](");
        md(out, figure);
        st_buf_add_str(out, ")\n");
    }
    md_rows(&p);
    if (r->findings->n_not_run)
        st_buf_add_str(out, "\nNot run, which says nothing:\n\n");
    for (size_t i = 0; i < r->findings->n_not_run; i++) {
        const struct st_not_run *x = &r->findings->not_run[i];
        st_buf_addf(out, "- %s%s%s: ", x->attack, *x->label ? ", " : "", x->label);
        md(out, x->why);
        st_buf_add_str(out, "\n");
    }
    st_buf_add_str(out, "\n");
}

static bool any_sweep(const struct st_row *r, const char *arg)
{
    return in_sweep(r, arg ? arg : "alpha_e");
}

static bool any_row(const struct st_row *r, const char *arg)
{
    (void)arg;
    return !(r->sweep && r->x != 0);
}

void st_report_figure(const struct st_report *r, struct st_buf *out)
{
    size_t n, m;
    const struct st_row **sweep = pick(&r->findings->rows, any_sweep, NULL, &n);
    const struct st_row **all = pick(&r->findings->rows, any_row, NULL, &m);
    if (sweep && n)
        st_chart_sweep(out, sweep, n, true);
    else if (all)
        st_chart_bars(out, all, m, true);
    out->failed |= !sweep || !all;
    free(sweep);
    free(all);
}

/* ---- terminal ---- */

void st_report_text(const struct st_report *r, struct st_buf *out)
{
    struct st_verdict v[ST_VERDICT_MAX];
    const struct st_findings *f = r->findings;
    size_t n = st_verdicts(&f->rows, v);
    st_buf_addf(out, "%-20s %-44s %-9s %8s %17s %8s %8s\n", "attack", "variant", "by", "score", "95 %", "chance",
                "unprot.");
    for (size_t i = 0; i < f->rows.n; i++) {
        const struct st_row *x = &f->rows.at[i];
        char ci[40];
        snprintf(ci, sizeof ci, "%.3g to %.3g", x->low, x->high);
        st_buf_addf(out, "%-20s %-44s %-9s %8.3g %17s %8.3g ", x->attack, x->variant, x->adversary, x->score, ci,
                    x->chance);
        if (isfinite(x->unprotected))
            st_buf_addf(out, "%8.3g\n", x->unprotected);
        else
            st_buf_addf(out, "%8s\n", "-");
    }
    st_buf_add_str(out, "\n");
    for (size_t i = 0; i < n; i++) {
        st_buf_addf(out, "%s, %s: ", v[i].adversary, *v[i].target ? v[i].target : "schemes of others");
        st_verdict_text(&v[i], out);
        st_buf_add_str(out, "\n");
    }
    for (size_t i = 0; i < f->n_not_run; i++)
        st_buf_addf(out, "not run: %s%s%s: %s\n", f->not_run[i].attack, *f->not_run[i].label ? ", " : "",
                    f->not_run[i].label, f->not_run[i].why);
}

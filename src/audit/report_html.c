#include "audit/chart.h"
#include "audit/report.h"
#include "audit/verdict.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Narrow screens get each row as a block, its figures named by data-l. */
static const char style[] =
    "*{box-sizing:border-box}"
    "body{margin:0 auto;max-width:66rem;padding:1.25rem;background:var(--page);color:var(--ink);"
    "font:16px/1.5 system-ui,sans-serif;overflow-wrap:break-word}"
    "h1,h2,h3{line-height:1.2}h2{margin-top:2.5rem}h3{margin:1.75rem 0 .25rem}p{margin:.5rem 0}"
    "a{color:inherit}a:focus-visible,[tabindex]:focus-visible{outline:3px solid var(--mark);outline-offset:2px}"
    ".soft,small{color:var(--soft)}code{font-size:.875em}svg{max-width:100%}"
    "nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;padding:0;list-style:none}"
    ".w{border:1px solid;border-radius:.25rem;padding:0 .4rem;white-space:nowrap}"
    ".l0{color:var(--mark)}.l1,.l2{color:var(--soft)}.l3,.l4{color:var(--bar)}"
    ".short{padding-left:0;list-style:none}.short li{margin:.35rem 0}"
    ".v{padding:0;list-style:none}.v li{display:grid;grid-template-columns:1fr 12.75rem;gap:.25rem 1.5rem;"
    "padding:.5rem 0;border-bottom:1px solid var(--line)}.v svg{margin-top:.3rem}.v p{margin:0}"
    ".v p:last-child::first-letter{text-transform:uppercase}"
    ".legend{display:flex;flex-wrap:wrap;gap:0 1.25rem;color:var(--soft);font-size:.875rem}"
    ".legend svg{vertical-align:middle}"
    ".wide{overflow-x:auto}.wide svg{max-width:none}"
    "table{border-collapse:collapse;width:100%;font-size:.875rem}"
    "th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid var(--line);vertical-align:top;font-weight:400}"
    "thead th{color:var(--soft)}td.n{white-space:nowrap;font-variant-numeric:tabular-nums}"
    ".g th{padding-top:1.25rem;border-bottom:0}.g code{display:block}"
    ".rows td:first-child{min-width:8rem;overflow-wrap:anywhere}"
    "svg.one{display:block;width:12.75rem;height:1rem}.rows "
    "svg.one{width:8rem;height:.625rem;margin-top:.3rem;max-width:none}"
    "@media screen and (max-width:48rem){.v li{grid-template-columns:1fr}"
    ".rows,.rows tbody,.rows tr,.rows td,.rows th{display:block;border:0}.rows thead{display:none}"
    ".rows tr{padding:.4rem 0;border-bottom:1px solid var(--line)}.rows td,.rows th{padding:.1rem 0}"
    ".rows td[data-l]::before{content:attr(data-l)\": \";color:var(--soft)}}"
    "@media print{body{max-width:none;padding:0;font-size:10pt}nav{display:none}h2,h3,h3+p,.g{break-after:avoid}"
    "table{font-size:8pt}svg,tr,.v li{break-inside:avoid}.wide svg{max-width:100%;height:auto}}";

static void tag(struct st_buf *b, const char *open, const char *text, const char *close)
{
    st_buf_add_str(b, open);
    st_chart_escape(b, text);
    st_buf_add_str(b, close);
}

static void figure(struct st_buf *b, const char *open, const struct st_row *r, double v, const char *close)
{
    st_buf_add_str(b, open);
    st_row_figure(r, v, b);
    st_buf_add_str(b, close);
}

/* Where all rows of a target begin. */
static void anchor(struct st_buf *b, const char *target)
{
    st_buf_add_str(b, *target ? "of-" : "of-none");
    for (const char *p = target; *p; p++)
        st_buf_add(b, isalnum((unsigned char)*p) ? p : "-", 1);
}

/* ---- verdicts ---- */

static void html_verdict(struct st_buf *b, const struct st_verdict *v)
{
    struct st_buf text = {0};
    st_verdict_evidence(v, &text);
    st_buf_addf(b, "<li><div><p><span class=\"w l%d\">%s</span> ", (int)v->level, st_verdict_word(v->level));
    st_buf_add_str(b, v->traffic ? "of lengths and times, <a href=\"#" : "<a href=\"#");
    anchor(b, v->target);
    tag(b, "\"><strong>", st_verdict_target(v), "</strong></a></p>\n<p>");
    tag(b, "", text.p ? text.p : "", "</p></div>");
    st_chart_bar(b, v->worst);
    st_buf_add_str(b, "</li>\n");
    b->failed |= text.failed;
    st_buf_free(&text);
}

static void html_adversary(struct st_buf *b, const char *name, const char *what, const struct st_verdict *v, size_t n)
{
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(v[i].adversary, name))
            continue;
        if (!any) {
            tag(b, "<h3>The ", name, "</h3>\n<p class=\"soft\">");
            tag(b, "", what, ".</p>\n<ul class=\"v\">\n");
        }
        any = true;
        html_verdict(b, &v[i]);
    }
    st_buf_add_str(b, any ? "</ul>\n" : "");
}

static void html_short(struct st_buf *b, const struct st_verdict *v, size_t n)
{
    st_buf_add_str(b,
                   "<h2 id=\"short\">In short</h2>\n<p>What the strongest attack of each gets of what is meant to stay "
                   "hidden; lengths and times stand apart, below.</p>\n<ul class=\"short\">\n");
    for (int l = ST_VERDICT_ALL; l >= ST_VERDICT_NOTHING; l--) {
        struct st_buf text = {0};
        st_verdict_summary(v, n, (enum st_verdict_level)l, &text);
        if (text.len) {
            st_buf_addf(b, "<li><span class=\"w l%d\">%s</span> ", l, st_verdict_word((enum st_verdict_level)l));
            tag(b, "", text.p, "</li>\n");
        }
        b->failed |= text.failed;
        st_buf_free(&text);
    }
    st_buf_add_str(b, "</ul>\n");
}

/* An adversary of whom there is no row is named as well: silence would read as safety. */
static void html_untried(struct st_buf *b, const struct st_verdict *v, size_t n)
{
    bool any = false;
    for (int a = 0; a < ST_ADVERSARY_COUNT; a++) {
        const char *name = st_adversary_name((enum st_adversary)a);
        size_t i = 0;
        while (i < n && strcmp(v[i].adversary, name))
            i++;
        if (i == n)
            tag(b, any ? ", " : "<p>Not tried, which says nothing: ", name, "");
        any = any || i == n;
    }
    st_buf_add_str(b, any ? ".</p>\n" : "");
}

static void html_verdicts(struct st_buf *b, const struct st_rows *rows)
{
    struct st_verdict v[ST_VERDICT_MAX];
    size_t n = st_verdicts(rows, v);
    html_short(b, v, n);
    html_untried(b, v, n);
    st_buf_add_str(b, "<h2 id=\"verdicts\">What each of them gets</h2>\n");
    st_chart_legend(b);
    for (int a = 0; a < ST_ADVERSARY_COUNT; a++)
        html_adversary(b, st_adversary_name((enum st_adversary)a), st_adversary_what((enum st_adversary)a), v, n);
}

/* ---- series ---- */

/* The chart's points as figures: a column for each x, accuracy first. */
static void html_points(struct st_buf *b, const struct st_row *const *rows, size_t n, const struct st_chart_line *lines,
                        size_t n_line)
{
    const double from = st_chart_next_x(rows, n, -INFINITY);
    bool cost = false;
    tag(b, "<table><thead><tr><th scope=\"col\">", rows[0]->x_name, "</th>");
    for (double x = from; isfinite(x); x = st_chart_next_x(rows, n, x)) {
        const struct st_row *r = st_chart_point(rows, n, &lines[0], x);
        st_buf_addf(b, "<th scope=\"col\">%.10g</th>", x);
        cost = cost || (r && isfinite(r->cost));
    }
    st_buf_add_str(b, "</tr></thead><tbody>\n");
    if (cost)
        st_buf_add_str(b, "<tr><th scope=\"row\">perplexity added</th>");
    for (double x = from; cost && isfinite(x); x = st_chart_next_x(rows, n, x)) {
        const struct st_row *r = st_chart_point(rows, n, &lines[0], x);
        st_buf_add_str(b, "<td class=\"n\">");
        st_row_cost(r ? r : lines[0].first, b);
        st_buf_add_str(b, "</td>");
    }
    st_buf_add_str(b, cost ? "</tr>\n" : "");
    for (size_t i = 0; i < n_line; i++) {
        tag(b, "<tr><th scope=\"row\">", lines[i].name, "</th>");
        for (double x = from; isfinite(x); x = st_chart_next_x(rows, n, x)) {
            const struct st_row *r = st_chart_point(rows, n, &lines[i], x);
            figure(b, "<td class=\"n\">", lines[i].first, r ? r->score : NAN, "</td>");
        }
        st_buf_add_str(b, "</tr>\n");
    }
    st_buf_add_str(b, "</tbody></table>\n");
}

static void html_one_series(struct st_buf *b, const struct st_rows *all, const char *name)
{
    struct st_chart_line lines[ST_CHART_LINES];
    size_t n;
    const struct st_row **rows = st_rows_pick(all, st_row_in_series, name, &n);
    size_t n_line = rows ? st_chart_lines(rows, n, lines) : 0;
    b->failed |= !rows;
    if (n_line) {
        tag(b, "<h3>Along ", name, "</h3>\n<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"");
        tag(b, "", name, "\">\n");
        st_chart_sweep(b, rows, n, false);
        html_points(b, rows, n, lines, n_line);
        st_buf_add_str(b, "</div>\n");
    }
    free(rows);
}

static void html_series(struct st_buf *b, const struct st_rows *all)
{
    const char *names[ST_ROWS_SERIES];
    size_t n = st_rows_series(all, names);
    if (n)
        st_buf_add_str(b,
                       "<h2 id=\"series\">Noise against accuracy against recovery, and other series</h2>\n<p>One line "
                       "for each attack, its strongest variant. Thin strokes are 95 % intervals.</p>\n");
    for (size_t i = 0; i < n; i++)
        html_one_series(b, all, names[i]);
}

/* ---- all rows ---- */

static void html_attack(struct st_buf *b, const struct st_report *r, const struct st_row *row)
{
    const struct st_attack *a = NULL;
    for (size_t i = 0; !a && st_attacks[i]; i++)
        a = strcmp(st_attacks[i]->name, row->attack) ? NULL : st_attacks[i];
    tag(b, "<tr class=\"g\"><th colspan=\"6\" scope=\"rowgroup\"><strong>", row->attack, "</strong>, by the ");
    st_chart_escape(b, row->adversary);
    if (a) {
        tag(b, ". ", a->title, " <small>(");
        tag(b, "", a->source, ")</small>");
    }
    tag(b, "<code>", r->command, " --attacks ");
    st_chart_escape(b, row->attack);
    st_buf_addf(b, " --seed %" PRIu64 "</code></th></tr>\n", row->seed);
}

static void html_row(struct st_buf *b, const struct st_row *r)
{
    const char *own = st_row_own_variant(r);
    tag(b, "<tr><td>", *own ? own : r->attack, "</td><td>");
    st_chart_bar(b, r);
    st_buf_add_str(b, "</td><td class=\"n\" data-l=\"score\">");
    st_row_score(r, b);
    figure(b, "</td><td class=\"n\" data-l=\"guessing\">", r, r->chance, "");
    st_buf_add_str(b, "</td><td class=\"n\" data-l=\"without protection\">");
    st_row_unprotected(r, b);
    tag(b, "</td><td data-l=\"counts\">", r->metric, "");
    st_buf_addf(b, ", of %" PRIu64, r->n);
    if (isfinite(r->cost)) {
        st_buf_add_str(b, "; perplexity added ");
        st_row_cost(r, b);
    }
    tag(b, *r->note ? ". " : "", r->note, "</td></tr>\n");
}

static const char *target_title(const char *target)
{
    return *target ? target : "any preset, and schemes of others";
}

static void html_target(struct st_buf *b, const struct st_report *r, const char *target)
{
    size_t n;
    const struct st_row **rows = st_rows_pick(&r->findings->rows, st_row_of_target, target, &n);
    b->failed |= !rows;
    if (!rows)
        return;
    st_buf_add_str(b, "<h3 id=\"");
    anchor(b, target);
    tag(b, "\">", target_title(target), "</h3>\n");
    st_buf_add_str(b, "<table class=\"rows\"><thead><tr><th scope=\"col\">variant</th><th scope=\"col\">0 to 1</th>"
                      "<th scope=\"col\">score (95 %)</th><th scope=\"col\">guessing</th><th scope=\"col\">without "
                      "protection</th><th scope=\"col\">counts</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < n; i++) {
        if (!i || strcmp(rows[i]->attack, rows[i - 1]->attack))
            html_attack(b, r, rows[i]);
        html_row(b, rows[i]);
    }
    st_buf_add_str(b, "</tbody></table>\n");
    free(rows);
}

/* The first row of its target. */
static bool is_first(const struct st_rows *rows, size_t i)
{
    size_t k = 0;
    while (k < i && strcmp(rows->at[k].target, rows->at[i].target))
        k++;
    return k == i;
}

static void html_index(struct st_buf *b, const struct st_rows *rows)
{
    st_buf_add_str(b, "<nav aria-label=\"Targets\"><ul>\n");
    for (size_t i = 0; i < rows->n; i++) {
        size_t n = 0;
        if (!is_first(rows, i))
            continue;
        for (size_t k = i; k < rows->n; k++)
            n += strcmp(rows->at[k].target, rows->at[i].target) == 0;
        st_buf_add_str(b, "<li><a href=\"#");
        anchor(b, rows->at[i].target);
        tag(b, "\">", target_title(rows->at[i].target), "</a>");
        st_buf_addf(b, " <small>%zu</small></li>\n", n);
    }
    st_buf_add_str(b, "</ul></nav>\n");
}

static void html_targets(struct st_buf *b, const struct st_report *r)
{
    const struct st_rows *rows = &r->findings->rows;
    st_buf_add_str(b, "<h2 id=\"rows\">All rows</h2>\n<p>The line below an attack makes its rows again.</p>\n");
    html_index(b, rows);
    st_chart_legend(b);
    for (size_t i = 0; i < rows->n; i++)
        if (is_first(rows, i))
            html_target(b, r, rows->at[i].target);
}

static void html_not_run(struct st_buf *b, const struct st_findings *f)
{
    if (!f->n_not_run)
        return;
    st_buf_add_str(b, "<h2 id=\"not-run\">Not run</h2>\n<p>What was not tried says nothing.</p>\n<ul>\n");
    for (size_t i = 0; i < f->n_not_run; i++) {
        tag(b, "<li><strong>", f->not_run[i].attack, "</strong>");
        tag(b, *f->not_run[i].label ? ", " : "", f->not_run[i].label, ": ");
        tag(b, "", f->not_run[i].why, "</li>\n");
    }
    st_buf_add_str(b, "</ul>\n");
}

void st_report_html(const struct st_report *r, struct st_buf *out)
{
    const char *names[ST_ROWS_SERIES];
    st_buf_addf(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
        "content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        "\n<title>What leaks</title>\n<style>%s%s</style>\n</head>\n<body>\n<h1>What leaks: ",
        st_chart_style, style);
    st_chart_escape(out, r->model);
    tag(out, "</h1>\n<p>An audit of <code>", r->target, "</code>");
    st_buf_addf(
        out,
        ", seed %" PRIu64
        ". Attacks were run against it; a score says how much of what they are after they got. Guessing is what "
        "somebody gets who saw nothing; <em>without protection</em> is what the same attack gets when nothing is "
        "hidden. These are the attacks that we know: a low score is no proof that there is no better one.</p>\n"
        "<nav aria-label=\"Sections\"><ul><li><a href=\"#short\">In short</a></li><li><a href=\"#verdicts\">What "
        "each of them gets</a></li>%s<li><a href=\"#rows\">All rows</a></li>%s</ul></nav>\n<main>\n",
        r->seed,
        st_rows_series(&r->findings->rows, names)
            ? "<li><a href=\"#series\">Noise against accuracy against recovery</a></li>"
            : "",
        r->findings->n_not_run ? "<li><a href=\"#not-run\">Not run</a></li>" : "");
    html_verdicts(out, &r->findings->rows);
    html_series(out, &r->findings->rows);
    html_targets(out, r);
    html_not_run(out, r->findings);
    st_buf_add_str(out, "</main>\n</body>\n</html>\n");
}

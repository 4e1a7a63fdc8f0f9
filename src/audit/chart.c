#include "audit/chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char st_chart_style[] =
    ":root{--ink:#1b1f24;--soft:#56606c;--line:#d5dae0;--page:#fff;--bar:#b3402f;--mark:#1f6f4a;--full:#56606c;"
    "--c1:#b3402f;--c2:#1d5fa8;--c3:#1f6f4a;--c4:#8a5a00;--c5:#7a3ea1;--c6:#00707d;--c7:#a52a6b;--c8:#5a5a5a}"
    "@media (prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#a9b2bd;--line:#3a424c;--page:#15181c;--bar:#e98a76;"
    "--mark:#74cfa2;--full:#a9b2bd;--c1:#e98a76;--c2:#7db4ee;--c3:#74cfa2;--c4:#e0b458;--c5:#c79be6;--c6:#5cc6d4;"
    "--c7:#ee8fc0;--c8:#bdbdbd}}"
    "@media print{:root{--ink:#000;--soft:#333;--line:#999;--page:#fff;--bar:#555;--mark:#000;--full:#000}}"
    "svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .soft{fill:var(--soft)}"
    "svg .axis{stroke:var(--line);stroke-width:1}svg .bar{fill:var(--bar)}svg .side{fill:var(--soft)}svg "
    ".ci{stroke:var(--ink);stroke-width:1.5}"
    "svg .chance{stroke:var(--mark);stroke-width:2}svg .full{stroke:var(--full);stroke-width:2;stroke-dasharray:3 2}"
    "svg .curve{fill:none;stroke-width:2}svg .cost{fill:none;stroke:var(--soft);stroke-width:2;stroke-dasharray:5 3}"
    "svg .lead{stroke:var(--line);stroke-width:1}";

void st_chart_escape(struct st_buf *b, const char *s)
{
    for (; *s; s++) {
        switch (*s) {
        case '&':
            st_buf_add_str(b, "&amp;");
            break;
        case '<':
            st_buf_add_str(b, "&lt;");
            break;
        case '>':
            st_buf_add_str(b, "&gt;");
            break;
        case '"':
            st_buf_add_str(b, "&quot;");
            break;
        case '\'':
            st_buf_add_str(b, "&#39;");
            break;
        default:
            st_buf_add(b, (unsigned char)*s < ' ' || *s == 0x7f ? " " : s, 1);
        }
    }
}

static double clamp(double v)
{
    return isfinite(v) ? fmin(fmax(v, 0), 1) : 0;
}

static void open_svg(struct st_buf *b, int width, int height, const char *title, bool standalone)
{
    st_buf_addf(b, "<svg %sviewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\"><title>",
                standalone ? "xmlns=\"http://www.w3.org/2000/svg\" " : "", width, height, width, height);
    st_chart_escape(b, title);
    st_buf_add_str(b, "</title>\n");
    if (standalone)
        st_buf_addf(b, "<style>%s</style><rect width=\"100%%\" height=\"100%%\" fill=\"var(--page)\"/>\n",
                    st_chart_style);
}

static void line(struct st_buf *b, const char *class, double x1, double y1, double x2, double y2)
{
    st_buf_addf(b, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", class, x1, y1, x2, y2);
}

/* Bar, interval and marks between left and left + wide, top and top + high. */
static void bar_marks(struct st_buf *b, const struct st_row *r, double left, double wide, double top, double high)
{
    double mid = top + high / 2, low = left + wide * clamp(r->low), up = left + wide * clamp(r->high);
    st_buf_addf(b, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
                r->traffic ? "side" : "bar", left, top + 2, wide * clamp(r->score), high - 4);
    line(b, "ci", low, mid, up, mid);
    line(b, "ci", low, mid - 3, low, mid + 3);
    line(b, "ci", up, mid - 3, up, mid + 3);
    if (isfinite(r->unprotected))
        line(b, "full", left + wide * clamp(r->unprotected), top, left + wide * clamp(r->unprotected), top + high);
    if (isfinite(r->chance))
        line(b, "chance", left + wide * clamp(r->chance), top, left + wide * clamp(r->chance), top + high);
}

/* ---- bars in a page ---- */

void st_chart_bar(struct st_buf *b, const struct st_row *r)
{
    st_buf_add_str(b, "<svg class=\"one\" viewBox=\"-2 0 204 16\" width=\"204\" height=\"16\" aria-hidden=\"true\">");
    line(b, "axis", 0, 15.5, 200, 15.5);
    bar_marks(b, r, 0, 200, 1, 14);
    st_buf_add_str(b, "</svg>");
}

static void legend(struct st_buf *b, const char *words, const struct st_row *r, const char *mark)
{
    st_buf_add_str(b, "<span><svg viewBox=\"-2 0 44 16\" width=\"44\" height=\"16\" aria-hidden=\"true\">");
    if (r)
        bar_marks(b, r, 0, 40, 1, 14);
    else
        line(b, mark, 20, 1, 20, 15);
    st_buf_addf(b, "</svg> %s</span>\n", words);
}

void st_chart_legend(struct st_buf *b)
{
    static const struct st_row r = {.score = 0.7, .low = 0.5, .high = 0.9, .chance = NAN, .unprotected = NAN},
                               side = {.score = 0.7,
                                       .low = 0.5,
                                       .high = 0.9,
                                       .chance = NAN,
                                       .unprotected = NAN,
                                       .traffic = true};
    st_buf_add_str(b, "<p class=\"legend\">");
    legend(b, "score and its 95 % interval, 0 to 1", &r, NULL);
    legend(b, "the same of lengths and times", &side, NULL);
    legend(b, "what guessing gets", NULL, "chance");
    legend(b, "what the attack gets without protection", NULL, "full");
    st_buf_add_str(b, "</p>\n");
}

/* ---- bars that stand alone ---- */

enum { LEFT = 410, WIDE = 360, RIGHT = 80, ROW = 22, TOP = 26 };

#define NAME 62 /* bytes that have room before the bars */

static void bar_name(struct st_buf *b, const struct st_row *r, double y)
{
    char name[256];
    const char *own = st_row_own_variant(r);
    size_t n = (size_t)snprintf(name, sizeof name, "%s%s%s: %s%s%s", r->adversary, *r->target ? ", " : "", r->target,
                                r->attack, *own ? ", " : "", own);
    if (n > NAME) {
        n = NAME - 3;
        while (n && ((unsigned char)name[n] & 0xc0) == 0x80) /* not within a character */
            n--;
        memcpy(name + n, "...", 4);
    }
    st_buf_addf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT - 8, y + 15);
    st_chart_escape(b, name);
    st_buf_add_str(b, "</text>");
}

void st_chart_bars(struct st_buf *b, const struct st_row *const *rows, size_t n)
{
    open_svg(b, LEFT + WIDE + RIGHT, TOP + (int)n * ROW + 28,
             "Scores of attacks, with 95 % intervals, chance and the unprotected score", true);
    for (int i = 0; i <= 4; i++) {
        double x = LEFT + WIDE * i / 4.0;
        line(b, "axis", x, TOP - 4, x, TOP + (double)n * ROW);
        st_buf_addf(b, "<text class=\"soft\" x=\"%.1f\" y=\"14\" text-anchor=\"middle\">%g</text>", x, i / 4.0);
    }
    for (size_t i = 0; i < n; i++) {
        double y = TOP + (double)i * ROW;
        bar_name(b, rows[i], y);
        bar_marks(b, rows[i], LEFT, WIDE, y + 2, ROW - 4);
        st_buf_addf(b, "<text class=\"soft\" x=\"%d\" y=\"%.1f\">", LEFT + WIDE + 10, y + 15);
        st_row_figure(rows[i], rows[i]->score, b);
        st_buf_add_str(b, "</text>\n");
    }
    double y = TOP + (double)n * ROW + 18;
    line(b, "chance", LEFT, y - 10, LEFT, y + 2);
    st_buf_addf(b, "<text class=\"soft\" x=\"%d\" y=\"%.1f\">what guessing gets</text>", LEFT + 6, y);
    line(b, "full", LEFT + 150, y - 10, LEFT + 150, y + 2);
    st_buf_addf(b, "<text class=\"soft\" x=\"%d\" y=\"%.1f\">without protection</text>", LEFT + 156, y);
    st_buf_addf(b, "<rect class=\"side\" x=\"%d\" y=\"%.1f\" width=\"12\" height=\"10\"/>", LEFT + 290, y - 9);
    st_buf_addf(b, "<text class=\"soft\" x=\"%d\" y=\"%.1f\">lengths and times</text></svg>\n", LEFT + 308, y);
}

/* ---- series ---- */

enum { PLOT_LEFT = 46, PLOT_WIDE = 420, PLOT_HIGH = 240, PLOT_RIGHT = 290, LABEL = 17 };

struct plot {
    struct st_buf *b;
    const struct st_row *const *rows;
    size_t n;
    double min_x, max_x;
};

/* By factors where the points span many, as amounts of text do. */
static double plot_x(const struct plot *p, double x)
{
    if (p->min_x > 0 && p->max_x > 20 * p->min_x)
        return PLOT_LEFT + PLOT_WIDE * clamp(log(x / p->min_x) / log(p->max_x / p->min_x));
    return PLOT_LEFT + PLOT_WIDE * (p->max_x > 0 ? clamp(x / p->max_x) : 0);
}

static double plot_y(double v)
{
    return TOP + PLOT_HIGH * (1 - clamp(v));
}

/* Length of a row's own variant without the words that tell its point, if it has such: then the attack made the series
 * itself, and each target has a line of its own. */
static size_t without_point(const struct st_row *r, bool *own_series)
{
    char number[32];
    const char *v = st_row_own_variant(r), *last = strrchr(v, ',');
    snprintf(number, sizeof number, "%.10g", r->x);
    *own_series = last && strstr(last, number);
    return *own_series ? (size_t)(last - v) : strlen(v);
}

static bool same_line(const struct st_row *a, const struct st_row *b)
{
    bool own_a, own_b;
    size_t n_a = without_point(a, &own_a), n_b = without_point(b, &own_b);
    return strcmp(a->attack, b->attack) == 0 && strcmp(a->metric, b->metric) == 0 && own_a == own_b && n_a == n_b &&
           strncmp(st_row_own_variant(a), st_row_own_variant(b), n_a) == 0 &&
           (!own_a || strcmp(a->target, b->target) == 0);
}

/* Sum of the scores of the line that row i begins; negative when it begins none, or a point alone. */
static double line_sum(const struct st_row *const *rows, size_t n, size_t i)
{
    double sum = 0;
    size_t n_point = 0;
    for (size_t k = 0; k < n; k++) {
        if (!same_line(rows[k], rows[i]))
            continue;
        if (k < i)
            return -1;
        sum += fmax(rows[k]->score, 0);
        n_point++;
    }
    return n_point > 1 ? sum : -1;
}

/* Row i begins the line of its attack that lies highest, the first of those: one line per attack can be read. */
static bool highest_of_attack(const struct st_row *const *rows, size_t n, size_t i)
{
    double own = line_sum(rows, n, i);
    if (own < 0)
        return false;
    for (size_t k = 0; k < n; k++) {
        double other = strcmp(rows[k]->attack, rows[i]->attack) == 0 ? line_sum(rows, n, k) : -1;
        if (other > own || (k < i && other >= own))
            return false;
    }
    return true;
}

size_t st_chart_lines(const struct st_row *const *rows, size_t n, struct st_chart_line out[ST_CHART_LINES])
{
    size_t found = 0;
    for (size_t i = 0; i < n && found < ST_CHART_LINES; i++) {
        if (!highest_of_attack(rows, n, i))
            continue;
        bool own_series;
        int len = (int)without_point(rows[i], &own_series);
        struct st_chart_line *l = &out[found++];
        l->first = rows[i];
        snprintf(l->name, sizeof l->name, "%.24s%s%.*s", rows[i]->attack, len ? ", " : "", len < 50 ? len : 50,
                 st_row_own_variant(rows[i]));
    }
    return found;
}

const struct st_row *st_chart_point(const struct st_row *const *rows, size_t n, const struct st_chart_line *line,
                                    double x)
{
    for (size_t i = 0; i < n; i++)
        if (rows[i]->x == x && same_line(rows[i], line->first))
            return rows[i];
    return NULL;
}

double st_chart_next_x(const struct st_row *const *rows, size_t n, double from)
{
    double x = INFINITY;
    for (size_t i = 0; i < n; i++)
        if (rows[i]->x > from)
            x = fmin(x, rows[i]->x);
    return x;
}

#define COLOURS 8 /* --c1 to --c8 */

/* Returns the height at which the line ends. */
static double curve(const struct plot *p, const struct st_chart_line *l, size_t number)
{
    double y = 0;
    st_buf_addf(p->b, "<polyline class=\"curve\" style=\"stroke:var(--c%zu)\" points=\"", number % COLOURS + 1);
    for (double x = p->min_x; isfinite(x); x = st_chart_next_x(p->rows, p->n, x)) {
        const struct st_row *r = st_chart_point(p->rows, p->n, l, x);
        if (r) {
            y = plot_y(r->score);
            st_buf_addf(p->b, "%.1f,%.1f ", plot_x(p, x), y);
        }
    }
    st_buf_add_str(p->b, "\"/>");
    for (double x = p->min_x; isfinite(x); x = st_chart_next_x(p->rows, p->n, x)) {
        const struct st_row *r = st_chart_point(p->rows, p->n, l, x);
        if (!r)
            continue;
        line(p->b, "ci", plot_x(p, x), plot_y(r->low), plot_x(p, x), plot_y(r->high));
        st_buf_addf(p->b, "<circle style=\"fill:var(--c%zu)\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>",
                    number % COLOURS + 1, plot_x(p, x), plot_y(r->score));
    }
    st_buf_add_str(p->b, "\n");
    return y;
}

/* Names at the right, in the order of the lines' ends, none on top of another. */
static void names(const struct plot *p, const struct st_chart_line *lines, const double *ends, size_t n)
{
    bool done[ST_CHART_LINES] = {false};
    double at = TOP - LABEL;
    for (size_t k = 0; k < n; k++) {
        char text[44];
        size_t i = 0;
        for (size_t c = 0; c < n; c++)
            if (done[i] || (!done[c] && ends[c] < ends[i]))
                i = c;
        done[i] = true;
        at = fmax(at + LABEL, fmin(ends[i], TOP + PLOT_HIGH - LABEL * (double)(n - 1 - k)));
        snprintf(text, sizeof text, "%.43s", lines[i].name);
        line(p->b, "lead", PLOT_LEFT + PLOT_WIDE + 6, ends[i], PLOT_LEFT + PLOT_WIDE + 26, at);
        st_buf_addf(p->b, "<text style=\"fill:var(--c%zu)\" x=\"%d\" y=\"%.1f\">", i % COLOURS + 1,
                    PLOT_LEFT + PLOT_WIDE + 30, at + 4);
        st_chart_escape(p->b, text);
        st_buf_add_str(p->b, "</text>\n");
    }
}

/* Perplexity over the plain model's, minus 1: 1 and more is the top of the plot. */
static void cost_curve(const struct plot *p, const struct st_chart_line *l)
{
    bool any = false;
    for (double x = p->min_x; isfinite(x); x = st_chart_next_x(p->rows, p->n, x)) {
        const struct st_row *r = st_chart_point(p->rows, p->n, l, x);
        if (!r || !isfinite(r->cost))
            continue;
        st_buf_addf(p->b, "%s%.1f,%.1f ", any ? "" : "<polyline class=\"cost\" points=\"", plot_x(p, x),
                    plot_y(r->cost));
        any = true;
    }
    if (any)
        st_buf_addf(p->b, "\"/><text class=\"soft\" x=\"%d\" y=\"%d\">dashed: perplexity added (1 = doubled)</text>\n",
                    PLOT_LEFT + PLOT_WIDE + 6, TOP + PLOT_HIGH + 36);
}

static void axes(const struct plot *p)
{
    double last = -INFINITY;
    for (int i = 0; i <= 4; i++) {
        line(p->b, "axis", PLOT_LEFT, plot_y(i / 4.0), PLOT_LEFT + PLOT_WIDE, plot_y(i / 4.0));
        st_buf_addf(p->b, "<text class=\"soft\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>", PLOT_LEFT - 8,
                    plot_y(i / 4.0) + 4, i / 4.0);
    }
    for (double x = p->min_x; isfinite(x); x = st_chart_next_x(p->rows, p->n, x)) {
        double at = plot_x(p, x);
        if (at < last + 36)
            continue;
        last = at;
        line(p->b, "axis", at, TOP + PLOT_HIGH, at, TOP + PLOT_HIGH + 4);
        st_buf_addf(p->b, "<text class=\"soft\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>", at,
                    TOP + PLOT_HIGH + 16, x);
    }
    st_buf_addf(p->b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", PLOT_LEFT + PLOT_WIDE / 2,
                TOP + PLOT_HIGH + 36);
    st_chart_escape(p->b, p->rows[0]->x_name ? p->rows[0]->x_name : "");
    st_buf_addf(p->b, "</text><text class=\"soft\" x=\"%d\" y=\"12\">score</text>\n", PLOT_LEFT - 36);
}

void st_chart_sweep(struct st_buf *b, const struct st_row *const *rows, size_t n, bool standalone)
{
    struct plot p = {.b = b, .rows = rows, .n = n, .min_x = st_chart_next_x(rows, n, -INFINITY)};
    struct st_chart_line lines[ST_CHART_LINES];
    double ends[ST_CHART_LINES];
    size_t n_line = st_chart_lines(rows, n, lines);
    for (size_t i = 0; i < n; i++)
        p.max_x = fmax(p.max_x, rows[i]->x);
    open_svg(b, PLOT_LEFT + PLOT_WIDE + PLOT_RIGHT, TOP + PLOT_HIGH + 44, "Recovery and accuracy along a series",
             standalone);
    axes(&p);
    if (n_line)
        cost_curve(&p, &lines[0]);
    for (size_t i = 0; i < n_line; i++)
        ends[i] = curve(&p, &lines[i], i);
    names(&p, lines, ends, n_line);
    st_buf_add_str(b, "</svg>\n");
}

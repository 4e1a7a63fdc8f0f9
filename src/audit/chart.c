#include "audit/chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char st_chart_style[] =
    ":root{--ink:#1b1f24;--soft:#5b6470;--line:#d5dae0;--page:#fff;--bar:#b3402f;--mark:#1f6f4a;--full:#5b6470}"
    "@media (prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#a4adb8;--line:#3a424c;--page:#15181c;--bar:#e98a76;"
    "--mark:#74cfa2;--full:#a4adb8}}"
    "@media print{:root{--ink:#000;--soft:#333;--line:#999;--page:#fff;--bar:#555;--mark:#000;--full:#000}}"
    "svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .soft{fill:var(--soft)}"
    "svg .axis{stroke:var(--line);stroke-width:1}svg .bar{fill:var(--bar)}svg .ci{stroke:var(--ink);stroke-width:1.5}"
    "svg .chance{stroke:var(--mark);stroke-width:2}svg .full{stroke:var(--full);stroke-width:2;stroke-dasharray:3 2}"
    "svg .curve{fill:none;stroke:var(--bar);stroke-width:2}svg .cost{fill:none;stroke:var(--soft);stroke-width:2;"
    "stroke-dasharray:5 3}svg .dot{fill:var(--bar)}";

enum { LEFT = 330, WIDE = 360, RIGHT = 90, ROW = 22, TOP = 26 };

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

/* Cut to what has room before the bars. */
static void bar_name(struct st_buf *b, const struct st_row *r, double y)
{
    char name[52];
    snprintf(name, sizeof name, "%.18s%s%.30s", r->attack, *r->variant ? ": " : "", r->variant);
    st_buf_addf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT - 8, y + 15);
    st_chart_escape(b, name);
    st_buf_add_str(b, "</text>");
}

static void bar(struct st_buf *b, const struct st_row *r, double y)
{
    double at = LEFT + WIDE * clamp(r->score), mid = y + ROW / 2.0;
    bar_name(b, r, y);
    st_buf_addf(b, "<rect class=\"bar\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\"/>", LEFT, y + 4, at - LEFT,
                ROW - 8);
    line(b, "ci", LEFT + WIDE * clamp(r->low), mid, LEFT + WIDE * clamp(r->high), mid);
    line(b, "chance", LEFT + WIDE * clamp(r->chance), y + 2, LEFT + WIDE * clamp(r->chance), y + ROW - 2);
    if (isfinite(r->unprotected))
        line(b, "full", LEFT + WIDE * clamp(r->unprotected), y + 2, LEFT + WIDE * clamp(r->unprotected), y + ROW - 2);
    st_buf_addf(b, "<text class=\"soft\" x=\"%d\" y=\"%.1f\">%.3g</text>\n", LEFT + WIDE + 10, y + 15, r->score);
}

void st_chart_bars(struct st_buf *b, const struct st_row *const *rows, size_t n, bool standalone)
{
    int height = TOP + (int)n * ROW + 24;
    open_svg(b, LEFT + WIDE + RIGHT, height, "Scores of attacks, with 95 % intervals, chance and the unprotected score",
             standalone);
    for (int i = 0; i <= 4; i++) {
        double x = LEFT + WIDE * i / 4.0;
        line(b, "axis", x, TOP - 4, x, TOP + (double)n * ROW);
        st_buf_addf(b, "<text class=\"soft\" x=\"%.1f\" y=\"14\" text-anchor=\"middle\">%g</text>", x, i / 4.0);
    }
    for (size_t i = 0; i < n; i++)
        bar(b, rows[i], TOP + (double)i * ROW);
    double y = TOP + (double)n * ROW + 14;
    line(b, "chance", LEFT, y - 10, LEFT, y + 2);
    st_buf_addf(b, "<text class=\"soft\" x=\"%d\" y=\"%.1f\">chance</text>", LEFT + 6, y);
    line(b, "full", LEFT + 90, y - 10, LEFT + 90, y + 2);
    st_buf_addf(b, "<text class=\"soft\" x=\"%d\" y=\"%.1f\">without protection</text></svg>\n", LEFT + 96, y);
}

/* ---- series ---- */

enum { PLOT_LEFT = 60, PLOT_WIDE = 460, PLOT_HIGH = 220, PLOT_RIGHT = 260 };

struct plot {
    struct st_buf *b;
    const struct st_row *const *rows;
    size_t n;
    double max_x;
};

static double plot_x(const struct plot *p, double x)
{
    return PLOT_LEFT + PLOT_WIDE * (p->max_x > 0 ? clamp(x / p->max_x) : 0);
}

static double plot_y(double v)
{
    return TOP + PLOT_HIGH * (1 - clamp(v));
}

/* Attack and metric make a line; variants of it are one line each, by what stands behind the target's label. */
static const char *own_variant(const struct st_row *r)
{
    size_t n = strlen(r->target);
    const char *v = strncmp(r->variant, r->target, n) == 0 ? r->variant + n : r->variant;
    return v + strspn(v, ", ");
}

static bool same_line(const struct st_row *a, const struct st_row *b)
{
    return strcmp(a->attack, b->attack) == 0 && strcmp(a->metric, b->metric) == 0 &&
           strcmp(own_variant(a), own_variant(b)) == 0;
}

/* Sum of the scores of the line that row i begins; negative when it begins none. */
static double line_sum(const struct plot *p, size_t i)
{
    double sum = 0;
    for (size_t k = 0; k < p->n; k++) {
        if (k < i && same_line(p->rows[k], p->rows[i]))
            return -1;
        sum += same_line(p->rows[k], p->rows[i]) ? p->rows[k]->score : 0;
    }
    return sum;
}

/* Row i begins the line of its attack that lies highest, the first of those: one line per attack can be read. */
static bool highest_of_attack(const struct plot *p, size_t i)
{
    double own = line_sum(p, i);
    if (own < 0)
        return false;
    for (size_t k = 0; k < p->n; k++) {
        double other = strcmp(p->rows[k]->attack, p->rows[i]->attack) == 0 ? line_sum(p, k) : -1;
        if (other > own || (k < i && other >= own))
            return false;
    }
    return true;
}

static void curve(const struct plot *p, size_t first, int number)
{
    double y = 0;
    st_buf_add_str(p->b, "<polyline class=\"curve\" points=\"");
    for (size_t i = first; i < p->n; i++)
        if (same_line(p->rows[first], p->rows[i])) {
            y = plot_y(p->rows[i]->score);
            st_buf_addf(p->b, "%.1f,%.1f ", plot_x(p, p->rows[i]->x), y);
        }
    st_buf_add_str(p->b, "\"/>");
    for (size_t i = first; i < p->n; i++)
        if (same_line(p->rows[first], p->rows[i])) {
            double x = plot_x(p, p->rows[i]->x), at = plot_y(p->rows[i]->score);
            line(p->b, "ci", x, plot_y(p->rows[i]->low), x, plot_y(p->rows[i]->high));
            st_buf_addf(p->b, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>", x, at);
        }
    st_buf_addf(p->b, "<text x=\"%d\" y=\"%.1f\">%d</text>", PLOT_LEFT + PLOT_WIDE + 4, y + 4, number);
    st_buf_addf(p->b, "<text x=\"%d\" y=\"%d\">%d ", PLOT_LEFT + PLOT_WIDE + 24, TOP + 18 * number, number);
    st_chart_escape(p->b, p->rows[first]->attack);
    const char *v = own_variant(p->rows[first]);
    if (*v) {
        char name[26];
        snprintf(name, sizeof name, ", %.22s", v);
        st_chart_escape(p->b, name);
    }
    st_buf_add_str(p->b, "</text>\n");
}

/* Perplexity over the plain model's, minus 1: 1 and more is the top of the plot. */
static void cost_curve(const struct plot *p)
{
    bool any = false;
    for (size_t i = 0; i < p->n; i++) {
        if (!same_line(p->rows[0], p->rows[i]) || !isfinite(p->rows[i]->cost))
            continue;
        if (!any)
            st_buf_add_str(p->b, "<polyline class=\"cost\" points=\"");
        any = true;
        st_buf_addf(p->b, "%.1f,%.1f ", plot_x(p, p->rows[i]->x), plot_y(p->rows[i]->cost));
    }
    if (any)
        st_buf_addf(p->b, "\"/><text class=\"soft\" x=\"%d\" y=\"%d\">- - perplexity added (1 = doubled)</text>\n",
                    PLOT_LEFT + PLOT_WIDE + 24, TOP + PLOT_HIGH);
}

void st_chart_sweep(struct st_buf *b, const struct st_row *const *rows, size_t n, bool standalone)
{
    struct plot p = {.b = b, .rows = rows, .n = n};
    int number = 0;
    if (!n)
        return;
    for (size_t i = 0; i < n; i++)
        p.max_x = fmax(p.max_x, rows[i]->x);
    open_svg(b, PLOT_LEFT + PLOT_WIDE + PLOT_RIGHT, TOP + PLOT_HIGH + 44, "Recovery and accuracy along a series",
             standalone);
    for (int i = 0; i <= 4; i++) {
        double x = PLOT_LEFT + PLOT_WIDE * i / 4.0;
        line(b, "axis", PLOT_LEFT, plot_y(i / 4.0), PLOT_LEFT + PLOT_WIDE, plot_y(i / 4.0));
        st_buf_addf(b, "<text class=\"soft\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>", PLOT_LEFT - 8,
                    plot_y(i / 4.0) + 4, i / 4.0);
        st_buf_addf(b, "<text class=\"soft\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.3g</text>", x,
                    TOP + PLOT_HIGH + 16, p.max_x * i / 4);
    }
    st_buf_addf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", PLOT_LEFT + PLOT_WIDE / 2, TOP + PLOT_HIGH + 36);
    st_chart_escape(b, rows[0]->x_name ? rows[0]->x_name : "");
    st_buf_add_str(b, "</text>\n");
    for (size_t i = 0; i < n && number < ST_CHART_LINES; i++)
        if (highest_of_attack(&p, i))
            curve(&p, i, ++number);
    cost_curve(&p);
    st_buf_add_str(b, "</svg>\n");
}

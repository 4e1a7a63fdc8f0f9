/* Charts of an audit as SVG: bars of scores beside chance and the unprotected score, with intervals; and recovery and
 * accuracy lost along a series. Colours are CSS variables, which the style sets for light, dark and paper. */
#ifndef ST_AUDIT_CHART_H
#define ST_AUDIT_CHART_H

#include "audit/rows.h"

extern const char st_chart_style[]; /* of the variables and the classes, CSS */

/* s with & < > " ' escaped, and control characters as spaces. */
void st_chart_escape(struct st_buf *b, const char *s);
/* One row as a bar without words, as wide as its place; for a page, which has the figures beside it. */
void st_chart_bar(struct st_buf *b, const struct st_row *r);
/* What the marks mean; for a page. */
void st_chart_legend(struct st_buf *b);
/* rows[n] with their names and scores: one bar each, a picture that stands alone. */
void st_chart_bars(struct st_buf *b, const struct st_row *const *rows, size_t n);

/* Points of a series by one attack and metric (rows[n]); one line per attack that has two points or more, that of its
 * strongest variant. In a series that an attack makes itself, the last words of a row's variant tell the point. */
#define ST_CHART_LINES 12
struct st_chart_line {
    const struct st_row *first;
    char name[80]; /* "vma-columns, both: types" */
};
/* In the order of rows; returns how many, at most ST_CHART_LINES. */
size_t st_chart_lines(const struct st_row *const *rows, size_t n, struct st_chart_line out[ST_CHART_LINES]);
/* The point of a line at x; NULL = none. */
const struct st_row *st_chart_point(const struct st_row *const *rows, size_t n, const struct st_chart_line *line,
                                    double x);
/* The next x above `from` that a point has; infinite behind the last. */
double st_chart_next_x(const struct st_row *const *rows, size_t n, double from);
/* standalone: with the style and the name space. */
void st_chart_sweep(struct st_buf *b, const struct st_row *const *rows, size_t n, bool standalone);

#endif

/* Charts of an audit as SVG: bars of scores beside chance and the unprotected score, with intervals; and recovery and
 * accuracy lost along a series. Colours are CSS variables, which chart_style sets for light, dark and paper. */
#ifndef ST_AUDIT_CHART_H
#define ST_AUDIT_CHART_H

#include "audit/rows.h"

extern const char st_chart_style[]; /* of the variables and the classes, CSS */

/* s with & < > " ' escaped, and control characters as spaces. */
void st_chart_escape(struct st_buf *b, const char *s);
/* rows[n]: one bar each. standalone: with the style and the name space. */
void st_chart_bars(struct st_buf *b, const struct st_row *const *rows, size_t n, bool standalone);
/* Points of a series by one attack and metric (rows[n], by x); one line per attack, that of its strongest variant, at
 * most ST_CHART_LINES. */
#define ST_CHART_LINES 8
void st_chart_sweep(struct st_buf *b, const struct st_row *const *rows, size_t n, bool standalone);

#endif

/* What an audit found, as one HTML page (style and charts inside, no script, nothing from elsewhere), as a section of
 * Markdown, as charts of their own (SVG), and as text for a terminal. Every string is escaped. */
#ifndef ST_AUDIT_REPORT_H
#define ST_AUDIT_REPORT_H

#include "audit/audit.h"

struct st_report {
    const struct st_findings *findings;
    const char *model, *target; /* name of the base; what was given */
    const char *command;        /* how to run it again, without --attacks */
    const char *attacks;        /* those that were picked, as given; NULL = all */
    uint64_t seed;
};
/* A failed buffer says that memory was short. */
void st_report_html(const struct st_report *r, struct st_buf *out);
/* figure, series: where the charts lie, seen from the Markdown; NULL = none. */
void st_report_markdown(const struct st_report *r, const char *figure, const char *series, struct st_buf *out);
void st_report_text(const struct st_report *r, struct st_buf *out);
/* Charts that stand alone: the strongest attack of each verdict; the first series, false when there is none. */
void st_report_figure(const struct st_report *r, struct st_buf *out);
bool st_report_series(const struct st_report *r, struct st_buf *out);

#endif

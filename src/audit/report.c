#include "audit/report.h"

#include "audit/chart.h"
#include "audit/verdict.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void st_report_figure(const struct st_report *r, struct st_buf *out)
{
    struct st_verdict v[ST_VERDICT_MAX];
    const struct st_row *rows[ST_VERDICT_MAX];
    size_t n = st_verdicts(&r->findings->rows, v);
    for (size_t i = 0; i < n; i++)
        rows[i] = v[i].worst;
    st_chart_bars(out, rows, n);
}

bool st_report_series(const struct st_report *r, struct st_buf *out)
{
    const char *names[ST_ROWS_SERIES];
    size_t n;
    if (!st_rows_series(&r->findings->rows, names))
        return false;
    const struct st_row **rows = st_rows_pick(&r->findings->rows, st_row_in_series, names[0], &n);
    if (rows)
        st_chart_sweep(out, rows, n, true);
    out->failed |= !rows;
    free(rows);
    return true;
}

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
            st_buf_addf(out, "%8.3g%s\n", x->unprotected, x->in_clear ? " (read off)" : "");
        else
            st_buf_addf(out, "%8s\n", "-");
    }
    st_buf_add_str(out, "\n");
    for (size_t i = 0; i < n; i++) {
        st_buf_addf(out, "%s, %s: ", v[i].adversary, st_verdict_target(&v[i]));
        st_verdict_text(&v[i], out);
        st_buf_add_str(out, "\n");
    }
    for (size_t i = 0; i < f->n_not_run; i++)
        st_buf_addf(out, "not run: %s%s%s: %s\n", f->not_run[i].attack, *f->not_run[i].label ? ", " : "",
                    f->not_run[i].label, f->not_run[i].why);
    st_buf_add_str(out, "\nIn short, lengths and times apart:\n");
    for (int l = ST_VERDICT_ALL; l >= ST_VERDICT_NOTHING; l--) {
        struct st_buf who = {0};
        st_verdict_summary(v, n, (enum st_verdict_level)l, &who);
        if (who.len)
            st_buf_addf(out, "  %s: %s\n", st_verdict_word((enum st_verdict_level)l), who.p);
        out->failed |= who.failed;
        st_buf_free(&who);
    }
}

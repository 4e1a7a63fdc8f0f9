#include "audit/report.h"
#include "audit/verdict.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

/* How much of s a renderer would take for the head of a link that nobody wrote as one (GitHub does: "extended
 * autolinks"): what stands between it and the rest keeps them apart. */
static size_t link_head(const char *s)
{
    if (*s == '@' || strncmp(s, "://", 3) == 0)
        return 1;
    return strncasecmp(s, "www.", 4) == 0 ? 3 : 0;
}

/* Names come from files of others: they are no markup and no links, and their bars and line ends do not break a
 * table. */
static void md(struct st_buf *b, const char *s)
{
    for (size_t head; *s; s++)
        if ((head = link_head(s)) > 0) {
            st_buf_add(b, s, head);
            st_buf_add_str(b, "<!-- -->");
            s += head - 1;
        } else if (*s == '<')
            st_buf_add_str(b, "&lt;");
        else if (*s == '&')
            st_buf_add_str(b, "&amp;");
        else
            st_buf_addf(b, strchr("|\\`*[]", *s) ? "\\%c" : "%c", (unsigned char)*s < ' ' || *s == 0x7f ? ' ' : *s);
}

/* Code stands between more backticks than it has in a row. */
static void fence(struct st_buf *b, const char *code)
{
    size_t most = 0;
    for (const char *p = code; (p = strchr(p, '`')) != NULL;) {
        size_t n = strspn(p, "`");
        most = n > most ? n : most;
        p += n;
    }
    for (size_t i = 0; i <= most; i++)
        st_buf_add_str(b, "`");
}

static void line(struct st_buf *b, const char *s)
{
    for (; *s; s++)
        st_buf_add(b, (unsigned char)*s < ' ' || *s == 0x7f ? " " : s, 1);
}

static void url(struct st_buf *b, const char *path)
{
    for (; *path; path++) {
        unsigned char c = (unsigned char)*path;
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || strchr("-._~/", c);
        st_buf_addf(b, plain ? "%c" : "%%%02X", c);
    }
}

static void figures(struct st_buf *b, const struct st_row *r)
{
    st_row_score(r, b);
    st_buf_add_str(b, " | ");
    st_row_figure(r, r->chance, b);
    st_buf_add_str(b, " | ");
    st_row_unprotected(r, b);
    st_buf_add_str(b, " | ");
}

static void md_verdicts(struct st_buf *b, const struct st_rows *rows)
{
    struct st_verdict v[ST_VERDICT_MAX];
    size_t n = st_verdicts(rows, v);
    st_buf_add_str(b, "| who | of | gets | strongest attack | score (95 %) | guessing | without protection | counts |\n"
                      "|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < n; i++) {
        const struct st_row *r = v[i].worst;
        const char *own = st_row_own_variant(r);
        st_buf_addf(b, "| %s | ", r->adversary);
        md(b, st_verdict_target(&v[i]));
        st_buf_addf(b, "%s | %s | `%s`%s", v[i].traffic ? ", lengths and times" : "", st_verdict_word(v[i].level),
                    r->attack, *own ? ": " : "");
        md(b, own);
        st_buf_add_str(b, " | ");
        figures(b, r);
        md(b, r->metric);
        st_buf_add_str(b, " |\n");
    }
}

static void md_rows(struct st_buf *b, const struct st_rows *rows)
{
    st_buf_addf(b,
                "\n<details><summary>All %zu rows</summary>\n\n"
                "| attack | variant | by | score (95 %%) | guessing | without protection | n | perplexity added |\n"
                "|---|---|---|---|---|---|---|---|\n",
                rows->n);
    for (size_t i = 0; i < rows->n; i++) {
        const struct st_row *r = &rows->at[i];
        st_buf_add_str(b, "| ");
        md(b, r->attack);
        st_buf_add_str(b, " | ");
        md(b, r->variant);
        st_buf_addf(b, " | %s | ", r->adversary);
        figures(b, r);
        st_buf_addf(b, "%" PRIu64 " | ", r->n);
        st_row_cost(r, b);
        st_buf_add_str(b, " |\n");
    }
    st_buf_add_str(b, "\n</details>\n");
}

static void md_not_run(struct st_buf *b, const struct st_findings *f)
{
    if (!f->n_not_run)
        return;
    st_buf_addf(b, "\n<details><summary>Not run, which says nothing: %zu</summary>\n\n", f->n_not_run);
    for (size_t i = 0; i < f->n_not_run; i++) {
        const struct st_not_run *x = &f->not_run[i];
        st_buf_addf(b, "- `%s`%s", x->attack, *x->label ? ", " : "");
        md(b, x->label);
        st_buf_add_str(b, ": ");
        md(b, x->why);
        st_buf_add_str(b, "\n");
    }
    st_buf_add_str(b, "\n</details>\n");
}

static void md_figure(struct st_buf *b, const char *words, const char *path)
{
    if (!path)
        return;
    st_buf_addf(b, "\n![%s](", words);
    url(b, path);
    st_buf_add_str(b, ")\n");
}

void st_report_markdown(const struct st_report *r, const char *figure, const char *series, struct st_buf *out)
{
    st_buf_add_str(out, "## ");
    md(out, r->model);
    st_buf_add_str(out, "\nMade by ");
    fence(out, r->command);
    line(out, r->command);
    st_buf_addf(out, "%s%s --seed %" PRIu64, r->attacks ? " --attacks " : "", r->attacks ? r->attacks : "", r->seed);
    fence(out, r->command);
    st_buf_add_str(out, "; one row of it by `--attacks NAME`.\n\n");
    md_verdicts(out, &r->findings->rows);
    md_figure(out, "Strongest attacks, beside guessing and the unprotected score", figure);
    md_figure(out, "Recovery and accuracy along a series", series);
    md_rows(out, &r->findings->rows);
    md_not_run(out, r->findings);
    st_buf_add_str(out, "\n");
}

#include "cli/columns.h"
#include "base/buf.h"
#include "text/utf8.h"

#include <string.h>
#include <sys/ioctl.h>
#include <utf8proc.h>

int st_columns_width(int fd)
{
    struct winsize w = {0};
    if (ioctl(fd, TIOCGWINSZ, &w) != 0 || !w.ws_col)
        return 100;
    return w.ws_col < 60 ? 60 : w.ws_col > 160 ? 160 : w.ws_col;
}

/* Takes one character of *s into b as it may be shown; returns its width in columns, -1 for a line break. */
static int take(const char **s, struct st_buf *b)
{
    uint32_t cp;
    size_t n = st_utf8_next((const uint8_t *)*s, strlen(*s), &cp);
    if (n && cp == '\n') {
        *s += n;
        return -1;
    }
    int width = n ? utf8proc_charwidth((utf8proc_int32_t)cp) : 1;
    bool shown = n && cp >= 0x20 && cp != 0x7f && utf8proc_category((utf8proc_int32_t)cp) != UTF8PROC_CATEGORY_CC &&
                 utf8proc_category((utf8proc_int32_t)cp) != UTF8PROC_CATEGORY_CF;
    if (shown)
        st_buf_add(b, *s, n);
    else
        st_buf_add_str(b, "\xef\xbf\xbd");
    *s += n ? n : 1;
    return shown ? width : 1;
}

/* One wrapped line of at most `width` columns from *s; returns its width. Breaks at the last space if there is one. */
static int line_of(const char **s, int width, struct st_buf *out)
{
    const char *p = *s, *space = NULL;
    size_t space_len = 0;
    int used = 0, space_used = 0;
    st_buf_clear(out);
    while (*p) {
        const char *before = p;
        size_t len = out->len;
        int w = take(&p, out);
        if (w < 0) {
            *s = p;
            return used;
        }
        if (used + w > width) {
            *s = space ? space : before;
            out->len = space ? space_len : len;
            return space ? space_used : used;
        }
        if (*before == ' ') {
            space = p;
            space_len = len;
            space_used = used;
        }
        used += w;
    }
    *s = p;
    return used;
}

static void put(FILE *f, const struct st_buf *b, int used, int width)
{
    if (b->len && !b->failed)
        fwrite(b->p, 1, b->len, f);
    fprintf(f, "%*s", width - used > 0 ? width - used : 0, "");
}

void st_columns_print(FILE *f, int width, const char *left_title, const char *left, const char *right_title,
                      const char *right)
{
    const int column = (width - 3) / 2;
    struct st_buf a = {0}, b = {0};
    fprintf(f, "%-*.*s | %.*s\n", column, column, left_title, column, right_title);
    for (int i = 0; i < 2 * column + 3; i++)
        fputc(i == column + 1 ? '+' : '-', f);
    fputc('\n', f);
    while (*left || *right) {
        int used = line_of(&left, column, &a);
        put(f, &a, used, column);
        fputs(" | ", f);
        used = line_of(&right, column, &b);
        put(f, &b, used, 0);
        fputc('\n', f);
    }
    st_buf_wipe(&a);
    st_buf_wipe(&b);
}

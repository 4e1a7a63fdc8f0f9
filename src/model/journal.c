#include "model/journal.h"
#include "base/file.h"
#include "crypto/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BYTES_MAX ((size_t)256 << 20)
#define HEX_LEN 64

static bool unhex(const char *p, uint8_t out[32])
{
    for (int i = 0; i < HEX_LEN; i++) {
        char c = p[i];
        int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (v < 0)
            return false;
        out[i / 2] = (uint8_t)(i % 2 ? out[i / 2] | v : v << 4);
    }
    return true;
}

/* The first word in which two option lines differ. */
static int differing_option(const char *had, const char *want, struct st_err *e)
{
    size_t start = 0, i = 0;
    for (; had[i] && had[i] == want[i]; i++)
        if (had[i] == ' ')
            start = i + 1;
    return st_fail(e, ST_USAGE, "it was begun with %.*s, this run has %.*s", (int)strcspn(had + start, " "),
                   had + start, (int)strcspn(want + start, " "), want + start);
}

/* One fact of the head. */
static int check_fact(const char *line, struct st_journal_fact *f, struct st_err *e)
{
    size_t n = strlen(f->name);
    if (!line || strncmp(line, f->name, n) != 0 || line[n] != ' ' || strlen(line + n + 1) >= sizeof f->value)
        return st_fail(e, ST_INPUT, "damaged: no line '%s'", f->name);
    if (f->kept)
        memcpy(f->value, line + n + 1, strlen(line + n + 1) + 1);
    if (strcmp(line + n + 1, f->value) == 0)
        return 0;
    return f->differs ? st_fail(e, ST_USAGE, "it was %s", f->differs) : differing_option(line + n + 1, f->value, e);
}

/* The next whole line, ended in place; NULL when there is none. */
static char *next_line(char **at, char *end)
{
    char *line = *at, *nl = line < end ? memchr(line, '\n', (size_t)(end - line)) : NULL;
    if (!nl)
        return NULL;
    *nl = 0;
    *at = nl + 1;
    return line;
}

static int check_head(char **at, char *end, struct st_journal_head *h, struct st_err *e)
{
    const char *line = next_line(at, end);
    if (!line || strcmp(line, h->title) != 0)
        return st_fail(e, ST_INPUT, "not a journal of this version");
    for (size_t i = 0; i < h->n; i++) {
        int rc = check_fact(next_line(at, end), &h->fact[i], e);
        if (rc)
            return rc;
    }
    return 0;
}

/* Of equal names (a damaged tensor was made again) the later first. */
static int by_name(const void *a, const void *b)
{
    const struct st_journal_entry *x = a, *y = b;
    int d = strcmp(x->name, y->name);
    return d ? d : (x->line < y->line) - (x->line > y->line);
}

static int read_tensors(struct st_journal *j, char *at, char *end, struct st_err *e)
{
    enum { NAME_AT = 7 + HEX_LEN + 1 };
    size_t n = 0, cap = 1, kept = 0;
    for (char *p = at; p < end; p++)
        cap += *p == '\n';
    int rc = st_alloc(&j->found, cap, sizeof *j->found, "journal", e);
    if (rc)
        return rc;
    for (char *line; (line = next_line(&at, end)); n++) {
        struct st_journal_entry *t = &j->found[n];
        size_t len = strlen(line);
        if (len <= NAME_AT || len - NAME_AT >= sizeof t->name || strncmp(line, "tensor ", 7) != 0 ||
            line[NAME_AT - 1] != ' ' || !unhex(line + 7, t->sum))
            return st_fail(e, ST_INPUT, "damaged: tensor line %zu", n + 1);
        memcpy(t->name, line + NAME_AT, len - NAME_AT + 1);
        t->line = n;
    }
    qsort(j->found, n, sizeof *j->found, by_name);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || strcmp(j->found[i].name, j->found[kept - 1].name) != 0)
            j->found[kept++] = j->found[i];
    j->n_found = kept;
    return 0;
}

/* What a killed run left of its last line goes, so that the next line begins where lines do. */
static int drop_torn_line(int fd, const struct st_buf *b, const char *path, struct st_err *e)
{
    size_t len = b->len;
    while (len && b->p[len - 1] != '\n')
        len--;
    if (len == b->len || ftruncate(fd, (off_t)len) == 0)
        return 0;
    return st_fail(e, ST_IO, "%s: cannot write: %s", path, strerror(errno));
}

int st_journal_parse(struct st_journal *j, char *text, size_t len, struct st_journal_head *h, struct st_err *e)
{
    char *at = text, *end = text + len;
    int rc = check_head(&at, end, h, e);
    return rc ? rc : read_tensors(j, at, end, e);
}

static int read_journal(struct st_journal *j, const char *path, struct st_journal_head *h, struct st_err *e)
{
    struct st_buf text = {0};
    int rc = st_file_read(path, BYTES_MAX, &text, e);
    if (!rc)
        rc = drop_torn_line(j->fd, &text, path, e);
    if (!rc && st_journal_parse(j, text.p, text.len, h, e))
        rc = st_err_prefix(e, "%s", path);
    st_buf_free(&text);
    return rc;
}

static int create(const char *path, const struct st_journal_head *h, struct st_err *e)
{
    struct st_buf text = {0};
    st_buf_addf(&text, "%s\n", h->title);
    for (size_t i = 0; i < h->n; i++)
        st_buf_addf(&text, "%s %s\n", h->fact[i].name, h->fact[i].value);
    int rc = text.failed ? st_fail(e, ST_MEMORY, "journal: out of memory")
                         : st_file_write(path, text.p, text.len, 0600, true, e);
    st_buf_free(&text);
    return rc;
}

int st_journal_open(struct st_journal *j, const char *path, struct st_journal_head *h, struct st_err *e)
{
    *j = (struct st_journal){0};
    int rc = st_path_exists(path) ? 0 : create(path, h, e);
    if (rc)
        return rc;
    j->fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    if (j->fd < 0)
        return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    j->open = true;
    rc = read_journal(j, path, h, e);
    if (rc)
        st_journal_close(j);
    return rc;
}

int st_journal_add(struct st_journal *j, const char *name, const uint8_t sum[32], struct st_err *e)
{
    char hex[HEX_LEN + 1], line[320];
    st_hex(sum, 32, hex);
    int n = snprintf(line, sizeof line, "tensor %s %s\n", hex, name);
    /* One write: the line is there whole, or torn and dropped. */
    if (n <= 0 || (size_t)n >= sizeof line || write(j->fd, line, (size_t)n) != n)
        return st_fail(e, ST_IO, "journal: cannot write: %s", strerror(errno));
    atomic_fetch_add(&j->n_noted, 1);
    return 0;
}

const uint8_t *st_journal_find(const struct st_journal *j, const char *name)
{
    size_t lo = 0, hi = j->n_found;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int d = strcmp(name, j->found[mid].name);
        if (d == 0)
            return j->found[mid].sum;
        if (d < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

void st_journal_close(struct st_journal *j)
{
    if (j->open)
        close(j->fd);
    free(j->found);
    *j = (struct st_journal){0};
}

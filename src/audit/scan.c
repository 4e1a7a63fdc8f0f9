#include "audit/scan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 1 << 20 };

static uint32_t key_of(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return (uint32_t)(v * 2654435761u) >> 18;
}

bool st_scan_add(struct st_scan_patterns *s, const uint8_t *p)
{
    uint32_t at = key_of(p);
    if (s->n == ST_SCAN_MAX)
        return false;
    for (int i = 0; i < ST_SCAN_LEN; i++)
        s->p[s->n][i] = p[i] ^ ST_SCAN_XOR;
    while (s->slot[at])
        at = (at + 1) % ST_SCAN_SLOTS;
    s->slot[at] = (uint16_t)++s->n;
    return true;
}

static bool is_at(const uint8_t *masked, const uint8_t *p)
{
    for (int i = 0; i < ST_SCAN_LEN; i++)
        if ((uint8_t)(masked[i] ^ ST_SCAN_XOR) != p[i])
            return false;
    return true;
}

bool st_scan_bytes(const struct st_scan_patterns *s, const uint8_t *p, size_t len, bool *found)
{
    bool any = false;
    for (size_t i = 0; i + ST_SCAN_LEN <= len; i++)
        for (uint32_t at = key_of(p + i); s->slot[at]; at = (at + 1) % ST_SCAN_SLOTS) {
            const size_t k = s->slot[at] - 1u;
            if (is_at(s->p[k], p + i))
                found[k] = any = true;
        }
    return any;
}

struct area {
    uint64_t from, to;
    bool dd;
    char name[120];
};

/* NULL with errno. */
static struct area *areas_of(pid_t pid, size_t *n)
{
    char path[64], line[512];
    struct area *a = NULL;
    size_t cap = 0;
    *n = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return NULL;
    while (fgets(line, sizeof line, f)) {
        unsigned long long from, to;
        char perms[8], name[120] = "";
        if (sscanf(line, "%llx-%llx %7s %*s %*s %*s %119[^\n]", &from, &to, perms, name) >= 3) {
            if (*n == cap) {
                struct area *more = realloc(a, (cap ? 2 * cap : 256) * sizeof *a);
                if (!more) {
                    free(a);
                    a = NULL;
                    break;
                }
                a = more;
                cap = cap ? 2 * cap : 256;
            }
            a[*n] = (struct area){.from = from, .to = to};
            snprintf(a[(*n)++].name, sizeof a->name, "%s %s", perms, name);
        } else if (*n && strncmp(line, "VmFlags:", 8) == 0)
            a[*n - 1].dd = strstr(line, " dd") != NULL;
    }
    fclose(f);
    return a;
}

static size_t count(const bool *found, size_t n)
{
    size_t hits = 0;
    for (size_t i = 0; i < n; i++)
        hits += found[i];
    return hits;
}

int st_scan_process(pid_t pid, struct st_scan_patterns *s, struct st_scan_result *out)
{
    char path[64];
    size_t n = 0;
    *out = (struct st_scan_result){0};
    memset(s->open, 0, sizeof s->open);
    memset(s->apart, 0, sizeof s->apart);
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    uint8_t *chunk = malloc(CHUNK);
    struct area *areas = chunk ? areas_of(pid, &n) : NULL;
    for (size_t i = 0; areas && i < n && count(s->open, s->n) < s->n; i++) {
        const struct area *a = &areas[i];
        if (a->from <= (uintptr_t)chunk && (uintptr_t)chunk < a->to && pid == getpid())
            continue; /* what is read lies there */
        for (uint64_t at = a->from; at + ST_SCAN_LEN <= a->to; at += CHUNK - ST_SCAN_LEN + 1) {
            size_t want = a->to - at < CHUNK ? (size_t)(a->to - at) : CHUNK;
            ssize_t got = pread(fd, chunk, want, (off_t)at);
            if (got <= 0) {
                out->unreadable += a->to - at;
                break;
            }
            out->scanned += (uint64_t)got;
            if (st_scan_bytes(s, chunk, (size_t)got, a->dd ? s->apart : s->open) && !a->dd && !*out->where)
                snprintf(out->where, sizeof out->where, "%llx-%llx %s", (unsigned long long)a->from,
                         (unsigned long long)a->to, a->name);
            if ((size_t)got < want)
                break;
        }
        out->apart += a->dd ? a->to - a->from : 0;
    }
    out->n_open = count(s->open, s->n);
    out->n_apart = count(s->apart, s->n);
    if (chunk)
        memset(chunk, 0, CHUNK);
    free(chunk);
    free(areas);
    close(fd);
    if (!out->scanned) {
        errno = EIO;
        return -1;
    }
    return 0;
}

int st_scan_file(const char *path, struct st_scan_patterns *s, struct st_scan_result *out)
{
    uint8_t *chunk = malloc(CHUNK);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = -1;
    *out = (struct st_scan_result){0};
    memset(s->open, 0, sizeof s->open);
    memset(s->apart, 0, sizeof s->apart);
    if (chunk && fd >= 0)
        for (off_t at = 0; (got = pread(fd, chunk, CHUNK, at)) >= ST_SCAN_LEN; at += got - ST_SCAN_LEN + 1) {
            out->scanned += (uint64_t)got;
            st_scan_bytes(s, chunk, (size_t)got, s->open);
        }
    out->n_open = count(s->open, s->n);
    if (chunk)
        memset(chunk, 0, CHUNK);
    free(chunk);
    if (fd >= 0)
        close(fd);
    return got < 0 ? -1 : 0;
}

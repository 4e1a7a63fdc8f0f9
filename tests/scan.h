/* Looks for known bytes in the memory of a process: every mapping of /proc/PID/smaps is read through /proc/PID/mem.
 * What is found in areas that the kernel leaves out of dumps (flag dd: base/locked.h, base/secret.h) is counted apart.
 *
 * The patterns themselves are kept XORed with a byte, so that a process that scans itself does not find its own list;
 * whoever makes the list must do so in another process. */
#ifndef ST_TESTS_SCAN_H
#define ST_TESTS_SCAN_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { SCAN_LEN = 32, SCAN_MAX = 4096, SCAN_XOR = 0x5a, SCAN_CHUNK = 1 << 20, SCAN_SLOTS = 1 << 14 };

struct scan_patterns {
    size_t n;
    uint8_t p[SCAN_MAX][SCAN_LEN];        /* each byte ^ SCAN_XOR */
    uint16_t slot[SCAN_SLOTS];            /* by the first four bytes; number + 1, 0 = free */
    bool open[SCAN_MAX], apart[SCAN_MAX]; /* found in ordinary memory; in areas left out of dumps */
};

struct scan_result {
    size_t n_open, n_apart;              /* patterns found in ordinary memory; in areas left out of dumps */
    uint64_t scanned, unreadable, apart; /* bytes */
    char where[160];                     /* the first mapping of ordinary memory that holds one */
};

static inline uint32_t scan_key(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return (uint32_t)(v * 2654435761u) >> 18;
}

/* p is plain; false: the list is full. */
static inline bool scan_add(struct scan_patterns *s, const uint8_t *p)
{
    uint32_t at = scan_key(p);
    if (s->n == SCAN_MAX)
        return false;
    for (int i = 0; i < SCAN_LEN; i++)
        s->p[s->n][i] = p[i] ^ SCAN_XOR;
    while (s->slot[at])
        at = (at + 1) % SCAN_SLOTS;
    s->slot[at] = (uint16_t)++s->n;
    return true;
}

static inline bool scan_is(const uint8_t *masked, const uint8_t *p)
{
    for (int i = 0; i < SCAN_LEN; i++)
        if ((uint8_t)(masked[i] ^ SCAN_XOR) != p[i])
            return false;
    return true;
}

/* Marks in `found`; true when one is there. */
static inline bool scan_bytes(const struct scan_patterns *s, const uint8_t *p, size_t len, bool *found)
{
    bool any = false;
    for (size_t i = 0; i + SCAN_LEN <= len; i++)
        for (uint32_t at = scan_key(p + i); s->slot[at]; at = (at + 1) % SCAN_SLOTS) {
            const size_t k = s->slot[at] - 1u;
            if (scan_is(s->p[k], p + i))
                found[k] = any = true;
        }
    return any;
}

struct scan_area {
    uint64_t from, to;
    bool dd;
    char name[120];
};

static inline struct scan_area *scan_areas(pid_t pid, size_t *n)
{
    char path[64], line[512];
    struct scan_area *a = NULL;
    size_t cap = 0;
    *n = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long long from, to;
        char perms[8], name[120] = "";
        if (sscanf(line, "%llx-%llx %7s %*s %*s %*s %119[^\n]", &from, &to, perms, name) >= 3) {
            if (*n == cap && !(a = realloc(a, (cap = cap ? 2 * cap : 256) * sizeof *a)))
                abort();
            a[*n] = (struct scan_area){.from = from, .to = to};
            snprintf(a[(*n)++].name, sizeof a->name, "%s %s", perms, name);
        } else if (*n && strncmp(line, "VmFlags:", 8) == 0)
            a[*n - 1].dd = strstr(line, " dd") != NULL;
    }
    if (f)
        fclose(f);
    return a;
}

/* pid: of this process or another. -1 with errno when its memory cannot be opened or read at all. */
static inline int scan_process(pid_t pid, struct scan_patterns *s, struct scan_result *out)
{
    char path[64];
    size_t n = 0;
    *out = (struct scan_result){0};
    memset(s->open, 0, sizeof s->open);
    memset(s->apart, 0, sizeof s->apart);
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    uint8_t *chunk = malloc(SCAN_CHUNK);
    struct scan_area *areas = chunk ? scan_areas(pid, &n) : NULL;
    for (size_t i = 0; i < n; i++) {
        const struct scan_area *a = &areas[i];
        if (a->from <= (uintptr_t)chunk && (uintptr_t)chunk < a->to && pid == getpid())
            continue; /* what is read lies there */
        for (uint64_t at = a->from; at + SCAN_LEN <= a->to; at += SCAN_CHUNK - SCAN_LEN + 1) {
            size_t want = a->to - at < SCAN_CHUNK ? (size_t)(a->to - at) : SCAN_CHUNK;
            ssize_t got = pread(fd, chunk, want, (off_t)at);
            if (got <= 0) {
                out->unreadable += a->to - at;
                break;
            }
            out->scanned += (uint64_t)got;
            if (scan_bytes(s, chunk, (size_t)got, a->dd ? s->apart : s->open) && !a->dd && !*out->where)
                snprintf(out->where, sizeof out->where, "%llx-%llx %s", (unsigned long long)a->from,
                         (unsigned long long)a->to, a->name);
            if ((size_t)got < want)
                break;
        }
        out->apart += a->dd ? a->to - a->from : 0;
    }
    for (size_t k = 0; k < s->n; k++) {
        out->n_open += s->open[k];
        out->n_apart += s->apart[k];
    }
    if (chunk)
        memset(chunk, 0, SCAN_CHUNK);
    free(chunk);
    free(areas);
    close(fd);
    if (!out->scanned) {
        errno = EIO;
        return -1;
    }
    return 0;
}

#endif

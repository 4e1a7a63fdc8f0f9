#include "base/mem.h"
#include "base/buf.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

size_t st_mem_available(void)
{
    size_t bytes = SIZE_MAX;
    FILE *f = fopen("/proc/meminfo", "re");
    if (f) {
        char line[128];
        unsigned long long kib;
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
                bytes = (size_t)kib * 1024;
        fclose(f);
    }
    struct rlimit as;
    if (!getrlimit(RLIMIT_AS, &as) && as.rlim_cur != RLIM_INFINITY && as.rlim_cur < bytes)
        bytes = (size_t)as.rlim_cur;
    return bytes;
}

size_t st_mem_peak(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return (size_t)kib * 1024;
}

int st_area_new(struct st_area *a, size_t n, size_t size, const char *what, struct st_err *e)
{
    size_t len;
    *a = (struct st_area){0};
    if (!st_mul_size(n, size, &len))
        return st_fail(e, ST_MEMORY, "%s: %zu x %zu bytes do not fit in memory", what, n, size);
    if (!len)
        len = 1;
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return st_fail(e, ST_MEMORY, "%s: needs %zu bytes of memory: %s", what, len, strerror(errno));
    a->p = p;
    a->len = len;
    return 0;
}

void st_area_free(struct st_area *a)
{
    if (a->p)
        munmap(a->p, a->len);
    *a = (struct st_area){0};
}

void st_area_huge(const struct st_area *a)
{
    (void)madvise(a->p, a->len, MADV_HUGEPAGE);
}

void st_warm(const void *p, size_t len)
{
    for (size_t at = 0; at < len; at += 64)
        (void)*((const volatile uint8_t *)p + at);
}

const char *st_mem_text(size_t bytes, char out[ST_MEM_TEXT])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    int u = 0;
    while (v >= 1024 && u < 6) {
        v /= 1024;
        u++;
    }
    snprintf(out, ST_MEM_TEXT, u ? "%.1f %s" : "%.0f %s", v, unit[u]);
    return out;
}

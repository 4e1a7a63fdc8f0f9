#include "base/log.h"
#include "base/hooks.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int max_level = ST_LOG_INFO;

void st_log_set_level(enum st_log_level level)
{
    atomic_store(&max_level, (int)level);
}

void st_log(enum st_log_level level, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    if ((int)level > atomic_load(&max_level))
        return;
    char line[1024], when[32];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20)
            *c = '?';
    fprintf(stderr, "%s %s %s\n", when, names[level], line);
}

void st_progress_start(struct st_progress *p, const char *label, const char *unit, uint64_t total)
{
    double now = st_now();
    *p = (struct st_progress){label, unit, total, now, now, isatty(STDERR_FILENO)};
}

static void amount(char *out, size_t cap, double v, const char *unit)
{
    static const char *const steps[] = {"", "Ki", "Mi", "Gi", "Ti"};
    int i = 0;
    if (strcmp(unit, "B") == 0)
        for (; v >= 1024 && i < 4; i++)
            v /= 1024;
    snprintf(out, cap, i ? "%.1f %s%s" : "%.0f %s%s", v, steps[i], unit);
}

static void draw(const struct st_progress *p, uint64_t done, double now)
{
    char bar[31], have[32], rate[32];
    double part = p->total ? (double)done / (double)p->total : 1;
    int full = (int)(part * 30);
    for (int i = 0; i < 30; i++)
        bar[i] = i < full ? '#' : '.';
    bar[30] = 0;
    double took = now - p->start, speed = took > 0 ? (double)done / took : 0;
    amount(have, sizeof have, (double)done, p->unit);
    amount(rate, sizeof rate, speed, p->unit);
    double eta = speed > 0 ? (double)(p->total - done) / speed : 0;
    fprintf(stderr, "\r%s [%s] %3.0f%%  %s  %s/s  %d:%02d left \033[K", p->label, bar, part * 100, have, rate,
            (int)eta / 60, (int)eta % 60);
    fflush(stderr);
}

void st_progress_update(struct st_progress *p, uint64_t done)
{
    double now = st_now();
    if (!p->on || now - p->start < 0.5 || now - p->last < 0.1)
        return;
    p->last = now;
    draw(p, done > p->total ? p->total : done, now);
}

void st_progress_end(struct st_progress *p)
{
    if (p->on && p->last > p->start)
        fprintf(stderr, "\r\033[K");
}

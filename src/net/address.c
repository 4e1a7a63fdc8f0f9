#include "net/address.h"

#include <stdbool.h>
#include <string.h>

static const struct {
    const char *prefix;
    enum st_address_kind kind;
} kinds[] = {
    {"tcp://", ST_ADDRESS_TCP}, {"tls://", ST_ADDRESS_TLS}, {"unix:", ST_ADDRESS_UNIX}, {"shm:", ST_ADDRESS_SHM}};

/* 0..65535 in digits alone, else -1. */
static int port_of(const char *s)
{
    int port = 0;
    size_t n = strlen(s);
    if (n < 1 || n > 5 || strspn(s, "0123456789") != n)
        return -1;
    for (; *s; s++)
        port = port * 10 + (*s - '0');
    return port <= 65535 ? port : -1;
}

static int parse_host(const char *text, const char *host, int default_port, struct st_address *out, struct st_err *e)
{
    bool brackets = host[0] == '[';
    const char *from = host + brackets, *end = brackets ? strchr(from, ']') : from + strcspn(from, ":");
    if (!end)
        return st_fail(e, ST_USAGE, "%s: `]` is missing behind the host", text);
    size_t len = (size_t)(end - from);
    if (len == 0 || len >= sizeof out->host)
        return st_fail(e, ST_USAGE, "%s: want a host of 1 to %zu characters", text, sizeof out->host - 1);
    if (!brackets && strcspn(from, " /?#@") < len)
        return st_fail(e, ST_USAGE, "%s: want HOST:PORT and nothing else", text);
    memcpy(out->host, from, len);
    out->host[len] = 0;
    end += brackets;
    out->port = *end == ':' ? port_of(end + 1) : *end ? -1 : default_port;
    if (out->port < 0)
        return st_fail(e, ST_USAGE, "%s: want a port from 0 to 65535 behind the host (IPv6 in brackets)", text);
    return 0;
}

int st_address_parse(const char *text, int default_port, struct st_address *out, struct st_err *e)
{
    *out = (struct st_address){0};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t n = strlen(kinds[i].prefix);
        if (strncmp(text, kinds[i].prefix, n) != 0)
            continue;
        out->kind = kinds[i].kind;
        if (out->kind == ST_ADDRESS_TCP || out->kind == ST_ADDRESS_TLS)
            return parse_host(text, text + n, default_port, out, e);
        size_t len = strlen(text + n);
        if (len == 0 || len >= sizeof out->path.sun_path)
            return st_fail(e, ST_USAGE, "%s: want a path of 1 to %zu bytes", text, sizeof out->path.sun_path - 1);
        out->path.sun_family = AF_UNIX;
        memcpy(out->path.sun_path, text + n, len + 1);
        return 0;
    }
    return st_fail(e, ST_USAGE, "%s: want tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or shm:PATH", text);
}

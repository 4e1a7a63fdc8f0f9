#include "net/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Addresses of a host; brackets around IPv6 are taken off. */
static struct addrinfo *resolve(const char *host, int port)
{
    char name[256], service[16];
    size_t n = strlen(host);
    bool brackets = n >= 2 && host[0] == '[' && host[n - 1] == ']';
    int w = snprintf(name, sizeof name, "%.*s", (int)(brackets ? n - 2 : n), host + brackets);
    if (w < 0 || (size_t)w >= sizeof name)
        return NULL;
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    return getaddrinfo(name, service, &hints, &list) == 0 ? list : NULL;
}

static int port_of(int fd)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len) != 0)
        return 0;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
                                         : ((struct sockaddr_in *)&a)->sin_port);
}

static int open_one(const struct addrinfo *a)
{
    int one = 1;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 1024) != 0) {
        int err = errno;
        close(fd);
        errno = err;
        return -1;
    }
    return fd;
}

int st_net_listen(const char *host, int port, int *fd, int *bound, struct st_err *e)
{
    struct addrinfo *list = resolve(host, port);
    if (!list)
        return st_fail(e, ST_USAGE, "%s: want an address or a name of this machine to listen on", host);
    /* "localhost" may mean both families; clients try IPv4 first or fall back to it. */
    const struct addrinfo *a = list;
    for (const struct addrinfo *i = list; i; i = i->ai_next)
        if (i->ai_family == AF_INET) {
            a = i;
            break;
        }
    int rc = 0;
    *fd = open_one(a);
    if (*fd < 0) {
        const char *why = errno == EADDRINUSE ? "address already in use" : strerror(errno);
        bool v6 = strchr(host, ':') && host[0] != '[';
        rc = st_fail(e, ST_IO, v6 ? "[%s]:%d: %s" : "%s:%d: %s", host, port, why);
    } else
        *bound = port_of(*fd);
    freeaddrinfo(list);
    return rc;
}

bool st_net_is_loopback(const char *host)
{
    struct addrinfo *list = resolve(host, 0);
    bool all = list != NULL;
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        if (a->ai_family == AF_INET)
            all = all && ntohl(((struct sockaddr_in *)(void *)a->ai_addr)->sin_addr.s_addr) >> 24 == 127;
        else if (a->ai_family == AF_INET6)
            all = all && IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)(void *)a->ai_addr)->sin6_addr);
        else
            all = false;
    }
    if (list)
        freeaddrinfo(list);
    return all;
}

uint64_t st_net_source(const struct sockaddr *a, socklen_t len)
{
    uint64_t first = 0;
    uint32_t v4 = 0;
    if (a->sa_family == AF_INET && len >= sizeof(struct sockaddr_in))
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr;
    if (a->sa_family != AF_INET6 || len < sizeof(struct sockaddr_in6))
        return 0;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    memcpy(&first, v6->s6_addr, sizeof first);
    memcpy(&v4, v6->s6_addr + 12, sizeof v4);
    return IN6_IS_ADDR_V4MAPPED(v6) ? v4 : first;
}

void st_net_name(const struct sockaddr *a, socklen_t len, char *out, size_t cap)
{
    char text[INET6_ADDRSTRLEN] = "";
    if (a->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)a)->sin_addr, text, sizeof text);
        snprintf(out, cap, "%s", text);
    } else if (a->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
        const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
        bool mapped = IN6_IS_ADDR_V4MAPPED(v6);
        inet_ntop(mapped ? AF_INET : AF_INET6, mapped ? (const void *)&v6->s6_addr[12] : v6, text, sizeof text);
        snprintf(out, cap, mapped ? "%s" : "[%s]", text);
    } else
        snprintf(out, cap, "local");
}

void st_net_tune(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
}

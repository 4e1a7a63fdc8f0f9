#include "protect/masked/vmgen.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define KERNEL_GROUP 1 /* group 2 is what udev sends on */
#define MAX_MESSAGE 8192

/* One record, "5,1234,567890,-;random: ...\n". The first number is facility * 8 + level; a program that writes to the
 * log cannot claim the kernel's facility, 0. */
static ssize_t read_log(void *ctx, void *buf, size_t cap, bool *from_kernel)
{
    const struct st_vmgen *v = ctx;
    ssize_t n;
    while ((n = read(v->log, buf, cap - 1)) < 0 && errno == EINTR)
        ;
    if (n < 0)
        return errno == EAGAIN ? 0 : -1; /* EPIPE: records were overwritten before they were read */
    ((char *)buf)[n] = 0;
    *from_kernel = strtoul(buf, NULL, 10) < 8;
    return n;
}

static ssize_t read_uevent(void *ctx, void *buf, size_t cap, bool *from_kernel)
{
    const struct st_vmgen *v = ctx;
    struct sockaddr_nl from = {0};
    socklen_t len = sizeof from;
    ssize_t n;
    while ((n = recvfrom(v->uevent, buf, cap, MSG_DONTWAIT, (struct sockaddr *)&from, &len)) < 0 && errno == EINTR)
        ;
    if (n < 0)
        return errno == EAGAIN ? 0 : -1; /* ENOBUFS: the queue ran over */
    *from_kernel = len == sizeof from && from.nl_pid == 0;
    return n;
}

/* A driver's folder links to the devices that it has, and to its module. */
static bool driver_has_device(const char *path)
{
    const struct dirent *d;
    bool found = false;
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    while (!found && (d = readdir(dir)) != NULL)
        found = d->d_type == DT_LNK && strcmp(d->d_name, "module") != 0;
    closedir(dir);
    return found;
}

static int open_uevent(void)
{
    struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_groups = KERNEL_GROUP};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&to, sizeof to)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Some containers link /dev/kmsg to a console: only the kernel's own log will do. */
static int open_log(void)
{
    struct stat st;
    int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd >= 0 && (fstat(fd, &st) || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 11) || lseek(fd, 0, SEEK_END))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

void st_vmgen_open(struct st_vmgen *v)
{
    *v = (struct st_vmgen){.log = open_log(), .uevent = -1};
    if (v->log < 0)
        v->uevent = open_uevent();
    if (v->log >= 0)
        v->sources[v->n_source++] = (struct st_vmgen_source){read_log, v};
    if (v->uevent >= 0)
        v->sources[v->n_source++] = (struct st_vmgen_source){read_uevent, v};
    if (!driver_has_device("/sys/bus/platform/drivers/vmgenid") && !driver_has_device("/sys/bus/acpi/drivers/vmgenid"))
        v->text = "not watched: this machine has no generation id (vmgenid)";
    else if (v->log < 0)
        v->text = "not watched: the kernel log cannot be read (kernel.dmesg_restrict)";
    else
        v->text = "watched";
}

void st_vmgen_open_source(struct st_vmgen *v, const struct st_vmgen_source *s)
{
    *v = (struct st_vmgen){.sources = {*s}, .n_source = 1, .log = -1, .uevent = -1, .text = "watched"};
}

void st_vmgen_close(struct st_vmgen *v)
{
    if (v->log >= 0)
        close(v->log);
    if (v->uevent >= 0)
        close(v->uevent);
    *v = (struct st_vmgen){.log = -1, .uevent = -1};
}

static bool is_new_generation(const char *p, size_t len)
{
    static const char line[] = ";random: crng reseeded due to virtual machine fork", field[] = "NEW_VMGENID=";
    if (memmem(p, len, line, sizeof line - 1))
        return true;
    /* "change@/devices/...\0ACTION=change\0...\0NEW_VMGENID=1\0" */
    while (len) {
        size_t n = strnlen(p, len);
        if (n >= sizeof field - 1 && memcmp(p, field, sizeof field - 1) == 0)
            return true;
        n += n < len; /* the NUL */
        p += n;
        len -= n;
    }
    return false;
}

static bool changed(const struct st_vmgen_source *s)
{
    char message[MAX_MESSAGE];
    bool found = false;
    for (;;) {
        bool from_kernel = false;
        ssize_t n = s->read(s->ctx, message, sizeof message, &from_kernel);
        if (n < 0)
            return true;
        if (!n)
            return found;
        found = found || (from_kernel && is_new_generation(message, (size_t)n));
    }
}

bool st_vmgen_changed(struct st_vmgen *v)
{
    bool found = false;
    for (int i = 0; i < v->n_source; i++)
        found |= changed(&v->sources[i]);
    return found;
}

const char *st_vmgen_describe(const struct st_vmgen *v)
{
    return v->text;
}

/* What a process gives up once it has started, so that whoever takes it over gains little: seccomp (a list of system
 * calls; libseccomp), Landlock (paths, TCP ports; the kernel's own interface), no new privileges, no core dump.
 *
 * After st_sandbox_enter() the process serves what it listens on, and no more: it opens no file but those named, for
 * writing none but those named; it executes nothing, traces nothing, forks nothing, maps nothing as code; it makes no
 * sockets but Unix stream sockets when these are asked for and, when ports are named, TCP sockets that connect to
 * these; it listens on nothing new. All of these fail with EPERM or EACCES, so that a library that tries is not the
 * end; a system call that is not in sandbox.c's list at all ends the process.
 *
 * Limits. seccomp reads no memory: which address a connection goes to is not checked here, only (with Landlock of
 * Linux 6.7) its port; rules for addresses are the service manager's (IPAddressAllow=localhost). Landlock does not know
 * Unix sockets with a path. Without Landlock, what is named for writing cannot be told from the rest, and reading is
 * free. Landlock holds the calling thread and those it starts: call this before any thread runs, after whatever needs
 * more (sockets that listen, a TPM's connection, libraries by dlopen) is done. Files that are open stay open.
 * A program that needs threads before it has opened everything goes in two steps: st_sandbox_files() while it is one
 * thread, naming all that it still reads, and where it will listen; st_sandbox_calls(), which holds every thread, when
 * the rest is done.
 * A process built with a sanitizer is not restricted (its runtime needs more); the state says so. */
#ifndef ST_BASE_SANDBOX_H
#define ST_BASE_SANDBOX_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct st_sandbox {
    /* Files, or directories with all that is below, that may still be opened: for reading, and for reading, writing,
     * making and removing. They must be there. */
    const char *const *read;
    size_t n_read;
    const char *const *write;
    size_t n_write;
    /* TCP ports that may be connected to; none: no TCP sockets are made at all. */
    const uint16_t *ports;
    size_t n_port;
    const uint16_t *listen; /* st_sandbox_files(): TCP ports to bind; 0 = one that the system chooses */
    size_t n_listen;
    /* Unix stream sockets may be made. Which paths they connect to nothing here knows: with them, whoever takes the
     * process over talks to every service of the machine that lets its user in. */
    bool unix_sockets;
    bool no_files; /* st_sandbox_calls(): no file at all is opened any more, named or not */
    bool nvidia;   /* the requests of NVIDIA's driver pass (ioctl) */
};

struct st_sandbox_state {
    bool syscalls;     /* seccomp is on */
    bool files;        /* Landlock holds files */
    bool ports;        /* Landlock holds TCP ports */
    char landlock[96]; /* why it is off, or "ABI 7" */
};

/* Both steps. Cannot be taken back. IO: the kernel refuses seccomp, or a path is not there; nothing is restricted then,
 * or only files are: end the process. */
int st_sandbox_enter(const struct st_sandbox *s, struct st_sandbox_state *out, struct st_err *e) ST_MUST_CHECK;
/* The first step: Landlock, no new privileges, no core dump. *out begins with it. */
int st_sandbox_files(const struct st_sandbox *s, struct st_sandbox_state *out, struct st_err *e) ST_MUST_CHECK;
/* The second: the list of system calls, for all threads. */
int st_sandbox_calls(const struct st_sandbox *s, struct st_sandbox_state *state, struct st_err *e) ST_MUST_CHECK;

#endif

/* What a process can no longer do behind st_sandbox_enter(), and that it still serves. Each probe is a process of its
 * own: entering cannot be taken back. */
#include "expect.h"

#include "base/priority.h"
#include "base/sandbox.h"
#include "net/http_client.h"
#include "net/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct place {
    char dir[64], readable[96], writable[96], other[96];
};

static struct place place;
static uint16_t port_open, port_shut; /* of two listening sockets */
static int listeners[2];

static uint16_t listen_somewhere(int *fd)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(*fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(*fd, 4), 0);
    assert_int_equal(getsockname(*fd, (struct sockaddr *)&a, &len), 0);
    return ntohs(a.sin_port);
}

static int setup(void **state)
{
    (void)state;
    snprintf(place.dir, sizeof place.dir, "/tmp/sotto_sandbox_XXXXXX");
    assert_non_null(mkdtemp(place.dir));
    snprintf(place.readable, sizeof place.readable, "%s/readable", place.dir);
    snprintf(place.writable, sizeof place.writable, "%s/writable", place.dir);
    snprintf(place.other, sizeof place.other, "%s/other", place.dir);
    assert_int_equal(mkdir(place.readable, 0700), 0);
    assert_int_equal(mkdir(place.writable, 0700), 0);
    close(open(place.other, O_CREAT | O_WRONLY, 0600));
    port_open = listen_somewhere(&listeners[0]);
    port_shut = listen_somewhere(&listeners[1]);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close(listeners[0]);
    close(listeners[1]);
    rmdir(place.readable);
    rmdir(place.writable);
    unlink(place.other);
    rmdir(place.dir);
    return 0;
}

/* 0, or what stood in errno. */
#define TRY(call) ((errno = 0, (call) < 0) ? errno : 0)
#define NOT_RESTRICTED 200
#define FAILED 201

enum { MAY_READ = 1, MAY_WRITE = 2, MAY_CONNECT = 4, MAY_UNIX = 8 };

static int enter(unsigned may, struct st_sandbox_state *state)
{
    const char *const read[] = {place.readable}, *const write[] = {place.writable};
    struct st_err e = {0};
    const struct st_sandbox s = {.read = read,
                                 .n_read = may & MAY_READ ? 1 : 0,
                                 .write = write,
                                 .n_write = may & MAY_WRITE ? 1 : 0,
                                 .ports = &port_open,
                                 .n_port = may & MAY_CONNECT ? 1 : 0,
                                 .unix_sockets = may & MAY_UNIX};
    if (st_sandbox_enter(&s, state, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return FAILED;
    }
    return state->syscalls ? 0 : NOT_RESTRICTED;
}

/* The exit status of a child that enters and then calls probe; minus the signal that ended it. */
static int probed(unsigned may, int (*probe)(const struct st_sandbox_state *s))
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        struct st_sandbox_state state;
        int rc = enter(may, &state);
        _exit(rc ? rc : probe(&state));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* False, with a line that says so, where a sanitizer keeps the process free. */
static bool expect_probe(unsigned may, int (*probe)(const struct st_sandbox_state *s), int want)
{
    int got = probed(may, probe);
    if (got == NOT_RESTRICTED) {
        print_message("skips: built with a sanitizer, nothing is restricted\n");
        return false;
    }
    assert_int_equal(got, want);
    return true;
}

/* ---- files ---- */

static int write_anywhere(const struct st_sandbox_state *s)
{
    (void)s;
    return TRY(open(place.other, O_WRONLY));
}

static int make_anywhere(const struct st_sandbox_state *s)
{
    char path[128];
    (void)s;
    snprintf(path, sizeof path, "%s/new", place.readable);
    return TRY(open(path, O_CREAT | O_RDONLY, 0600));
}

static int read_what_was_named(const struct st_sandbox_state *s)
{
    (void)s;
    return TRY(open(place.readable, O_RDONLY | O_DIRECTORY));
}

static int read_anything_else(const struct st_sandbox_state *s)
{
    return s->files ? TRY(open(place.other, O_RDONLY)) : EACCES;
}

static int make_and_remove_below(const struct st_sandbox_state *s)
{
    char path[128];
    (void)s;
    snprintf(path, sizeof path, "%s/entry", place.writable);
    int rc = TRY(mkdir(path, 0700));
    return rc ? rc : TRY(rmdir(path));
}

static int write_beside(const struct st_sandbox_state *s)
{
    return s->files ? TRY(open(place.other, O_WRONLY)) : EACCES;
}

static int rename_something(const struct st_sandbox_state *s)
{
    (void)s;
    return TRY(rename(place.other, place.readable));
}

static void no_file_is_opened_for_writing_and_none_is_made(void **state)
{
    (void)state;
    if (!expect_probe(MAY_READ, write_anywhere, EPERM))
        return;
    expect_probe(MAY_READ, make_anywhere, EPERM);
    expect_probe(MAY_READ, make_and_remove_below, EPERM);
    expect_probe(MAY_WRITE, rename_something, EPERM);
}

static void only_what_was_named_is_read_or_written(void **state)
{
    (void)state;
    if (!expect_probe(MAY_READ, read_what_was_named, 0))
        return;
    expect_probe(MAY_READ, read_anything_else, EACCES);
    expect_probe(MAY_WRITE, make_and_remove_below, 0);
    expect_probe(MAY_WRITE, write_beside, EACCES);
}

static void a_path_that_is_not_there_is_an_error(void **state)
{
    const char *const missing[] = {"/nowhere/at/all"};
    struct st_sandbox_state s;
    struct st_err e = {0};
    int status;
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        int rc = st_sandbox_enter(&(struct st_sandbox){.read = missing, .n_read = 1}, &s, &e);
        _exit(rc == ST_IO && strstr(e.msg, "/nowhere/at/all") ? 0 : rc ? FAILED : s.files ? FAILED : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* ---- processes, code ---- */

static int execute(const struct st_sandbox_state *s)
{
    char name[] = "true", *const argv[] = {name, NULL}, *const envp[] = {NULL};
    (void)s;
    return TRY(execve("/bin/true", argv, envp));
}

static int trace(const struct st_sandbox_state *s)
{
    (void)s;
    return TRY((int)ptrace(PTRACE_TRACEME, 0, NULL, NULL));
}

static int fork_off(const struct st_sandbox_state *s)
{
    (void)s;
    return TRY(fork());
}

static int map_code(const struct st_sandbox_state *s)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)s;
    if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
        return FAILED;
    return TRY(mprotect(p, 4096, PROT_READ | PROT_EXEC));
}

static int gain_privileges(const struct st_sandbox_state *s)
{
    (void)s;
    return TRY(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}

static int unheard_of(const struct st_sandbox_state *s)
{
    (void)s;
    return TRY((int)syscall(SYS_keyctl, 0, 0, 0, 0, 0));
}

static void *count_up(void *arg)
{
    ++*(int *)arg;
    return NULL;
}

static int start_a_thread(const struct st_sandbox_state *s)
{
    pthread_t t;
    int n = 0;
    (void)s;
    if (pthread_create(&t, NULL, count_up, &n) || pthread_join(t, NULL))
        return FAILED;
    return n == 1 ? 0 : FAILED;
}

static int leave_a_core(const struct st_sandbox_state *s)
{
    struct rlimit r;
    (void)s;
    return getrlimit(RLIMIT_CORE, &r) == 0 && r.rlim_max == 0 ? 0 : FAILED;
}

/* The event loop of a program that was entered early: told no, and goes on. */
static int ask_for_other_turns(const struct st_sandbox_state *s)
{
    uint64_t attr[8] = {0};
    (void)s;
    st_priority_answer();
    st_priority_background();
    return TRY(syscall(SYS_sched_getattr, 0, attr, sizeof attr, 0));
}

static void nothing_is_executed_traced_forked_or_mapped_as_code(void **state)
{
    (void)state;
    if (!expect_probe(0, execute, EPERM))
        return;
    expect_probe(0, trace, EPERM);
    expect_probe(0, fork_off, EPERM);
    expect_probe(0, map_code, EPERM);
    expect_probe(0, gain_privileges, EPERM);
    expect_probe(0, ask_for_other_turns, EPERM);
    expect_probe(0, leave_a_core, 0);
}

static void a_call_that_is_in_no_list_ends_the_process(void **state)
{
    (void)state;
    expect_probe(0, unheard_of, -SIGSYS);
}

static void threads_may_start(void **state)
{
    (void)state;
    expect_probe(0, start_a_thread, 0);
}

/* ---- sockets ---- */

static int connect_to(uint16_t port)
{
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd < 0 ? errno : TRY(connect(fd, (const struct sockaddr *)&a, sizeof a));
}

static int connect_to_the_named(const struct st_sandbox_state *s)
{
    (void)s;
    return connect_to(port_open);
}

static int connect_to_another(const struct st_sandbox_state *s)
{
    return s->ports ? connect_to(port_shut) : EACCES;
}

static int send_datagrams(const struct st_sandbox_state *s)
{
    (void)s;
    return TRY(socket(AF_INET, SOCK_DGRAM, 0));
}

static int listen_anew(const struct st_sandbox_state *s)
{
    const struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    (void)s;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd < 0 ? FAILED : TRY(bind(fd, (const struct sockaddr *)&a, sizeof a));
}

static int make_a_unix_socket(const struct st_sandbox_state *s)
{
    (void)s;
    return TRY(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/* What libraries wake threads with. */
static int make_pairs(const struct st_sandbox_state *s)
{
    int pair[2];
    (void)s;
    return TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
}

static void sockets_connect_to_named_ports_only(void **state)
{
    (void)state;
    if (!expect_probe(MAY_CONNECT, connect_to_the_named, 0))
        return;
    expect_probe(MAY_CONNECT, connect_to_another, EACCES);
    expect_probe(0, connect_to_the_named, EPERM);
    expect_probe(MAY_CONNECT, send_datagrams, EPERM);
    expect_probe(MAY_CONNECT, listen_anew, EPERM);
    expect_probe(MAY_UNIX, make_a_unix_socket, 0);
    expect_probe(MAY_CONNECT, make_a_unix_socket, EPERM);
    expect_probe(0, make_pairs, 0);
}

/* ---- in two steps ---- */

struct step_thread {
    int go[2], done[2];
    int read_named, read_other, execute;
};

static void *between(void *arg)
{
    struct step_thread *t = arg;
    char c;
    t->read_other = TRY(open(place.other, O_RDONLY));
    if (write(t->done[1], "", 1) != 1 || read(t->go[0], &c, 1) != 1)
        return NULL;
    t->read_named = TRY(open(place.readable, O_RDONLY | O_DIRECTORY));
    t->execute = execute(NULL);
    return NULL;
}

static int bind_to(uint16_t port)
{
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int rc = TRY(bind(fd, (const struct sockaddr *)&a, sizeof a));
    close(fd);
    return rc;
}

/* A thread that starts between the two steps is held by both; 0, or the line that was not so. */
static int two_steps(void)
{
    const char *const read_only[] = {place.readable};
    const uint16_t any = 0;
    const struct st_sandbox s = {.read = read_only, .n_read = 1, .listen = &any, .n_listen = 1, .no_files = true};
    struct st_sandbox_state state;
    struct step_thread t = {0};
    struct st_err e = {0};
    pthread_t thread;
    char c;
    if (pipe(t.go) || pipe(t.done) || st_sandbox_files(&s, &state, &e))
        return __LINE__;
    if (state.syscalls || pthread_create(&thread, NULL, between, &t) || read(t.done[0], &c, 1) != 1)
        return __LINE__;
    if (state.files && t.read_other != EACCES)
        return __LINE__;
    if (TRY(open(place.readable, O_RDONLY | O_DIRECTORY)) || bind_to(0))
        return __LINE__;
    if (state.ports && bind_to((uint16_t)(port_open ^ 1)) != EACCES)
        return __LINE__;
    if (st_sandbox_calls(&s, &state, &e) || !state.syscalls)
        return NOT_RESTRICTED;
    if (write(t.go[1], "", 1) != 1 || pthread_join(thread, NULL))
        return __LINE__;
    if (t.read_named != EPERM || t.execute != EPERM || TRY(open(place.readable, O_RDONLY | O_DIRECTORY)) != EPERM)
        return __LINE__;
    return bind_to(0) == EPERM ? 0 : __LINE__;
}

/* The kernel lists a thread for a moment after it was joined. */
static void a_thread_that_has_ended_does_not_leave_files_open(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            struct st_sandbox_state s;
            struct st_err e = {0};
            bool ran = start_a_thread(NULL) == 0;
            _exit(!ran || st_sandbox_files(&(struct st_sandbox){0}, &s, &e) || strstr(s.landlock, "threads") ? FAILED
                                                                                                             : 0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
}

static void threads_between_the_two_steps_are_held_by_both(void **state)
{
    int status;
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        int line = two_steps();
        if (line && line != NOT_RESTRICTED)
            fprintf(stderr, "line %d\n", line);
        _exit(!line ? 0 : line == NOT_RESTRICTED ? NOT_RESTRICTED : FAILED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_RESTRICTED)
        print_message("skips: built with a sanitizer, nothing is restricted\n");
    else
        assert_int_equal(status, 0);
}

/* ---- serving ---- */

struct trip {
    struct event_base *base;
    int status, n;
};

static void reply(void *arg, struct st_http_conn *c)
{
    (void)arg;
    st_http_reply(c, 200, NULL, "text/plain", "yes", 3);
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    (void)arg, (void)status, (void)p, (void)len, (void)e;
    return 0;
}

static void on_end(void *arg, int status, const struct st_err *err)
{
    struct trip *t = arg;
    t->n += err == NULL;
    t->status = status;
    event_base_loopbreak(t->base);
}

/* Two requests, one behind the other, in a process that entered once it listened. */
static int serve(void)
{
    struct st_http_server_opts so = {.host = "127.0.0.1",
                                     .max_head = 8192,
                                     .max_body = 8192,
                                     .max_conn = 8,
                                     .idle_s = 5,
                                     .receive_s = 5,
                                     .send_s = 5,
                                     .request = reply};
    struct st_http_server *server;
    struct st_http_client *client;
    struct st_http_call *call;
    struct st_sandbox_state state;
    struct trip t = {.base = event_base_new()};
    struct st_err e = {0};
    char url[64];
    if (st_http_server_new(t.base, &so, &server, &e))
        return FAILED;
    const uint16_t port = (uint16_t)st_http_server_port(server);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", port);
    if (st_sandbox_enter(&(struct st_sandbox){.ports = &port, .n_port = 1}, &state, &e) ||
        st_http_client_new(t.base, &(struct st_http_client_opts){0}, &client, &e))
        return FAILED;
    for (int i = 0; i < 2; i++) {
        const struct st_http_call_opts co = {
            .url = url, .direct = true, .max_reply = 64, .data = on_data, .end = on_end, .arg = &t};
        if (st_http_call_start(client, &co, &call, &e))
            return FAILED;
        event_base_dispatch(t.base);
    }
    st_http_client_free(client);
    st_http_server_free(server);
    event_base_free(t.base);
    return t.n == 2 && t.status == 200 ? 0 : FAILED;
}

static void a_server_goes_on_serving_and_a_client_asking(void **state)
{
    int status;
    (void)state;
    pid_t pid = fork();
    if (pid == 0)
        _exit(serve());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_file_is_opened_for_writing_and_none_is_made),
        cmocka_unit_test(only_what_was_named_is_read_or_written),
        cmocka_unit_test(a_path_that_is_not_there_is_an_error),
        cmocka_unit_test(nothing_is_executed_traced_forked_or_mapped_as_code),
        cmocka_unit_test(a_call_that_is_in_no_list_ends_the_process),
        cmocka_unit_test(threads_may_start),
        cmocka_unit_test(sockets_connect_to_named_ports_only),
        cmocka_unit_test(a_thread_that_has_ended_does_not_leave_files_open),
        cmocka_unit_test(threads_between_the_two_steps_are_held_by_both),
        cmocka_unit_test(a_server_goes_on_serving_and_a_client_asking),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

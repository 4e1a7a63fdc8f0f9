/* A client's byte streams: addresses, what cannot be reached, TLS certificates, ends and deadlines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "certificate.h"
#include "expect.h"
#include "net/address.h"
#include "net/link.h"
#include "net/listen.h"

#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define CERT "/tmp/test_link_cert.pem"
#define KEY "/tmp/test_link_key.pem"
#define OTHER_CERT "/tmp/test_link_other_cert.pem"
#define OTHER_KEY "/tmp/test_link_other_key.pem"

static void addresses_are_taken_to_pieces(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host;
        enum st_address_kind kind;
        int port;
    } good[] = {
        {"tcp://10.0.0.1:99", "10.0.0.1", ST_ADDRESS_TCP, 99},
        {"tls://gpu.example", "gpu.example", ST_ADDRESS_TLS, 7790},
        {"tcp://[::1]:0", "::1", ST_ADDRESS_TCP, 0},
        {"tls://[fe80::1]", "fe80::1", ST_ADDRESS_TLS, 7790},
        {"tcp://a:65535", "a", ST_ADDRESS_TCP, 65535},
    };
    struct st_address a;
    struct st_err e = {0};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_ok(st_address_parse(good[i].text, 7790, &a, &e), &e);
        assert_string_equal(a.host, good[i].host);
        assert_int_equal(a.kind, good[i].kind);
        assert_int_equal(a.port, good[i].port);
    }
    assert_ok(st_address_parse("unix:/run/worker", 0, &a, &e), &e);
    assert_string_equal(a.path.sun_path, "/run/worker");
    assert_ok(st_address_parse("shm:w", 0, &a, &e), &e);
    assert_string_equal(a.path.sun_path, "w");
}

static void wrong_addresses_are_refused_in_one_line(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "worker",
        "http://a",
        "tcp://",
        "tcp://:7",
        "tcp://a:",
        "tcp://a:65536",
        "tcp://a:-1",
        "tcp://a:1x",
        "tcp://a: 1",
        "tcp://::1:7",
        "tcp://[::1",
        "tcp://[::1]7",
        "tcp://[]:7",
        "tcp://a/b:7",
        "tcp://u@a:7",
        "tls://a:7/p",
        "unix:",
        "shm:",
        "TCP://a:1",
        "tcp://a:000080",
    };
    char longer[400];
    struct st_address a;
    struct st_err e = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (st_address_parse(bad[i], 7790, &a, &e) != ST_USAGE || strncmp(e.msg, bad[i], strlen(bad[i])) != 0)
            fail_msg("%s: %s", bad[i], e.msg);
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    memcpy(longer, "tcp://", 6);
    expect_refusal(st_address_parse(longer, 7790, &a, &e), &e, ST_USAGE, "want a host");
    memcpy(longer, "unix:/", 6);
    expect_refusal(st_address_parse(longer, 7790, &a, &e), &e, ST_USAGE, "want a path of 1 to 107 bytes");
}

/* A server of one connection at a time: sends back what it reads. */
static struct {
    int fd, port;
    SSL_CTX *tls; /* or NULL */
    pthread_t thread;
    atomic_bool stop;
} far;

static void echo(int fd, SSL *ssl)
{
    static char piece[50000];
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (!(ssl && SSL_pending(ssl)) && poll(&p, 1, 20) == 0) {
            if (far.stop)
                return;
            continue;
        }
        int n = ssl ? SSL_read(ssl, piece, sizeof piece) : (int)recv(fd, piece, sizeof piece, 0);
        if (n <= 0 || (n == 4 && memcmp(piece, "quit", 4) == 0))
            return;
        for (int at = 0, some; at < n; at += some) {
            some = ssl ? SSL_write(ssl, piece + at, n - at) : (int)send(fd, piece + at, (size_t)(n - at), MSG_NOSIGNAL);
            if (some <= 0)
                return;
        }
    }
}

static void *serve(void *arg)
{
    (void)arg;
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, NULL); /* of this server alone */
    while (!far.stop) {
        struct pollfd p = {.fd = far.fd, .events = POLLIN};
        if (poll(&p, 1, 20) <= 0)
            continue;
        int fd = accept(far.fd, NULL, NULL);
        SSL *ssl = far.tls ? SSL_new(far.tls) : NULL;
        if (ssl)
            SSL_set_fd(ssl, fd);
        if (!ssl || SSL_accept(ssl) == 1)
            echo(fd, ssl);
        if (ssl)
            SSL_shutdown(ssl);
        SSL_free(ssl);
        close(fd);
    }
    return NULL;
}

static void far_start(const char *cert, const char *key, int version)
{
    struct st_err e = {0};
    far.stop = false;
    far.tls = NULL;
    if (cert) {
        far.tls = SSL_CTX_new(TLS_server_method());
        SSL_CTX_set_max_proto_version(far.tls, version);
        SSL_CTX_set_security_level(far.tls, 0);
        assert_int_equal(SSL_CTX_use_certificate_chain_file(far.tls, cert), 1);
        assert_int_equal(SSL_CTX_use_PrivateKey_file(far.tls, key, SSL_FILETYPE_PEM), 1);
    }
    assert_ok(st_net_listen("127.0.0.1", 0, &far.fd, &far.port, &e), &e);
    pthread_create(&far.thread, NULL, serve, NULL);
}

static void far_stop(void)
{
    far.stop = true;
    pthread_join(far.thread, NULL);
    close(far.fd);
    SSL_CTX_free(far.tls);
}

static int dial(const char *host, const char *ca, double timeout_s, struct st_link **l, struct st_err *e)
{
    char address[100];
    snprintf(address, sizeof address, "%s:%d", host, far.port);
    return st_link_open(address, ca, st_now() + timeout_s, l, e);
}

/* Sends len bytes in two pieces and reads them back at the same time. */
static void round_trip(struct st_link *l, size_t len)
{
    struct st_err e = {0};
    struct st_rng r;
    uint8_t *out = malloc(len), *in = calloc(1, len);
    double deadline = st_now() + 20;
    size_t sent = 0, got = 0, n;
    st_rng_seed(&r, len);
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)st_rng_next(&r);
    while (got < len) {
        if (sent < len) {
            size_t first = len - sent < 48 ? len - sent : 48;
            struct iovec v[3] = {{out + sent, first}, {NULL, 0}, {out + sent + first, len - sent - first}};
            assert_ok(st_link_send(l, v, 3, &n, &e), &e);
            sent += n;
        }
        assert_ok(st_link_wait(l, true, sent < len, deadline, &e), &e);
        assert_ok(st_link_recv(l, in + got, len - got, &n, &e), &e);
        got += n;
        assert_true(st_now() < deadline);
    }
    assert_memory_equal(in, out, len);
    free(out);
    free(in);
}

static void bytes_pass_both_ways(struct st_link *l)
{
    static const size_t lens[] = {1, 47, 48, 49, 5000, 16384, 16385, 40000, 3 << 20};
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++)
        round_trip(l, lens[i]);
    assert_true(st_link_quiet(l));
}

static void bytes_pass_over_tcp(void **state)
{
    (void)state;
    struct st_link *l;
    struct st_err e = {0};
    far_start(NULL, NULL, 0);
    assert_ok(dial("tcp://localhost", NULL, 10, &l, &e), &e);
    bytes_pass_both_ways(l);
    st_link_close(l);
    far_stop();
}

static void bytes_pass_over_tls(void **state)
{
    (void)state;
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (int i = 0; i < 2; i++) {
        struct st_link *l;
        struct st_err e = {0};
        far_start(CERT, KEY, versions[i]);
        assert_ok(dial("tls://127.0.0.1", CERT, 10, &l, &e), &e);
        bytes_pass_both_ways(l);
        st_link_close(l);
        far_stop();
    }
}

static void certificates_are_verified(void **state)
{
    (void)state;
    struct st_link *l;
    struct st_err e = {0};
    far_start(CERT, KEY, TLS1_3_VERSION);
    expect_refusal(dial("tls://127.0.0.1", OTHER_CERT, 10, &l, &e), &e, ST_VERIFY, "certificate: ");
    expect_refusal(dial("tls://127.0.0.1", NULL, 10, &l, &e), &e, ST_VERIFY, "certificate: self-signed");
    assert_non_null(strstr(e.msg, "--worker-ca"));
    expect_refusal(dial("tls://localhost", CERT, 10, &l, &e), &e, ST_VERIFY, "certificate: hostname mismatch");
    expect_refusal(dial("tls://127.0.0.2", CERT, 10, &l, &e), &e, ST_IO, "refused");
    expect_refusal(dial("tls://127.0.0.1", KEY, 10, &l, &e), &e, ST_INPUT, "want certificates in PEM");
    expect_refusal(dial("tls://127.0.0.1", "/nonexistent", 10, &l, &e), &e, ST_INPUT, "want certificates in PEM");
    far_stop();
}

static void old_tls_and_no_tls_are_refused(void **state)
{
    (void)state;
    struct st_link *l;
    struct st_err e = {0};
    far_start(CERT, KEY, TLS1_1_VERSION);
    assert_int_not_equal(dial("tls://127.0.0.1", CERT, 10, &l, &e), 0);
    far_stop();
    far_start(NULL, NULL, 0); /* sends our own greeting back */
    expect_refusal(dial("tls://127.0.0.1", CERT, 10, &l, &e), &e, ST_INPUT, "TLS: ");
    far_stop();
}

static void what_cannot_be_reached_says_why(void **state)
{
    (void)state;
    static const struct {
        const char *address, *says;
    } cases[] = {
        {"tcp://127.0.0.1:1", "Connection refused"},
        {"tls://127.0.0.1:1", "Connection refused"},
        {"unix:/nonexistent/socket", "No such file or directory"},
        {"shm:/nonexistent/socket", "No such file or directory"},
        {"unix:/dev/null", "Connection refused"},
        {"tcp://no-such-host.invalid:7", "no-such-host.invalid: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct st_link *l;
        struct st_err e = {0};
        expect_refusal(st_link_open(cases[i].address, NULL, st_now() + 5, &l, &e), &e, ST_IO, cases[i].says);
        assert_null(l);
    }
}

/* Listens and never accepts. */
static void a_silent_server_is_waited_for_until_the_deadline(void **state)
{
    (void)state;
    struct st_link *l;
    struct st_err e = {0};
    char byte;
    size_t n;
    assert_ok(st_net_listen("127.0.0.1", 0, &far.fd, &far.port, &e), &e);
    double start = st_now();
    expect_refusal(dial("tls://127.0.0.1", CERT, 0.2, &l, &e), &e, ST_IO, "timed out");
    assert_ok(dial("tcp://127.0.0.1", NULL, 0.2, &l, &e), &e);
    expect_refusal(st_link_wait(l, true, false, st_now() + 0.1, &e), &e, ST_IO, "timed out");
    e = (struct st_err){0};
    assert_ok(st_link_recv(l, &byte, 1, &n, &e), &e);
    assert_int_equal(n, 0);
    /* It takes what its buffers hold, and no more. */
    size_t len = 64 << 20, all = 0;
    struct iovec v = {calloc(1, len), len};
    while (all < len && st_link_wait(l, false, true, st_now() + 0.1, &e) == 0) {
        assert_ok(st_link_send(l, &v, 1, &n, &e), &e);
        all += n;
    }
    assert_true(all < len);
    assert_string_equal(e.msg, "timed out");
    assert_true(st_now() - start < 5);
    free(v.iov_base);
    st_link_close(l);
    close(far.fd);
}

static void an_end_is_noticed_and_raises_no_signal(void **state)
{
    (void)state;
    static const char *const hosts[] = {"tcp://127.0.0.1", "tls://127.0.0.1"};
    for (int i = 0; i < 2; i++) {
        struct st_link *l;
        struct st_err e = {0};
        char text[50000] = "quit";
        struct iovec v = {text, 4};
        size_t n;
        far_start(i ? CERT : NULL, KEY, TLS1_3_VERSION);
        assert_ok(dial(hosts[i], CERT, 10, &l, &e), &e);
        round_trip(l, 100);
        assert_true(st_link_quiet(l));
        assert_ok(st_link_send(l, &v, 1, &n, &e), &e);
        int rc = 0;
        do
            rc = st_link_wait(l, true, false, st_now() + 10, &e);
        while (!rc && !(rc = st_link_recv(l, text, sizeof text, &n, &e)));
        expect_refusal(rc, &e, ST_IO, "closed the connection");
        assert_false(st_link_quiet(l));
        v.iov_len = sizeof text;
        do
            rc = st_link_send(l, &v, 1, &n, &e);
        while (!rc && !(rc = st_link_wait(l, false, true, st_now() + 10, &e)));
        assert_int_equal(rc, ST_IO);
        st_link_close(l);
        far_stop();
    }
}

int main(void)
{
    signal(SIGPIPE, SIG_DFL);
    make_certificate(CERT, KEY);
    make_certificate(OTHER_CERT, OTHER_KEY);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_taken_to_pieces),
        cmocka_unit_test(wrong_addresses_are_refused_in_one_line),
        cmocka_unit_test(bytes_pass_over_tcp),
        cmocka_unit_test(bytes_pass_over_tls),
        cmocka_unit_test(certificates_are_verified),
        cmocka_unit_test(old_tls_and_no_tls_are_refused),
        cmocka_unit_test(what_cannot_be_reached_says_why),
        cmocka_unit_test(a_silent_server_is_waited_for_until_the_deadline),
        cmocka_unit_test(an_end_is_noticed_and_raises_no_signal),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    static const char *const files[] = {CERT, KEY, OTHER_CERT, OTHER_KEY};
    for (int i = 0; i < 4; i++)
        unlink(files[i]);
    return rc;
}

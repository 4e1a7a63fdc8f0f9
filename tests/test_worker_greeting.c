/* A worker that breaks the turns of the greeting: while the client still sends its evidence, the worker reads nothing
 * and says half a frame, so that the client could have two frames under way at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "certificate.h"
#include "expect.h"
#include "net/accepted.h"
#include "net/listen.h"
#include "net/worker_frame.h"
#include "service/worker_client.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PADDING (512u << 10) /* more than the sockets between the two hold */
#define SPOKEN 100           /* bytes of the frame that the worker breaks into */

static const uint8_t digest[32] = {3, 1, 4};
static char dir[64], cert[96], key[96];

/* Evidence of an enclave, as long as it is with its collateral: the client collects it and cannot send it at once. --
 */

static void save(const char *name, const void *p, size_t len)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, len, f), len);
    fclose(f);
}

static int make_enclave(void **state)
{
    char path[128], *long_file = malloc(PADDING + 8192);
    (void)state;
    strcpy(dir, "/tmp/test_worker_greeting_XXXXXX");
    if (!mkdtemp(dir) || !long_file)
        return 1;
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    make_certificate(cert, key);
    snprintf(path, sizeof path, "%s/along", dir);
    mkdir(path, 0700);
    save("attestation_type", "dcap", 4);
    save("user_report_data", "", 0);
    save("quote", "quote", 5);
    memset(long_file, '\n', PADDING);
    FILE *f = fopen(cert, "r");
    size_t n = fread(long_file + PADDING, 1, 8192, f);
    fclose(f);
    save("along/certs.pem", long_file, PADDING + n);
    free(long_file);
    return 0;
}

static int remove_enclave(void **state)
{
    char command[100];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

/* The worker ------------------------------------------------------------------------------------------------------- */

struct hostile {
    int fd;
    SSL_CTX *tls;
    struct st_accepted *stream;
    size_t evidence; /* bytes that came */
    atomic_bool stop;
};

static bool get(struct hostile *h, void *p, size_t len)
{
    struct st_err e;
    for (size_t at = 0, n; at < len && !h->stop; at += n) {
        if (st_accepted_read(h->stream, (uint8_t *)p + at, len - at, &n, &e))
            return false;
        if (!n)
            poll(NULL, 0, 1);
    }
    return !h->stop;
}

static void put(struct hostile *h, const void *p, size_t len)
{
    struct st_err e;
    for (size_t at = 0, n; at < len && !h->stop; at += n) {
        struct iovec v = {(uint8_t *)(uintptr_t)p + at, len - at};
        if (st_accepted_write(h->stream, &v, 1, &n, &e))
            return;
        if (!n)
            poll(NULL, 0, 1);
    }
}

static void welcome(struct hostile *h)
{
    struct st_worker_weight weight = {.name = "a.weight", .n_out = 24, .n_in = 16};
    struct st_worker_welcome w = {
        .max_row = 8, .flags = ST_WORKER_FLAG_PROVE, .max_payload = 1 << 20, .n = 1, .weights = &weight};
    struct st_buf b = {0};
    memcpy(w.digest, digest, sizeof digest);
    st_worker_welcome_add(&b, &w);
    st_worker_challenge_add(&b, digest);
    put(h, b.p, b.len);
    st_buf_free(&b);
}

/* Half a FAILURE while the client has to wait, its evidence, then ADMITTED and what would follow of the FAILURE. */
static void break_in(struct hostile *h)
{
    static uint8_t filler[1 << 16];
    uint8_t head[ST_WORKER_HEAD];
    struct st_worker_head evidence;
    struct st_err e;
    struct st_buf b = {0};
    memset(filler, 'A', sizeof filler);
    st_worker_head_write(head, &(struct st_worker_head){ST_WORKER_FAILURE, 0, 512});
    put(h, head, sizeof head);
    put(h, filler, SPOKEN);
    poll(NULL, 0, 300);
    if (!get(h, head, sizeof head) || st_worker_head_parse(head, ST_WORKER_MAX_EVIDENCE, &evidence, &e))
        return;
    for (uint8_t part[4096]; h->evidence < evidence.len;) {
        size_t left = evidence.len - h->evidence, n = left < sizeof part ? left : sizeof part;
        if (!get(h, part, n))
            return;
        h->evidence += n;
    }
    st_worker_admitted_add(&b);
    put(h, b.p, b.len);
    put(h, filler, sizeof filler);
    st_buf_free(&b);
}

static void *serve(void *arg)
{
    struct hostile *h = arg;
    uint8_t hello[ST_WORKER_HEAD + 36];
    struct st_err e;
    int fd;
    while ((fd = accept4(h->fd, NULL, NULL, SOCK_NONBLOCK)) < 0 && !h->stop)
        poll(NULL, 0, 1);
    if (fd < 0 || st_accepted_socket(fd, h->tls, &h->stream, &e))
        return NULL;
    if (get(h, hello, sizeof hello)) {
        welcome(h);
        break_in(h);
    }
    while (!h->stop)
        poll(NULL, 0, 1);
    st_accepted_free(h->stream);
    return NULL;
}

/* Small segments and a small window keep the client's socket small, too. */
static int listen_small(struct hostile *h, char address[64])
{
    struct st_err e = {0};
    int port = 0, least = 1, segment = 536;
    assert_ok(st_net_listen("127.0.0.1", 0, &h->fd, &port, &e), &e);
    assert_ok(st_tls_server(cert, key, &h->tls, &e), &e);
    snprintf(address, 64, "tls://127.0.0.1:%d", port);
    return setsockopt(h->fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof least) |
           setsockopt(h->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
}

/* Tests ------------------------------------------------------------------------------------------------------------ */

static void half_a_frame_amid_the_evidence_of_the_client_ends_the_connection(void **state)
{
    (void)state;
    static const char *const kinds[] = {"sgx"};
    char address[64], along[96];
    const char *one = address;
    struct hostile h = {.fd = -1};
    struct st_collection *enclave;
    struct st_worker_client *c = NULL;
    struct st_err e = {0};
    pthread_t thread;
    snprintf(along, sizeof along, "%s/along", dir);
    assert_ok(
        st_collection_open(kinds, 1, &(struct st_collect_opts){.gramine = dir, .endorsements = along}, &enclave, &e),
        &e);
    assert_int_equal(listen_small(&h, address), 0);
    pthread_create(&thread, NULL, serve, &h);
    const struct st_worker_client_opts o = {.addresses = &one,
                                            .n_address = 1,
                                            .tls_ca = cert,
                                            .digest = digest,
                                            .timeout_s = 10,
                                            .proof = {.collection = enclave},
                                            .private_weights = true};
    /* What follows the half is read as its other half, and that makes no FAILURE. */
    expect_refusal(st_worker_client_new(&o, &c, &e), &e, ST_INPUT, "FAILURE");
    h.stop = true;
    pthread_join(thread, NULL);
    assert_true(h.evidence > PADDING);
    st_collection_close(enclave);
    SSL_CTX_free(h.tls);
    close(h.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_a_frame_amid_the_evidence_of_the_client_ends_the_connection),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, make_enclave, remove_enclave);
}

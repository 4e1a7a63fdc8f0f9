/* A node whose clients leave at every moment: in the middle of a request, of its evidence, of a reply, while the engine
 * streams, floods or breaks off; and one whose keys die meanwhile. Made for sanitizers. */
#include "expect.h"

#include "node_make.h"

#include <pthread.h>

#define CHAT "/v1/chat/completions"
#define ASKS "{\"messages\":[{\"role\":\"user\",\"content\":\"a secret\"}],\"stream\":true}"

enum { THREADS = 3, ROUNDS = 25 };

static struct node_pair p;

static int set_up(void **state)
{
    (void)state;
    pair_make(&p);
    p.o.chunk = 256;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pair_close(&p);
    return 0;
}

struct client {
    struct node_key key;
    unsigned seed;
};

/* Closed at once, as a process that is killed does, or in order. */
static void leave(int fd, struct client *c)
{
    const struct linger now = {1, 0};
    if (rand_r(&c->seed) % 2)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

static void read_some(int fd, size_t want)
{
    char b[4096];
    while (want) {
        ssize_t n = recv(fd, b, want < sizeof b ? want : sizeof b, 0);
        if (n <= 0)
            return;
        want -= (size_t)n;
    }
}

/* One request, of which a part is sent, and whose reply is read in part. */
static void be_rude(struct client *c)
{
    struct st_ohttp x;
    struct st_buf sealed = {0}, all = {0};
    const bool attest = rand_r(&c->seed) % 5 == 0;
    if (attest)
        st_buf_addf(&sealed, "{\"nonce\":\"%08x%056x\"}", (unsigned)rand_r(&c->seed), 0u);
    else {
        seal(&c->key, CHAT, NULL, ASKS, &x, &sealed);
        st_ohttp_wipe(&x);
    }
    st_buf_addf(
        &all, "POST %s HTTP/1.1\r\nHost: node\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
        attest ? ST_NODE_PATH_ATTEST : ST_NODE_PATH_INFER,
        attest ? "application/json" : st_ohttp_request_type(ST_OHTTP_CHUNKED), sealed.len);
    st_buf_add(&all, sealed.p, sealed.len);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval tv = {2, 0};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)p.about.port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0) {
        size_t len = rand_r(&c->seed) % 3 ? all.len : (size_t)rand_r(&c->seed) % all.len;
        if (send(fd, all.p, len, MSG_NOSIGNAL) == (ssize_t)all.len)
            read_some(fd, rand_r(&c->seed) % 4 ? (size_t)rand_r(&c->seed) % 3000 : 1u << 20);
    }
    leave(fd, c);
    st_buf_free(&sealed);
    st_buf_free(&all);
}

static void *client_main(void *arg)
{
    for (int i = 0; i < ROUNDS; i++)
        be_rude(arg);
    return NULL;
}

static void storm(void (*meanwhile)(void))
{
    struct client c[THREADS];
    pthread_t t[THREADS];
    const struct node_key k = node_key(p.about.port, NONCE_A);
    for (unsigned i = 0; i < THREADS; i++) {
        c[i] = (struct client){k, 7 * i + 1};
        assert_int_equal(pthread_create(&t[i], NULL, client_main, &c[i]), 0);
    }
    if (meanwhile)
        meanwhile();
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
}

/* Until the engine is asked nothing more and answers nothing more: then it may be told to behave otherwise. */
static void calm(void)
{
    assert_true(wait_metric(p.about.port, "requests_running", 0));
    for (int i = 0; i < 5000 && p.engine.n_open; i++)
        usleep(1000);
    assert_int_equal(p.engine.n_open, 0);
}

static void nothing_is_left_of_clients_that_leave(void **state)
{
    (void)state;
    static const char *const pieces[] = {"data: 1\n\n", "data: 2", "2\n\nda", "ta: 3\n\n"};
    node_open(&p);
    p.engine.pieces = pieces;
    p.engine.n_piece = 4;
    p.engine.gap_ms = 2;
    storm(NULL);
    calm();
    p.engine.cuts = true;
    storm(NULL);
    calm();
    p.engine.cuts = false;
    p.engine.flood = 200 << 10;
    storm(NULL);
    calm();
    p.engine.flood = 0;
    p.engine.pieces = NULL;
    p.engine.whole = "{\"choices\":[]}";
    storm(NULL);
    assert_true(wait_metric(p.about.port, "requests_running", 0));
}

static void on_a_cadence_as_well(void **state)
{
    (void)state;
    static const char *const pieces[] = {"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"};
    p.o.cadence_s = 0.002;
    node_open(&p);
    p.engine.pieces = pieces;
    p.engine.n_piece = 3;
    p.engine.gap_ms = 3;
    storm(NULL);
    calm();
    p.engine.flood = 64 << 10;
    storm(NULL);
    assert_true(wait_metric(p.about.port, "requests_running", 0));
}

static void take_its_evidence(void)
{
    poll(NULL, 0, 60);
    unlink(p.sim_key);
}

static void keys_die_in_the_middle_of_it(void **state)
{
    (void)state;
    static const char *const pieces[] = {"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"};
    struct st_err e;
    node_open(&p);
    p.engine.pieces = pieces;
    p.engine.n_piece = 3;
    p.engine.gap_ms = 20;
    storm(take_its_evidence);
    poll(NULL, 0, 800);
    assert_int_equal(st_node_stop(p.node, &e), ST_VERIFY);
    st_node_free(p.node);
    p.node = NULL;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_left_of_clients_that_leave),
        TEST(on_a_cadence_as_well),
        TEST(keys_die_in_the_middle_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A log with two witnesses as programs on loopback: parts become directories that a client believes, entries stand
 * before them, strangers are refused, nothing is shown that is not cosigned, and a copy put back in place shows. */
#include "expect.h"
#include "log_world.h"
#include "service/log_client.h"
#include "service/log_parts.h"
#include "service/log_server.h"
#include "service/witness.h"

#include "service/submitters.h"

#include <sys/stat.h>
#include <unistd.h>

#define GATEWAY_KEY "a-key-of-the-gateway-east"
#define ISSUER_KEY "a-key-of-the-issuer-bank"
#define ENTRY_KEY "a-key-of-continuous-integration"

static const char submitters[] =
    "# who may hand in what\ngateway/east " GATEWAY_KEY "\nissuer/bank " ISSUER_KEY "\n\nentries/ci " ENTRY_KEY "\n";
static const char part_a[] = "{\"version\":1,\"kind\":\"gateway\",\"name\":\"east\",\"keys\":\"AAEC\",\"price\":{"
                             "\"request\":1,\"unit_bytes\":4096},\"nodes\":[]}";
static const char part_b[] = "{\"version\":1,\"kind\":\"gateway\",\"name\":\"east\",\"keys\":\"AAED\",\"price\":{"
                             "\"request\":1,\"unit_bytes\":4096},\"nodes\":[]}";
static const char issuer[] = "{\"version\":1,\"kind\":\"issuer\",\"name\":\"bank\",\"keys\":[{\"day\":20370,"
                             "\"units\":512,\"key\":\"MIIB\"}]}";

struct rig {
    struct log_world w;
    struct st_witness *witness[2];
    struct st_log_server *log;
    struct event_base *base; /* of the clients */
    struct st_http_client *http;
    struct st_log_client *client;
    /* the last answer */
    int status, n_done;
    struct st_buf body;
    struct st_err result;
};

static void witness_start(struct rig *r, int i)
{
    struct st_err e;
    const struct st_tlog_keys log = {.origin = LOG_ORIGIN, .log = r->w.keys.log};
    static char state[2][128];
    snprintf(state[i], sizeof state[i], "%s", log_path(&r->w, i ? "witness-b" : "witness-a"));
    const struct st_witness_opts o = {
        .name = log_witness_name[i], .key = r->w.witness[i], .state = state[i], .logs = &log, .n_log = 1};
    assert_ok(st_witness_new(&o, &r->witness[i], &e), &e);
    assert_ok(st_role_start(st_witness_role(r->witness[i]), &e), &e);
}

static void witness_stop(struct rig *r, int i)
{
    if (r->witness[i])
        st_role_stop(st_witness_role(r->witness[i]));
    st_witness_free(r->witness[i]);
    r->witness[i] = NULL;
}

static int log_new(struct rig *r, const char *dir, size_t quorum, uint32_t every, struct st_err *e)
{
    static char path[2][128];
    static char url[2][64];
    struct st_cosign_witness w[2];
    size_t n = 0;
    snprintf(path[0], sizeof path[0], "%s", log_path(&r->w, dir));
    snprintf(path[1], sizeof path[1], "%s", log_path(&r->w, "submitters"));
    for (int i = 0; i < 2; i++)
        if (r->witness[i]) {
            snprintf(url[n], sizeof url[n], "%s/", st_role_url(st_witness_role(r->witness[i])));
            w[n].url = url[n];
            w[n++].key = r->w.keys.witnesses[i];
        }
    const struct st_log_server_opts o = {.dir = path[0],
                                         .key = r->w.log,
                                         .submitters = path[1],
                                         .witnesses = w,
                                         .n_witness = n,
                                         .quorum = quorum,
                                         .every = every};
    return st_log_server_new(&o, &r->log, e);
}

static void log_start(struct rig *r, const char *dir, size_t quorum)
{
    struct st_err e;
    assert_ok(log_new(r, dir, quorum, 1, &e), &e);
    assert_string_equal(st_log_server_origin(r->log), LOG_ORIGIN);
    assert_ok(st_role_start(st_log_server_role(r->log), &e), &e);
}

static void log_stop(struct rig *r)
{
    struct st_err e;
    if (!r->log)
        return;
    st_role_stop(st_log_server_role(r->log));
    assert_ok(st_log_server_result(r->log, &e), &e);
    st_log_server_free(r->log);
    r->log = NULL;
}

static void client_open(struct rig *r)
{
    struct st_err e;
    const struct st_log_client_opts o = {
        .url = st_role_url(st_log_server_role(r->log)), .state_file = log_path(&r->w, "state"), .keys = r->w.keys};
    st_log_client_free(r->client);
    assert_ok(st_log_client_new(r->http, &o, &r->client, &e), &e);
}

static void rig_open(struct rig *r)
{
    struct st_err e;
    *r = (struct rig){0};
    log_world_open(&r->w);
    st_log_store_close(log_store_new(&r->w, "log"));
    FILE *f = fopen(log_path(&r->w, "submitters"), "w");
    fputs(submitters, f);
    fclose(f);
    chmod(log_path(&r->w, "submitters"), 0600);
    witness_start(r, 0);
    witness_start(r, 1);
    log_start(r, "log", 2);
    r->base = event_base_new();
    const struct st_http_client_opts ho = {.connect_s = 5, .max_idle = 2};
    assert_ok(st_http_client_new(r->base, &ho, &r->http, &e), &e);
    client_open(r);
}

static void rig_close(struct rig *r)
{
    st_log_client_free(r->client);
    st_http_client_free(r->http);
    event_base_free(r->base);
    log_stop(r);
    witness_stop(r, 0);
    witness_stop(r, 1);
    st_buf_free(&r->body);
    log_world_close(&r->w);
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct rig *r = arg;
    (void)status;
    (void)e;
    st_buf_add(&r->body, p, len);
    return 0;
}

static void on_end(void *arg, int status, const struct st_err *e)
{
    struct rig *r = arg;
    r->status = e ? 0 : status;
    r->n_done++;
}

static void on_done(void *arg, const struct st_err *e)
{
    struct rig *r = arg;
    r->result = e ? *e : (struct st_err){0};
    r->n_done++;
}

/* The status; the content is in r->body. body NULL = GET. */
static int ask(struct rig *r, const char *path, const char *key, const char *body)
{
    struct st_err e;
    struct st_buf b = {0};
    struct st_http_call *call;
    char url[256];
    int before = r->n_done;
    snprintf(url, sizeof url, "%s%s", st_role_url(st_log_server_role(r->log)), path);
    if (body)
        st_buf_add_str(&b, body);
    st_buf_clear(&r->body);
    const struct st_http_call_opts o = {.url = url,
                                        .bearer = key,
                                        .body = body ? &b : NULL,
                                        .stall_s = 5,
                                        .max_reply = 1 << 20,
                                        .data = on_data,
                                        .end = on_end,
                                        .arg = r};
    assert_ok(st_http_call_start(r->http, &o, &call, &e), &e);
    while (r->n_done == before)
        event_base_loop(r->base, EVLOOP_ONCE);
    return r->status;
}

static void refresh(struct rig *r)
{
    struct st_err e;
    int before = r->n_done;
    if (st_log_client_refresh(r->client, on_done, r, &e)) {
        r->result = e;
        return;
    }
    while (r->n_done == before)
        event_base_loop(r->base, EVLOOP_ONCE);
}

/* Hands the part in until it stands in the directory that is served; false when that takes too long. */
static bool hand_in(struct rig *r, const char *path, const char *key, const char *part, double seconds)
{
    double until = st_now() + seconds;
    int status;
    while ((status = ask(r, path, key, part)) == 202 && st_now() < until)
        usleep(20000);
    if (status != 200 && status != 202)
        fail_msg("%s: status %d %s", path, status, r->body.p ? r->body.p : "");
    return status == 200;
}

static void parts_become_directories_that_a_client_believes(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    assert_int_equal(ask(&r, "/directory", NULL, NULL), 404);
    assert_true(hand_in(&r, "/parts/gateway/east", GATEWAY_KEY, part_a, 5));
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    assert_memory_equal(st_log_client_directory(r.client)->gateways[0].keys.p, "\0\1\2", 3);
    assert_int_equal(st_log_client_checkpoint(r.client)->n_witness, 2);
    int64_t time = st_log_client_checkpoint(r.client)->time;
    uint64_t epoch = st_log_client_directory(r.client)->epoch;
    assert_true(hand_in(&r, "/parts/issuer/bank", ISSUER_KEY, issuer, 5));
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    assert_int_equal(st_log_client_directory(r.client)->n_issuer, 1);
    assert_int_equal(st_log_client_directory(r.client)->n_gateway, 1);
    assert_true(st_log_client_directory(r.client)->epoch > epoch);
    /* Without change the tree stays, and its time does not. */
    uint64_t size = st_log_client_checkpoint(r.client)->checkpoint.size;
    time = st_log_client_checkpoint(r.client)->time;
    for (int i = 0; i < 100 && st_log_client_checkpoint(r.client)->time == time; i++) {
        usleep(50000);
        refresh(&r);
        assert_ok(r.result.code, &r.result);
    }
    assert_true(st_log_client_checkpoint(r.client)->time > time);
    assert_int_equal(st_log_client_checkpoint(r.client)->checkpoint.size, size);
    rig_close(&r);
}

static void strangers_are_refused_and_submitters_hear_why(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    assert_int_equal(ask(&r, "/parts/gateway/east", NULL, part_a), 403);
    assert_int_equal(ask(&r, "/parts/gateway/east", "wrong-key-wrong-key", part_a), 403);
    assert_int_equal(ask(&r, "/parts/gateway/west", GATEWAY_KEY, part_a), 403);
    assert_int_equal(ask(&r, "/parts/issuer/bank", GATEWAY_KEY, issuer), 403);
    assert_int_equal(ask(&r, "/entries", GATEWAY_KEY, "x"), 403);
    assert_int_equal(ask(&r, "/parts/gateway/east", ENTRY_KEY, part_a), 403);
    assert_int_equal(r.body.len, 0);
    assert_int_equal(ask(&r, "/parts/gateway/east", GATEWAY_KEY, issuer), 400);
    assert_non_null(strstr(r.body.p, "want the gateway east"));
    assert_int_equal(ask(&r, "/parts/gateway/east", GATEWAY_KEY, "{}"), 400);
    assert_non_null(strstr(r.body.p, "version: missing"));
    assert_int_equal(ask(&r, "/entries", ENTRY_KEY, log_directory(1, "evil")), 400);
    assert_non_null(strstr(r.body.p, "made by the log"));
    static const char *const paths[] = {"/signed",         "/lock",       "/tile/../signed", "/tile/0/000",
                                        "/tile/0/000.p/9", "/tile/8/000", "/tile//000",      "/"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        assert_int_equal(ask(&r, paths[i], NULL, NULL), 404);
    assert_int_equal(ask(&r, "/directory?from=x", NULL, NULL), 400);
    assert_int_equal(ask(&r, "/directory?to=1", NULL, NULL), 400);
    rig_close(&r);
}

/* A gateway's part of so many nodes. */
static void write_part(const char *name, size_t n_node, struct st_buf *out)
{
    struct st_directory_node *nodes = calloc(n_node, sizeof *nodes);
    struct st_directory_gateway g = {.keys = {(const uint8_t *)"keys", 4}, .unit_bytes = 1, .nodes = nodes};
    snprintf(g.name, sizeof g.name, "%s", name);
    for (g.n_node = 0; g.n_node < n_node; g.n_node++) {
        nodes[g.n_node].id[0] = (uint8_t)g.n_node;
        nodes[g.n_node].n_tag = 1;
        memset(nodes[g.n_node].tags[0], 'x', ST_NODE_MAX_TAG);
    }
    st_buf_clear(out);
    st_directory_write_gateway(&g, out);
    free(nodes);
}

static void gateways_leave_room_for_the_keys_of_issuers(void **state)
{
    (void)state;
    struct st_log_parts p = {0};
    struct st_buf part = {0};
    struct st_err e;
    const struct st_submitter east = {.kind = ST_SUBMITTER_GATEWAY, .name = "east"},
                              bank = {.kind = ST_SUBMITTER_ISSUER, .name = "bank"};
    size_t n = 1;
    write_part("east", 256, &part);
    assert_int_equal(st_log_parts_put(&p, &east, (struct st_span){(uint8_t *)part.p, part.len}, &e), ST_INPUT);
    for (;; n++) { /* as many as it may have */
        write_part("east", n, &part);
        if (st_log_parts_put(&p, &east, (struct st_span){(uint8_t *)part.p, part.len}, &e))
            break;
    }
    assert_true(n > 150);
    uint8_t key[294] = {0};
    struct st_directory_issuer i = {.name = "bank"};
    for (; i.n_key < 24; i.n_key++)
        i.keys[i.n_key] = (struct st_directory_key){(uint32_t)i.n_key, 1, {key, sizeof key}};
    st_buf_clear(&part);
    st_directory_write_issuer(&i, &part);
    assert_ok(st_log_parts_put(&p, &bank, (struct st_span){(uint8_t *)part.p, part.len}, &e), &e);
    assert_int_equal(p.n, 2);
    st_buf_free(&part);
    st_log_parts_wipe(&p);
}

/* Hands an entry in; where it will stand. */
static uint64_t hand_in_entry(struct rig *r, const char *text)
{
    unsigned long long index;
    assert_int_equal(ask(r, "/entries", ENTRY_KEY, text), 202);
    assert_int_equal(sscanf(r->body.p, "{\"index\":%llu}", &index), 1);
    return index;
}

static void expect_entry(struct rig *r, uint64_t index, const char *text)
{
    struct st_err e;
    struct st_span rest = {(const uint8_t *)r->body.p, r->body.len}, entry = {0};
    for (uint64_t i = 0; i <= index; i++)
        assert_ok(st_entry_next(&rest, &entry, NULL, &e), &e);
    assert_int_equal(entry.len, strlen(text));
    assert_memory_equal(entry.p, text, entry.len);
}

static void entries_stand_before_the_directory_and_are_served(void **state)
{
    (void)state;
    struct rig r;
    char path[64];
    rig_open(&r);
    uint64_t first = hand_in_entry(&r, "first"), second = hand_in_entry(&r, "second"), size = 0;
    assert_true(second > first);
    for (double until = st_now() + 8; size <= second + 1 && st_now() < until; usleep(20000)) {
        refresh(&r);
        if (r.result.code == 0)
            size = st_log_client_checkpoint(r.client)->checkpoint.size;
    }
    assert_int_equal(size, second + 2);
    assert_int_equal(st_log_client_directory(r.client)->n_gateway, 0);
    assert_int_equal(ask(&r, "/checkpoint", NULL, NULL), 200);
    assert_memory_equal(r.body.p, LOG_ORIGIN "\n", strlen(LOG_ORIGIN) + 1);
    snprintf(path, sizeof path, "/tile/entries/000.p/%d", (int)size);
    assert_int_equal(ask(&r, path, NULL, NULL), 200);
    expect_entry(&r, first, "first");
    expect_entry(&r, second, "second");
    rig_close(&r);
}

static void a_restarted_log_goes_on_where_it_was(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    rig_open(&r);
    assert_true(hand_in(&r, "/parts/gateway/east", GATEWAY_KEY, part_a, 5));
    assert_true(hand_in(&r, "/parts/issuer/bank", ISSUER_KEY, issuer, 5));
    refresh(&r);
    uint64_t size = st_log_client_checkpoint(r.client)->checkpoint.size;
    log_stop(&r);
    expect_refusal(log_new(&r, "log", 2, 7, &e), &e, ST_USAGE, "its epochs have 1 s; want --every 1");
    log_start(&r, "log", 2);
    client_open(&r);
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    assert_int_equal(st_log_client_checkpoint(r.client)->checkpoint.size, size);
    assert_true(hand_in(&r, "/parts/gateway/east", GATEWAY_KEY, part_b, 5));
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    assert_memory_equal(st_log_client_directory(r.client)->gateways[0].keys.p, "\0\1\3", 3);
    assert_int_equal(st_log_client_directory(r.client)->n_issuer, 1);
    log_stop(&r);
    FILE *f = fopen(log_path(&r.w, "submitters"), "w"); /* the issuer is gone */
    fputs("gateway/east " GATEWAY_KEY "\n", f);
    fclose(f);
    log_start(&r, "log", 2);
    client_open(&r);
    for (int i = 0; i < 200; i++) {
        refresh(&r);
        assert_ok(r.result.code, &r.result);
        if (st_log_client_directory(r.client)->n_issuer == 0)
            break;
        usleep(20000);
    }
    assert_int_equal(st_log_client_directory(r.client)->n_issuer, 0);
    rig_close(&r);
}

static void nothing_new_is_shown_without_a_quorum(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    assert_true(hand_in(&r, "/parts/gateway/east", GATEWAY_KEY, part_a, 5));
    refresh(&r);
    uint64_t size = st_log_client_checkpoint(r.client)->checkpoint.size;
    witness_stop(&r, 1);
    assert_false(hand_in(&r, "/parts/gateway/east", GATEWAY_KEY, part_b, 1.5));
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    assert_int_equal(st_log_client_checkpoint(r.client)->checkpoint.size, size);
    rig_close(&r);
}

static void a_log_set_back_to_a_copy_shows_to_witnesses_and_clients(void **state)
{
    (void)state;
    struct rig r;
    char cmd[256];
    rig_open(&r);
    assert_true(hand_in(&r, "/parts/gateway/east", GATEWAY_KEY, part_a, 5));
    log_stop(&r);
    snprintf(cmd, sizeof cmd, "cp -r %s %s", log_path(&r.w, "log"), log_path(&r.w, "copy"));
    assert_int_equal(system(cmd), 0);
    log_start(&r, "log", 2);
    assert_true(hand_in(&r, "/parts/gateway/east", GATEWAY_KEY, part_b, 5));
    client_open(&r);
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    log_stop(&r);

    log_start(&r, "copy", 2); /* the witnesses have seen more: nothing newer is shown */
    client_open(&r);
    assert_false(hand_in(&r, "/parts/issuer/bank", ISSUER_KEY, issuer, 1.2));
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "rollback");
    log_stop(&r);

    r.w.keys.quorum = 0; /* without witnesses, a client that saw the other tree sees it too */
    log_start(&r, "copy", 0);
    client_open(&r);
    assert_true(hand_in(&r, "/parts/issuer/bank", ISSUER_KEY, issuer, 5));
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "fork");
    rig_close(&r);
}

static void submitters_are_read_strictly(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
        int code;
    } bad[] = {
        {"", "want a line KIND/NAME KEY", ST_INPUT},
        {"gateway east 0123456789abcdef\n", "line 1: want KIND/NAME KEY", ST_INPUT},
        {"# x\n\nrelay/east 0123456789abcdef\n", "line 3: want a kind", ST_INPUT},
        {"gateway/../x 0123456789abcdef\n", "line 1: want a name", ST_INPUT},
        {"gateway/east short\n", "line 1: want a key of 16 to 512 bytes", ST_INPUT},
        {"gateway/east 0123456789abcdef x\n", "line 1: want a key", ST_INPUT},
        {"gateway/a 0123456789abcdef\ngateway/a 0123456789abcdeg\n", "line 2: its name or its key", ST_INPUT},
        {"gateway/a 0123456789abcdef\nissuer/b 0123456789abcdef\n", "line 2: its name or its key", ST_INPUT},
    };
    struct log_world w;
    struct st_err e;
    struct st_submitters s;
    log_world_open(&w);
    const char *path = log_path(&w, "submitters");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FILE *f = fopen(path, "w");
        fputs(bad[i].text, f);
        fclose(f);
        chmod(path, 0600);
        expect_refusal(st_submitters_load(path, &s, &e), &e, bad[i].code, bad[i].says);
    }
    chmod(path, 0644);
    expect_refusal(st_submitters_load(path, &s, &e), &e, ST_POLICY, "want mode 0600");
    log_world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_become_directories_that_a_client_believes),
        cmocka_unit_test(strangers_are_refused_and_submitters_hear_why),
        cmocka_unit_test(gateways_leave_room_for_the_keys_of_issuers),
        cmocka_unit_test(entries_stand_before_the_directory_and_are_served),
        cmocka_unit_test(a_restarted_log_goes_on_where_it_was),
        cmocka_unit_test(nothing_new_is_shown_without_a_quorum),
        cmocka_unit_test(a_log_set_back_to_a_copy_shows_to_witnesses_and_clients),
        cmocka_unit_test(submitters_are_read_strictly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

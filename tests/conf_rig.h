/* The client's side of the confidential protection against a far side on the same event base, and one request through
 * it. Include expect.h first. */
#ifndef ST_TESTS_CONF_RIG_H
#define ST_TESTS_CONF_RIG_H

#include "conf_make.h"
#include "service/conf_request.h"

struct trip {
    int status;
    char type[64];
    struct st_buf reply;
    bool ended;
    enum st_passage_fault fault;
    struct st_err err;
    void *handle;
};

struct rig {
    struct far far;
    struct st_passage_ref at;
    struct st_conf_client_opts o;
    char relay[64], wallet[160], state[160];
};

static inline void turn(struct rig *r)
{
    const struct timeval most = {0, 20000};
    event_base_loopexit(st_role_base(r->far.role), &most);
    event_base_loop(st_role_base(r->far.role), EVLOOP_ONCE);
}

static inline struct st_passage_info look(struct rig *r)
{
    struct st_passage_info info = {0};
    r->at.vt->info(r->at.p, false, &info);
    return info;
}

/* Until the client is ready, or says this word. */
static inline void wait_state(struct rig *r, const char *word)
{
    double until = st_now() + 8;
    while (st_now() < until) {
        struct st_passage_info i = look(r);
        if (strcmp(i.state, word) == 0 && (strcmp(word, "ok") != 0 || i.ready))
            return;
        turn(r);
    }
    struct st_passage_info i = look(r);
    fail_msg("want state %s, got %s: %s", word, i.state, i.why ? i.why : "");
}

static inline void client_open(struct rig *r)
{
    struct st_err e;
    assert_ok(st_conf_client_open(&r->o, st_role_base(r->far.role), &r->at, &e), &e);
}

static inline void rig_open(struct rig *r, size_t n_node)
{
    memset(r, 0, sizeof *r);
    far_open(&r->far, n_node);
    far_publish(&r->far);
    snprintf(r->wallet, sizeof r->wallet, "%s/wallet", r->far.log.dir);
    snprintf(r->state, sizeof r->state, "%s/state", r->far.log.dir);
    snprintf(r->relay, sizeof r->relay, "%s", r->far.url);
    r->o = (struct st_conf_client_opts){.policy = r->far.policy,
                                        .relay = r->relay,
                                        .issuer = r->far.url,
                                        .account_file = r->far.account,
                                        .wallet = r->wallet,
                                        .log_state = r->state,
                                        .stall_s = 20,
                                        .n_retry = 2};
}

static inline void client_close(struct rig *r)
{
    if (r->at.vt)
        r->at.vt->free(r->at.p);
    r->at = (struct st_passage_ref){0};
}

static inline void rig_close(struct rig *r)
{
    client_close(r);
    assert_false(r->far.twice);
    far_close(&r->far);
}

static inline void on_head(void *arg, int status, const char *type)
{
    struct trip *t = arg;
    assert_int_equal(t->status, 0);
    t->status = status;
    snprintf(t->type, sizeof t->type, "%s", type);
}

static inline void on_data(void *arg, const void *p, size_t len)
{
    struct trip *t = arg;
    assert_true(t->status != 0);
    st_buf_add(&t->reply, p, len);
}

static inline void on_end(void *arg, enum st_passage_fault fault, const struct st_err *e)
{
    struct trip *t = arg;
    assert_false(t->ended);
    t->ended = true;
    t->fault = fault;
    if (e)
        t->err = *e;
}

static const struct st_passage_events events = {on_head, on_data, on_end};

static inline void begin(struct rig *r, struct trip *t, const char *body, const char *client)
{
    const struct st_passage_request q = {.path = "/v1/chat/completions",
                                         .body = far_text(body),
                                         .stream = strstr(body, "\"stream\":true") != NULL,
                                         .model = FAR_MODEL,
                                         .max_tokens = 50,
                                         .n = 1,
                                         .client = client};
    st_buf_free(&t->reply);
    *t = (struct trip){0};
    struct st_err e;
    if (r->at.vt->start(r->at.p, &q, &events, t, &t->handle, &t->fault, &e)) {
        t->err = e;
        t->ended = true;
    }
}

static inline void finish(struct rig *r, struct trip *t)
{
    double until = st_now() + 10;
    while (!t->ended && st_now() < until)
        turn(r);
    assert_true(t->ended);
}

#define WHOLE "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}"
#define STREAM "{\"model\":\"demo\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}"

static inline void ask(struct rig *r, struct trip *t, const char *body)
{
    begin(r, t, body, "me");
    finish(r, t);
}

static inline void expect_fault(const struct trip *t, enum st_passage_fault fault, const char *says)
{
    if (!t->err.code || t->fault != fault || !strstr(t->err.msg, says))
        fail_msg("want %s '%s', got %s %d '%s'", st_passage_fault_word(fault), says, st_passage_fault_word(t->fault),
                 t->err.code, t->err.msg);
}

/* Every unit that was bought is in the wallet or was charged; `lost` were paid for nothing. */
static inline void expect_units(struct rig *r, uint64_t lost)
{
    for (double until = st_now() + 5; st_now() < until; turn(r))
        if (look(r).units == r->far.issued - r->far.charged - lost)
            return;
    fail_msg("%d units: %d bought, %d charged, %d lost", (int)look(r).units, (int)r->far.issued, (int)r->far.charged,
             (int)lost);
}

#endif

/* The gateway and the log: reads the newest directory, has nodes attested after its checkpoint, and hands in the
 * gateway's own part when that is not what the log shows. One cycle after another, by a timer. */
#include "base/hooks.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "channel/ohttp_config.h"
#include "service/gateway_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STALL_S 15
#define SOON_S 1.0       /* until the next cycle while the log does not show our part yet */
#define AGAIN_S 5.0      /* the same part is not handed in more often */
#define LOOK_S 1.0       /* whoever pays with an unknown key makes it look at the log no more often */
#define KEY_SET_FULL 0.5 /* share of the key's set of requests at which it rotates early */
#define KEEP_EPOCHS 2    /* so long the old key stays then: clients look at the log in every epoch */
#define KEEP_DAYS 3      /* of spent tokens; tokens are good for two */

struct token_key {
    uint32_t day, units;
    uint8_t *der;
    size_t len;
    struct st_blind_rsa *key;
};

struct st_gateway_directory {
    struct st_gateway *g;
    struct st_log_client *log;
    char *part_url;
    struct event *timer;
    struct st_http_call *posting;
    struct st_buf part, posted;            /* as it should be; as it was last handed in */
    double posted_at, rotated_at, seen_at; /* seen_at: the log shows the current key since; 0 = not yet */
    struct token_key keys[ST_DIRECTORY_MAX_KEYS];
    size_t n_key;
    uint32_t today;
    double looked_at;
    bool looking;              /* somebody waits for a key, and the log was asked */
    bool shown;                /* the log shows our part as it should be */
    bool ready, away, refused; /* away: the log; refused: our part, by the log */
    uint64_t epoch;
    double every; /* seconds of an epoch */
};

static void cycle(struct st_gateway_directory *d);

static void next_in(struct st_gateway_directory *d, double seconds)
{
    const struct timeval tv = {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    event_add(d->timer, &tv);
}

static void say(struct st_gateway_directory *d, const struct st_err *e)
{
    if (e && !d->away)
        st_log(ST_LOG_ERROR, "the log cannot be used: %s", e->msg);
    if (!e && d->away)
        st_log(ST_LOG_INFO, "the log is back");
    d->away = e != NULL;
}

/* ---- the issuer's keys ---- */

static void key_wipe(struct token_key *k)
{
    st_blind_rsa_free(k->key);
    free(k->der);
    *k = (struct token_key){0};
}

static const struct st_directory_issuer *our_issuer(const struct st_gateway_directory *d,
                                                    const struct st_directory *dir, struct st_err *e)
{
    const char *name = d->g->o.issuer_name;
    const struct st_directory_issuer *i = NULL;
    if (name)
        i = st_directory_find_issuer(dir, name);
    else if (dir->n_issuer == 1)
        i = &dir->issuers[0];
    if (!i && name)
        st_fail(e, ST_INPUT, "the directory has no issuer '%s'", name);
    else if (!i)
        st_fail(e, ST_INPUT, "the directory has %zu issuers; want --issuer-name", dir->n_issuer);
    return i;
}

static bool have_key(const struct st_gateway_directory *d, const struct st_directory_key *k)
{
    for (size_t i = 0; i < d->n_key; i++)
        if (d->keys[i].day == k->day && d->keys[i].units == k->units && d->keys[i].len == k->key.len &&
            memcmp(d->keys[i].der, k->key.p, k->key.len) == 0)
            return true;
    return false;
}

static int add_key(struct st_gateway_directory *d, const struct st_directory_key *from, struct st_err *e)
{
    struct token_key *k = &d->keys[d->n_key];
    *k = (struct token_key){.day = from->day, .units = from->units, .len = from->key.len};
    k->der = malloc(k->len);
    int rc = k->der ? st_blind_rsa_parse_public(from->key.p, from->key.len, &k->key, e)
                    : st_fail(e, ST_MEMORY, "no memory for a key");
    if (rc) {
        key_wipe(k);
        return rc;
    }
    memcpy(k->der, from->key.p, k->len);
    d->n_key++;
    return 0;
}

/* Those that are no longer in the directory go; parsed ones stay as they are. */
static void take_keys(struct st_gateway_directory *d, const struct st_directory_issuer *i)
{
    struct st_err e;
    for (size_t k = 0; k < d->n_key;) {
        const struct st_directory_key *now = st_directory_find_key(i, d->keys[k].day, d->keys[k].units);
        if (now && now->key.len == d->keys[k].len && memcmp(now->key.p, d->keys[k].der, now->key.len) == 0) {
            k++;
            continue;
        }
        key_wipe(&d->keys[k]);
        d->keys[k] = d->keys[--d->n_key];
    }
    for (size_t k = 0; k < i->n_key; k++)
        if (!have_key(d, &i->keys[k]) && add_key(d, &i->keys[k], &e))
            st_log(ST_LOG_WARN, "issuer %s: the key of day %u, %u units: %s", i->name, i->keys[k].day, i->keys[k].units,
                   e.msg);
}

static bool good_day(uint32_t day)
{
    uint32_t today = (uint32_t)(st_unix_time() / ST_TOKEN_DAY_S);
    return day == today || day + 1 == today;
}

bool st_gateway_token_may_have_key(uint32_t day, uint32_t units)
{
    bool known = false;
    for (int i = 0; i < ST_TOKEN_N_UNITS; i++)
        known = known || st_token_units[i] == units;
    return known && good_day(day);
}

const struct st_blind_rsa *st_gateway_token_key(const struct st_gateway_directory *d, uint32_t day, uint32_t units)
{
    if (!good_day(day))
        return NULL;
    for (size_t i = 0; i < d->n_key; i++)
        if (d->keys[i].day == day && d->keys[i].units == units)
            return d->keys[i].key;
    return NULL;
}

/* ---- our own key ---- */

/* A new key is accepted from now on and used once the log shows it; the old one stays until everybody can know. Anybody
 * can fill a key's set with requests that cost nothing: then the old one makes room as soon as clients can have seen
 * the current one. */
static void rotate(struct st_gateway_directory *d)
{
    struct st_gateway *g = d->g;
    struct st_err e;
    double now = st_now();
    bool full = st_keyring_used(g->keys) >= KEY_SET_FULL, due = full || now - d->rotated_at >= g->o.rotate_s;
    double least = KEEP_EPOCHS * d->every, keep = full && least < g->o.keep_key_s ? least : g->o.keep_key_s;
    if (st_keyring_previous(g->keys) && d->seen_at > 0 && now - d->seen_at >= keep)
        st_keyring_forget(g->keys);
    if (!due || st_keyring_previous(g->keys))
        return;
    if (st_keyring_rotate(g->keys, &e)) {
        st_log(ST_LOG_ERROR, "a new key: %s", e.msg);
        return;
    }
    st_log(ST_LOG_INFO, "a new key is made");
    d->rotated_at = now;
    d->seen_at = 0;
}

/* ---- the part ---- */

static int make_part(struct st_gateway_directory *d, struct st_err *e)
{
    struct st_gateway *g = d->g;
    struct st_buf keys = {0};
    struct st_directory_node *rows = NULL;
    int rc = st_alloc(&rows, ST_DIRECTORY_MAX_NODES, sizeof *rows, "rows of the directory", e);
    if (rc)
        return rc;
    st_ohttp_config_add_list(&keys, st_keyring_current(g->keys), 1);
    struct st_directory_gateway own = {.keys = {(uint8_t *)keys.p, keys.len},
                                       .price_request = g->o.price_request,
                                       .unit_bytes = g->o.unit_bytes,
                                       .nodes = rows,
                                       .n_node = st_gateway_nodes_rows(g->nodes, rows)};
    snprintf(own.name, sizeof own.name, "%s", g->o.name);
    st_buf_clear(&d->part);
    st_directory_write_gateway(&own, &d->part);
    if (keys.failed || d->part.failed)
        rc = st_fail(e, ST_MEMORY, "no memory for the part of the directory");
    st_buf_free(&keys);
    free(rows);
    return rc;
}

static void on_posted(void *arg, int status, const struct st_err *err)
{
    struct st_gateway_directory *d = arg;
    d->posting = NULL;
    if (err) {
        say(d, err);
        return;
    }
    bool refused = status / 100 != 2;
    if (refused && !d->refused)
        st_log(ST_LOG_ERROR, "the log refuses the part of gateway/%s: status %d%s", d->g->o.name, status,
               status == 401 || status == 403 ? " (is the key of --log-key-file that submitter's?)" : "");
    if (!refused && d->refused)
        st_log(ST_LOG_INFO, "the log takes this gateway's part");
    d->refused = refused;
}

static void post(struct st_gateway_directory *d)
{
    struct st_err e;
    struct st_buf body = {0};
    bool same = d->posted.len == d->part.len && memcmp(d->posted.p, d->part.p, d->part.len) == 0;
    if (d->posting || (same && st_now() - d->posted_at < AGAIN_S))
        return;
    st_buf_clear(&d->posted);
    st_buf_add(&d->posted, d->part.p, d->part.len);
    d->posted_at = st_now();
    st_buf_add(&body, d->part.p, d->part.len);
    const struct st_http_call_opts o = {.url = d->part_url,
                                        .bearer = d->g->log_key.p,
                                        .body = &body,
                                        .stall_s = STALL_S,
                                        .max_reply = 64u << 10,
                                        .end = on_posted,
                                        .arg = d};
    if (st_http_call_start(d->g->http, &o, &d->posting, &e))
        say(d, &e);
    st_buf_free(&body);
}

static bool row_has_key(const struct st_directory_gateway *row, const struct st_ohttp_config *key)
{
    struct st_buf list = {0};
    if (key)
        st_ohttp_config_add_list(&list, key, 1);
    bool has = row && key && row->keys.len == list.len && memcmp(row->keys.p, list.p, list.len) == 0;
    st_buf_free(&list);
    return has;
}

/* What the log shows of us. Either key is good for those who know it. */
static void look(struct st_gateway_directory *d)
{
    const struct st_directory *dir = st_log_client_directory(d->log);
    const struct st_directory_gateway *row = dir ? st_directory_find_gateway(dir, d->g->o.name) : NULL;
    struct st_buf text = {0};
    bool current = row_has_key(row, st_keyring_current(d->g->keys));
    if (current && d->seen_at == 0)
        d->seen_at = st_now();
    d->ready = (current || row_has_key(row, st_keyring_previous(d->g->keys))) && row->n_node > 0;
    if (row)
        st_directory_write_gateway(row, &text);
    d->shown = row && text.len == d->part.len && memcmp(text.p, d->part.p, text.len) == 0;
    st_buf_free(&text);
}

/* Ends a cycle. */
static void publish(struct st_gateway_directory *d)
{
    struct st_err e;
    if (make_part(d, &e)) {
        say(d, &e);
        next_in(d, d->g->o.refresh_s);
        return;
    }
    look(d);
    if (!d->shown)
        post(d);
    next_in(d, d->shown || d->g->o.refresh_s < SOON_S ? d->g->o.refresh_s : SOON_S);
}

/* ---- cycle ---- */

static void on_attested(void *arg)
{
    publish(arg);
}

static void read_issuer(struct st_gateway_directory *d, const struct st_directory *dir)
{
    struct st_err e;
    const struct st_directory_issuer *issuer = our_issuer(d, dir, &e);
    if (issuer)
        take_keys(d, issuer);
    else if (dir->epoch != d->epoch)
        st_log(ST_LOG_WARN, "no token can be taken: %s", e.msg);
    d->epoch = dir->epoch;
    d->every = dir->every;
}

static void on_refreshed(void *arg, const struct st_err *err)
{
    struct st_gateway_directory *d = arg;
    const struct st_directory *dir = st_log_client_directory(d->log);
    say(d, err);
    if (err || !dir) {
        /* A new log has no directory before somebody hands in a part. What was known stays as it was. */
        publish(d);
        return;
    }
    read_issuer(d, dir);
    st_gateway_nodes_attest(d->g->nodes, st_log_client_checkpoint(d->log), st_log_client_note(d->log), on_attested, d);
}

static void forget_old_days(struct st_gateway_directory *d)
{
    uint32_t today = (uint32_t)(st_unix_time() / ST_TOKEN_DAY_S);
    if (today == d->today)
        return;
    d->today = today;
    st_spent_forget(d->g->spent, today - KEEP_DAYS);
}

static void cycle(struct st_gateway_directory *d)
{
    struct st_err e;
    rotate(d);
    forget_old_days(d);
    if (st_log_client_refresh(d->log, on_refreshed, d, &e)) {
        say(d, &e);
        next_in(d, d->g->o.refresh_s);
    }
}

/* ---- in between ---- */

static void on_looked(void *arg, const struct st_err *err)
{
    struct st_gateway_directory *d = arg;
    d->looking = false;
    if (!err)
        read_issuer(d, st_log_client_directory(d->log));
    st_gateway_forward_keys(d->g);
}

bool st_gateway_directory_look(struct st_gateway_directory *d)
{
    struct st_err e;
    if (!d->looking && st_now() - d->looked_at >= LOOK_S) {
        d->looked_at = st_now();
        d->looking = st_log_client_refresh(d->log, on_looked, d, &e) == 0;
    }
    return d->looking;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    cycle(arg);
}

bool st_gateway_directory_ready(const struct st_gateway_directory *d)
{
    return d->ready;
}

/* ---- life ---- */

int st_gateway_directory_new(struct st_gateway *g, struct st_gateway_directory **out, struct st_err *e)
{
    struct st_gateway_directory *d = NULL;
    const struct st_tlog_keys *keys = st_policy_log(g->policy);
    *out = NULL;
    if (!keys)
        return st_fail(e, ST_POLICY, "%s: log: want the log whose directory is believed", g->o.policy);
    if (st_alloc(&d, 1, sizeof *d, "directory", e))
        return e->code;
    d->g = g;
    d->rotated_at = st_now();
    *out = d; /* freed by the caller, whatever comes */
    if (asprintf(&d->part_url, "%s" ST_LOG_PATH_PART "gateway/%s", g->log_url, g->o.name) < 0) {
        d->part_url = NULL;
        return st_fail(e, ST_MEMORY, "no memory");
    }
    const struct st_log_client_opts o = {
        .url = g->log_url, .state_file = g->o.log_state, .keys = *keys, .stall_s = STALL_S};
    if (st_log_client_new(g->http, &o, &d->log, e))
        return e->code;
    d->timer = event_new(g->base, -1, 0, on_timer, d);
    if (!d->timer)
        return st_fail(e, ST_MEMORY, "timer: no memory");
    next_in(d, 0);
    return 0;
}

void st_gateway_directory_free(struct st_gateway_directory *d)
{
    if (!d)
        return;
    if (d->posting)
        st_http_call_cancel(d->posting);
    st_log_client_free(d->log);
    if (d->timer)
        event_free(d->timer);
    while (d->n_key)
        key_wipe(&d->keys[--d->n_key]);
    st_buf_free(&d->part);
    st_buf_free(&d->posted);
    free(d->part_url);
    free(d);
}

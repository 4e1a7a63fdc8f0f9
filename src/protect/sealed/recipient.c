#include "protect/sealed/recipient.h"
#include "protect/sealed/vault.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#define X(name) extern const struct st_recipient_kind st_recipient_##name;
#include "protect/sealed/recipients.def"
#undef X

static const struct st_recipient_kind *const kinds[] = {
#define X(name) &st_recipient_##name,
#include "protect/sealed/recipients.def"
#undef X
    NULL};

const struct st_recipient_kind *st_recipient_kind(size_t i)
{
    return i < sizeof kinds / sizeof *kinds ? kinds[i] : NULL;
}

/* NULL when there is none of that name. */
static const struct st_recipient_kind *kind_of(const char *name, size_t len)
{
    for (size_t i = 0; kinds[i]; i++)
        if (strlen(kinds[i]->name) == len && memcmp(kinds[i]->name, name, len) == 0)
            return kinds[i];
    return NULL;
}

static int unknown_kind(const char *name, size_t len, struct st_err *e)
{
    char names[128] = "";
    for (size_t i = 0; kinds[i]; i++) {
        size_t at = strlen(names);
        snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", kinds[i]->name);
    }
    return st_fail(e, ST_USAGE, "recipient '%.*s': want one of %s", len < 40 ? (int)len : 40, name, names);
}

int st_recipient_find(const char *name, const struct st_recipient_kind **out, struct st_err *e)
{
    *out = kind_of(name, strlen(name));
    return *out ? 0 : unknown_kind(name, strlen(name), e);
}

int st_recipient_add(json_t *list, const char *spec, struct st_wrap_to to, struct st_err *e)
{
    const char *colon = strchr(spec, ':');
    size_t len = colon ? (size_t)(colon - spec) : strlen(spec);
    const struct st_recipient_kind *k = kind_of(spec, len);
    json_t *entry = NULL;
    if (!k)
        return unknown_kind(spec, len, e);
    if (json_array_size(list) >= ST_RECIPIENTS_MAX)
        return st_fail(e, ST_USAGE, "recipients: at most %d", ST_RECIPIENTS_MAX);
    to.arg = colon ? colon + 1 : NULL;
    int rc = k->wrap(&to, &entry, e);
    if (rc)
        return st_err_prefix(e, "recipient %.100s", spec);
    bool bad = json_object_set_new(entry, "kind", json_string(k->name)) != 0 || json_array_append(list, entry) != 0;
    json_decref(entry);
    return bad ? st_fail(e, ST_MEMORY, "recipients: out of memory") : 0;
}

/* It is shown: what would talk to the terminal, or begin a line of its own, is no kind. */
static bool is_kind(const char *s)
{
    size_t n = 0;
    while (s[n] >= ' ' && s[n] <= '~')
        n++;
    return n > 0 && n <= 40 && !s[n];
}

int st_recipients_parse(struct st_span text, const char *where, json_t **out, struct st_err *e)
{
    json_t *list = NULL;
    const char *kind;
    int rc = st_json_parse(text.p, text.len, where, &list, e);
    size_t n = json_array_size(list);
    *out = NULL;
    if (!rc && (n == 0 || n > ST_RECIPIENTS_MAX))
        rc = st_fail(e, ST_INPUT, "%s: recipients: want an array of 1..%d objects", where, ST_RECIPIENTS_MAX);
    for (size_t i = 0; !rc && i < n; i++) {
        const json_t *entry = json_array_get(list, i);
        if (!json_is_object(entry))
            rc = st_fail(e, ST_INPUT, "%s: recipient %zu: want an object", where, i + 1);
        else if (st_json_need(entry, where, "kind", e) || st_json_str(entry, where, "kind", &kind, e))
            rc = e->code;
        else if (!is_kind(kind))
            rc = st_fail(e, ST_INPUT, "%s: recipient %zu: kind: want 1..40 letters, digits and signs", where, i + 1);
    }
    if (rc)
        json_decref(list);
    else
        *out = list;
    return rc;
}

/* Whether the key is the one that made the header. */
static int check_key(const struct st_container *c, const struct st_container_about *about,
                     const struct st_secret *content_key, struct st_err *e)
{
    uint8_t mac[32];
    int rc = st_vault_mac(content_key, about->id, about->digest, mac, e);
    if (!rc && CRYPTO_memcmp(mac, st_container_mac(c), sizeof mac) != 0)
        rc = st_fail(e, ST_VERIFY, "gives a key that is not this container's");
    return rc;
}

static int open_by(const struct st_recipient_kind *k, const struct st_container *c, const struct st_unlock *u,
                   const json_t *entry, struct st_secret *content_key, struct st_err *e)
{
    struct st_container_about about;
    st_container_about(c, &about);
    int rc = k->unwrap(u, about.id, about.version, entry, content_key, e);
    if (rc)
        return rc;
    rc = check_key(c, &about, content_key, e);
    if (!rc && k->opened)
        rc = k->opened(u, about.id, about.version, entry, e);
    if (rc)
        st_secret_wipe(content_key);
    return rc;
}

/* A service that has the publisher's seed needs no recipient. */
static int open_by_seed(const struct st_container *c, const struct st_unlock *u, struct st_secret *content_key,
                        struct st_err *e)
{
    struct st_container_about about;
    st_container_about(c, &about);
    int rc = u->release(u->release_ctx, NULL, content_key, e);
    if (!rc && (rc = check_key(c, &about, content_key, e)))
        st_secret_wipe(content_key);
    return rc ? st_err_prefix(e, "%.200s", st_container_path(c)) : 0;
}

static bool has_kind(const json_t *list, const char *kind)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_object_get(json_array_get(list, i), "kind")), kind) == 0)
            return true;
    return false;
}

/* What would open the container, as far as it is known here. */
static int nothing_fits(const json_t *list, const char *path, struct st_err *e)
{
    char ways[300] = "";
    bool asked = false; /* for something that the user could give */
    for (size_t k = 0; kinds[k]; k++) {
        size_t at = strlen(ways);
        if (!has_kind(list, kinds[k]->name))
            continue;
        snprintf(ways + at, sizeof ways - at, "%s%s (%s)", at ? ", or " : "", kinds[k]->opened_by, kinds[k]->name);
        asked = asked || !kinds[k]->of_machine;
    }
    if (!ways[0])
        return st_fail(e, ST_UNSUPPORTED, "%s: none of its recipients is of a kind that is known here", path);
    return st_fail(e, asked ? ST_USAGE : ST_UNSUPPORTED, "%s: is sealed; want %s", path, ways);
}

/* Before any is tried: a list may ask for hours. */
static int check_work(const json_t *list, const struct st_unlock *u, const char *path, struct st_err *e)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(entry, "kind"));
        const struct st_recipient_kind *k = kind_of(name, strlen(name));
        sum += k && k->work && k->wanted(u) ? k->work(entry) : 0;
    }
    return sum <= ST_RECIPIENTS_WORK
               ? 0
               : st_fail(e, ST_INPUT,
                         "%s: recipients: trying all of them would write %llu GiB of memory; at "
                         "most %llu are accepted",
                         path, (unsigned long long)(sum >> 20), (unsigned long long)(ST_RECIPIENTS_WORK >> 20));
}

int st_recipient_open(const struct st_container *c, const struct st_unlock *u, struct st_secret *content_key,
                      struct st_err *e)
{
    const char *path = st_container_path(c);
    json_t *list = NULL;
    bool tried = false;
    *content_key = (struct st_secret){0};
    int rc = st_recipients_parse(st_container_recipients(c), path, &list, e);
    if (rc)
        return rc;
    rc = check_work(list, u, path, e);
    if (rc) {
        json_decref(list);
        return rc;
    }
    rc = ST_VERIFY; /* until one opens */
    for (size_t i = 0; rc && i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(entry, "kind"));
        const struct st_recipient_kind *k = kind_of(name, strlen(name));
        if (!k || !k->wanted(u))
            continue;
        tried = true;
        rc = open_by(k, c, u, entry, content_key, e);
        if (rc)
            st_err_prefix(e, "%.200s: recipient %zu (%s)", path, i + 1, k->name);
    }
    if (rc && u->release && !has_kind(list, "hpke"))
        rc = open_by_seed(c, u, content_key, e);
    else if (!tried)
        rc = nothing_fits(list, path, e);
    json_decref(list);
    return rc;
}

void st_recipient_describe(const json_t *entry, struct st_buf *out)
{
    const char *name = json_string_value(json_object_get(entry, "kind"));
    const struct st_recipient_kind *k = kind_of(name, strlen(name));
    if (!k) {
        st_buf_addf(out, "%.40s (a kind that is not known here)", name);
        return;
    }
    st_buf_addf(out, "%s (", k->name);
    k->describe(entry, out);
    st_buf_add_str(out, ")");
}

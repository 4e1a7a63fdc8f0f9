/* sotto seal inspect FILE: what a container says of itself, which needs no key. */
#include "base/mem.h"
#include "cli/seal.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

/* What lies in one place. */
struct share {
    size_t n_tensor, n_file;
    uint64_t n_segment, bytes; /* before they were sealed */
};

static struct share count(const struct st_container *c, enum st_container_place place)
{
    struct share s = {0};
    for (size_t i = 0; i < st_container_count(c); i++) {
        const struct st_container_entry *n = st_container_at(c, i);
        if (n->place != place)
            continue;
        *(n->is_file ? &s.n_file : &s.n_tensor) += 1;
        s.n_segment += n->n_segment;
        s.bytes += n->tensor.bytes;
    }
    return s;
}

static const char *place_word(const struct st_container_entry *n)
{
    return n->place == ST_CONTAINER_INSIDE ? "inside" : "outside";
}

static void add_quoted(struct st_buf *b, const char *field, const char *text)
{
    st_buf_addf(b, ", \"%s\": ", field);
    st_json_quote(b, text, strlen(text));
}

static void add_shape(struct st_buf *b, const struct st_tensor *t)
{
    st_buf_add_str(b, "[");
    for (int k = 0; k < t->n_dim; k++)
        st_buf_addf(b, "%s%" PRIu64, k ? "," : "", t->dim[k]);
    st_buf_add_str(b, "]");
}

static void add_json_share(struct st_buf *b, const struct st_container *c, enum st_container_place place)
{
    struct share s = count(c, place);
    st_buf_addf(b, "{\"tensors\": %zu, \"files\": %zu, \"segments\": %" PRIu64 ", \"bytes\": %" PRIu64 "}", s.n_tensor,
                s.n_file, s.n_segment, s.bytes);
}

static void add_json_entries(struct st_buf *b, const struct st_container *c)
{
    st_buf_add_str(b, ", \"entries\": [");
    for (size_t i = 0; i < st_container_count(c); i++) {
        const struct st_container_entry *n = st_container_at(c, i);
        st_buf_add_str(b, i ? ", {\"name\": " : "{\"name\": ");
        st_json_quote(b, n->tensor.name, strlen(n->tensor.name));
        st_buf_addf(b, ", \"place\": \"%s\"", place_word(n));
        if (!n->is_file) {
            st_buf_addf(b, ", \"dtype\": \"%s\", \"shape\": ", n->tensor.stored);
            add_shape(b, &n->tensor);
        }
        st_buf_addf(b, ", \"bytes\": %zu, \"segments\": %" PRIu32 "}", n->tensor.bytes, n->n_segment);
    }
    st_buf_add_str(b, "]");
}

struct hex {
    char id[33], publisher[65], digest[65];
};

static void add_json(struct st_buf *b, const struct st_container *c, const struct st_container_about *a,
                     const struct hex *h, const json_t *recipients, bool checked)
{
    st_buf_add_str(b, "{\"container\": ");
    st_json_quote(b, st_container_path(c), strlen(st_container_path(c)));
    add_quoted(b, "name", a->name);
    st_buf_addf(b, ", \"kind\": \"%s\", \"id\": \"%s\", \"version\": %" PRIu64 ", \"created\": %" PRId64,
                a->kind == ST_CONTAINER_MODEL ? "model" : "adapter", h->id, a->version, a->created);
    st_buf_addf(b, ", \"publisher\": \"%s\", \"digest\": \"%s\"", h->publisher, h->digest);
    add_quoted(b, "policy", a->policy);
    st_buf_addf(b, ", \"checked\": %s, \"recipients\": [", checked ? "true" : "false");
    for (size_t i = 0; i < json_array_size(recipients); i++) {
        struct st_buf words = {0};
        st_recipient_describe(json_array_get(recipients, i), &words);
        st_buf_add_str(b, i ? ", " : "");
        st_json_quote(b, words.p ? words.p : "", words.len);
        st_buf_free(&words);
    }
    st_buf_add_str(b, "], \"inside\": ");
    add_json_share(b, c, ST_CONTAINER_INSIDE);
    st_buf_add_str(b, ", \"outside\": ");
    add_json_share(b, c, ST_CONTAINER_OUTSIDE);
    add_json_entries(b, c);
    st_buf_add_str(b, "}\n");
}

static void add_share(struct st_buf *b, const struct st_container *c, enum st_container_place place, const char *words)
{
    struct share s = count(c, place);
    char size[ST_MEM_TEXT];
    st_buf_addf(b, "%s%zu tensors", words, s.n_tensor);
    if (s.n_file)
        st_buf_addf(b, ", %zu files", s.n_file);
    st_buf_addf(b, ", %s in %" PRIu64 " segments\n", st_mem_text(s.bytes, size), s.n_segment);
}

static void add_text(struct st_buf *b, const struct st_container *c, const struct st_container_about *a,
                     const struct hex *h, const json_t *recipients, const struct st_seal_cmd *o, bool verbose)
{
    char when[32] = "at no known time", size[ST_MEM_TEXT];
    struct tm tm;
    time_t created = (time_t)a->created;
    if (gmtime_r(&created, &tm))
        strftime(when, sizeof when, "%Y-%m-%d %H:%M UTC", &tm);
    st_buf_addf(b, "%s: %s %s, version %" PRIu64 ", sealed %s\n", st_container_path(c),
                a->kind == ST_CONTAINER_MODEL ? "model" : "adapter", a->name, a->version, when);
    st_buf_addf(b, "id         %s\ndigest     %s\npublisher  %s\npolicy     %s\n", h->id, h->digest, h->publisher,
                a->policy);
    for (size_t i = 0; i < json_array_size(recipients); i++) {
        st_buf_addf(b, "recipient  %zu  ", i + 1);
        st_recipient_describe(json_array_get(recipients, i), b);
        st_buf_add_str(b, "\n");
    }
    add_share(b, c, ST_CONTAINER_INSIDE, "inside     ");
    add_share(b, c, ST_CONTAINER_OUTSIDE, "outside    ");
    for (size_t i = 0; verbose && i < st_container_count(c); i++) {
        const struct st_container_entry *n = st_container_at(c, i);
        st_buf_addf(b, "  %-7s  %s  %s", place_word(n), n->tensor.name, n->is_file ? "" : n->tensor.stored);
        if (!n->is_file)
            add_shape(b, &n->tensor);
        st_buf_addf(b, "  %s\n", st_mem_text(n->tensor.bytes, size));
    }
    st_buf_add_str(b, o->check ? "signatures and all segments are as they were signed\n"
                               : "signatures are good; segments were not looked at (--check)\n");
}

int st_seal_inspect(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e)
{
    const char *path = cli->args[1];
    struct st_container *c;
    struct st_container_about a;
    struct hex h;
    struct st_buf b = {0};
    json_t *recipients = NULL;
    int rc = st_container_open(path, &c, e);
    if (rc)
        return rc;
    st_container_about(c, &a);
    st_hex(a.id, sizeof a.id, h.id);
    st_hex(a.publisher, sizeof a.publisher, h.publisher);
    st_hex(a.digest, sizeof a.digest, h.digest);
    rc = st_recipients_parse(st_container_recipients(c), path, &recipients, e);
    if (!rc && o->check)
        rc = st_container_check(c, cli->n_threads, !cli->quiet, e);
    if (!rc && cli->json)
        add_json(&b, c, &a, &h, recipients, o->check);
    else if (!rc)
        add_text(&b, c, &a, &h, recipients, o, cli->verbose);
    if (!rc && b.failed)
        rc = st_fail(e, ST_MEMORY, "%s: no memory for the report", path);
    if (!rc)
        fputs(b.p, stdout);
    json_decref(recipients);
    st_buf_free(&b);
    st_container_close(c);
    return rc;
}

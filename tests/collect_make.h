/* What tests of collecting share: a directory of small files, keys of a node, a collected bundle, and a policy's word
 * on it. Include expect.h first. */
#ifndef ST_TESTS_COLLECT_MAKE_H
#define ST_TESTS_COLLECT_MAKE_H

#include "attest/collector.h"
#include "attest/policy.h"
#include "base/hooks.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* RFC 8032, test 1. */
#define SIM_SEED "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
#define SIM_ROOT "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"

#define MADE_FILES 16
struct made_dir {
    char path[64];
    char *names[MADE_FILES];
    int n;
};

static inline struct made_dir made_dir(void)
{
    struct made_dir d = {.path = "/tmp/sotto_collect_XXXXXX"};
    assert_non_null(mkdtemp(d.path));
    return d;
}

static inline const char *made_bytes(struct made_dir *d, const char *name, const void *p, size_t len)
{
    assert_true(d->n < MADE_FILES);
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", d->path, name) > 0);
    d->names[d->n++] = path;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    return path;
}

static inline const char *made_file(struct made_dir *d, const char *name, const char *text)
{
    return made_bytes(d, name, text, strlen(text));
}

static inline int remove_entry(const char *path, const struct stat *sb, int type, struct FTW *at)
{
    (void)sb;
    (void)type;
    (void)at;
    return remove(path);
}

static inline void made_dir_remove(struct made_dir *d)
{
    nftw(d->path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    while (d->n)
        free(d->names[--d->n]);
}

static inline struct st_binding made_binding(void)
{
    return (struct st_binding){.suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, 1},
                               .hpke_key = {1},
                               .hpke_key_len = 32,
                               .receipt_key = {2},
                               .nonce = {3},
                               .nonce_len = 32,
                               .engine = {4},
                               .has_engine = true,
                               .model = {5},
                               .has_model = true};
}

/* Written and read back, as it travels. */
static inline struct st_bundle collect_from(struct st_collection *c)
{
    const struct st_binding keys = made_binding();
    struct st_bundle b, read;
    struct st_buf text = {0};
    struct st_err e = {0};
    assert_ok(st_collection_collect(c, &keys, &b, &e), &e);
    st_bundle_write(&b, &text);
    assert_ok(st_bundle_parse(text.p, text.len, "bundle", &read, &e), &e);
    st_bundle_free(&b);
    st_buf_free(&text);
    return read;
}

static inline struct st_bundle collect_now(const struct st_collect_opts *o, const char *const *kinds, size_t n)
{
    struct st_collection *c;
    struct st_err e = {0};
    assert_ok(st_collection_open(kinds, n, o, &c, &e), &e);
    struct st_bundle b = collect_from(c);
    assert_ok(st_collection_unchanged(c, &e), &e);
    st_collection_close(c);
    return b;
}

/* demands: fields of a policy. When it is not to be good: `wrong` is a check that does not pass. */
static inline void expect_judged_at(const struct st_bundle *b, int64_t now, const char *demands, bool good,
                                    const char *wrong)
{
    struct st_buf text = {0};
    struct st_policy *p;
    struct st_verdict v;
    struct st_err e = {0};
    const struct st_binding keys = made_binding();
    st_buf_addf(&text, "{\"version\": 1, %s}", demands);
    assert_ok(st_policy_parse(text.p, text.len, "policy", &p, &e), &e);
    const struct st_judge j = {
        .policy = p, .bundle = b, .time = now, .nonce = {keys.nonce, keys.nonce_len}, .nonce_time = now};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    for (size_t i = 0; i < v.found.n_check && v.good != good; i++)
        print_message("%d %s: %s\n", v.found.checks[i].result, v.found.checks[i].name, v.found.checks[i].detail);
    assert_int_equal(v.good, good);
    const struct st_check *c = good ? NULL : st_appraisal_find_check(&v.found, wrong);
    if (!good && (!c || c->result == ST_CHECK_PASS))
        fail_msg("%s: want a failure, got %s", wrong, c ? "a pass" : "nothing");
    st_verdict_wipe(&v);
    st_policy_free(p);
    st_buf_free(&text);
}

static inline void expect_judged(const struct st_bundle *b, const char *demands, bool good, const char *wrong)
{
    expect_judged_at(b, st_unix_time(), demands, good, wrong);
}

/* PEM as a string of JSON. */
static inline void add_pem_text(struct st_buf *text, const struct st_buf *pem)
{
    for (size_t i = 0; i < pem->len; i++)
        if (pem->p[i] == '\n')
            st_buf_add_str(text, "\\n");
        else
            st_buf_add(text, pem->p + i, 1);
}

#endif

/* What tests of sealed containers share: a folder, cheap keys, sealing a tiny model, opening what came out, and
 * comparing it with its source. */
#ifndef ST_TESTS_SEAL_MAKE_H
#define ST_TESTS_SEAL_MAKE_H

#include "expect.h"
#include "protect/sealed/vault.h"
#include "protect/sealed/writer.h"
#include "tiny.h"

#include <sys/stat.h>

static const struct st_argon2 seal_cheap = {1, 8, 1};

static inline struct st_secret seal_secret(const void *p, size_t len)
{
    struct st_secret s;
    struct st_err e;
    assert_ok(st_secret_init(&s, len, &e), &e);
    memcpy(s.p, p, len);
    return s;
}

static inline struct st_secret seal_seed(uint8_t first)
{
    const uint8_t seed[32] = {first, 7};
    return seal_secret(seed, sizeof seed);
}

struct seal_rig {
    char dir[64], src[128], dst[128], part[140];
    struct st_secret seed, word;
    const char *recipients[4];
    struct st_seal_opts o;
    struct st_seal_report report;
};

/* A tiny model in dir/src; options that seal it for the passphrase "word". Those who fork make secrets again. */
static inline void seal_rig_open(struct seal_rig *r, const struct tiny *t)
{
    *r = (struct seal_rig){.recipients = {"passphrase"}};
    tiny_mkdir(r->dir);
    snprintf(r->src, sizeof r->src, "%s/src", r->dir);
    snprintf(r->dst, sizeof r->dst, "%s/m.sealed", r->dir);
    snprintf(r->part, sizeof r->part, "%s.part", r->dst);
    assert_int_equal(mkdir(r->src, 0700), 0);
    if (t)
        tiny_write(t, r->src);
    r->seed = seal_seed(3);
    r->word = seal_secret("word", 4);
    r->o = (struct st_seal_opts){.policy = "paper",
                                 .recipients = r->recipients,
                                 .n_recipient = 1,
                                 .seed = &r->seed,
                                 .passphrase = &r->word,
                                 .cost = &seal_cheap,
                                 .n_threads = 2};
}

static inline void seal_remove(const char *dir)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

static inline void seal_rig_close(struct seal_rig *r)
{
    st_secret_wipe(&r->seed);
    st_secret_wipe(&r->word);
    seal_remove(r->dir);
}

static inline void seal_it(struct seal_rig *r, const char *dst)
{
    struct st_err e;
    assert_ok(st_seal(r->src, dst, &r->o, &r->report, &e), &e);
}

struct seal_opened {
    struct st_container *c;
    struct st_secret key;
    struct st_vault *v;
};

/* As whoever has the passphrase does. Returns the first error; what is open is to be closed also then. */
static inline int seal_open(const char *path, const char *word, struct seal_opened *o, struct st_err *e)
{
    struct st_secret w = seal_secret(word, strlen(word));
    const struct st_unlock u = {.passphrase = &w};
    *o = (struct seal_opened){0};
    int rc = st_container_open(path, &o->c, e);
    if (!rc)
        rc = st_recipient_open(o->c, &u, &o->key, e);
    if (!rc)
        rc = st_vault_new(o->c, &o->key, false, &o->v, e);
    st_secret_wipe(&w);
    return rc;
}

static inline void seal_close(struct seal_opened *o)
{
    st_vault_free(o->v);
    st_secret_wipe(&o->key);
    st_container_close(o->c);
}

/* Every segment of every entry, decrypted or checked. The first error. */
static inline int seal_read_all(struct seal_opened *o, struct st_err *e)
{
    uint8_t *p = malloc(ST_CONTAINER_SEGMENT);
    int rc = 0;
    for (size_t i = 0; !rc && i < st_container_count(o->c); i++)
        for (uint32_t k = 0; !rc && k < st_container_at(o->c, i)->n_segment; k++)
            rc = st_vault_segment(o->v, st_container_at(o->c, i), k, p, e);
    free(p);
    return rc;
}

/* Every tensor of the container is that of the checkpoint, byte by byte; returns how many. */
static inline size_t seal_compare(struct seal_opened *o, const struct st_ckpt *ckpt)
{
    uint8_t *p = malloc(ST_CONTAINER_SEGMENT);
    struct st_err e;
    size_t n = 0;
    for (size_t i = 0; i < st_container_count(o->c); i++) {
        const struct st_container_entry *x = st_container_at(o->c, i);
        if (x->is_file)
            continue;
        const struct st_tensor *t = st_ckpt_find(ckpt, x->tensor.name);
        assert_non_null(t);
        assert_int_equal(t->bytes, x->tensor.bytes);
        assert_string_equal(t->stored, x->tensor.stored);
        for (uint32_t k = 0; k < x->n_segment; k++) {
            assert_ok(st_vault_segment(o->v, x, k, p, &e), &e);
            assert_memory_equal(p, (const uint8_t *)t->data + (size_t)k * x->segment_bytes,
                                st_container_segment_bytes(x, k));
        }
        n++;
    }
    free(p);
    return n;
}

/* The container at path opens by the passphrase and holds the tensors of the checkpoint at src. */
static inline void seal_check(const char *path, const char *word, const char *src)
{
    struct seal_opened o;
    struct st_ckpt *ckpt;
    struct st_err e;
    assert_ok(seal_open(path, word, &o, &e), &e);
    assert_ok(st_ckpt_open(src, &ckpt, &e), &e);
    assert_int_equal(seal_compare(&o, ckpt), st_ckpt_count(ckpt));
    st_ckpt_close(ckpt);
    seal_close(&o);
}

#endif

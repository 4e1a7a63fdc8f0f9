#include "protect/sealed/contents.h"
#include "base/file.h"
#include "model/adapter_config.h"
#include "model/locate.h"
#include "model/measure.h"
#include "model/model.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX ((size_t)64 << 20) /* as the tokenizer's reader */
#define SEGMENTS_WANTED 64
#define SEGMENT_LEAST ((uint64_t)16 << 10)
#define LLAMA2C_HEADER 28
#define ADAPTER_CONFIG "adapter_config.json"
#define ADAPTER_WEIGHTS "adapter_model.safetensors"

/* ---- entries ---- */

/* Whole rows, as many as `most` bytes hold, one at the least. */
static int cut_entry(struct st_contents *c, struct st_container_entry *n, uint64_t most, const char *where,
                     struct st_err *e)
{
    const struct st_tensor *t = &n->tensor;
    uint64_t row = n->is_file ? 1 : t->bytes / t->dim[0];
    if (row > ST_CONTAINER_SEGMENT)
        return st_fail(e, ST_UNSUPPORTED, "%s: %s: rows of %" PRIu64 " bytes; a container takes at most %u", where,
                       t->name, row, ST_CONTAINER_SEGMENT);
    n->segment_bytes = (uint32_t)(row > most ? row : most / row * row);
    uint64_t count = (t->bytes - 1) / n->segment_bytes + 1;
    if (count > ST_CONTAINER_SEGMENTS_MAX - c->n_segment)
        return st_fail(e, ST_UNSUPPORTED, "%s: more than %u segments", where, ST_CONTAINER_SEGMENTS_MAX);
    n->first_segment = c->n_segment;
    n->n_segment = (uint32_t)count;
    c->n_segment += (uint32_t)count;
    return 0;
}

/* Small models get small segments, since two of them must fit into the memory that decrypted weights may take. */
static int cut(struct st_contents *c, const char *where, struct st_err *e)
{
    uint64_t most = ST_CONTAINER_SEGMENT;
    for (size_t i = 0; i < c->n; i++) {
        c->bytes += c->at[i].tensor.bytes;
        c->inside += c->at[i].place == ST_CONTAINER_INSIDE ? c->at[i].tensor.bytes : 0;
    }
    while (most > SEGMENT_LEAST && most > c->bytes / SEGMENTS_WANTED)
        most /= 2;
    for (size_t i = 0; i < c->n; i++)
        if (cut_entry(c, &c->at[i], c->at[i].is_file ? ST_CONTAINER_SEGMENT : most, where, e))
            return e->code;
    return 0;
}

/* Names go into messages, paths and JSON of whoever reads the container. */
static bool is_plain(const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < len; i++)
        if (name[i] <= ' ' || name[i] > '~' || name[i] == '/' || name[i] == '\\')
            return false;
    return len > 0 && len <= ST_CONTAINER_NAME_MAX && !strstr(name, "..");
}

static int add_tensor(struct st_contents *c, const struct st_tensor *t, enum st_container_place place,
                      const char *where, struct st_err *e)
{
    if (!is_plain(t->name))
        return st_fail(e, ST_INPUT, "%s: %.200s: want a name of at most %d letters, digits and signs without / and ..",
                       where, t->name, ST_CONTAINER_NAME_MAX);
    if (!t->n_dim || !t->bytes || t->bytes % t->dim[0])
        return st_fail(e, ST_INPUT, "%s: %s: want a shape, values, and rows of whole bytes", where, t->name);
    c->at[c->n++] = (struct st_container_entry){.tensor = *t, .place = place};
    return 0;
}

/* The bytes are in the buffer that has just been filled. */
static int add_file(struct st_contents *c, const char *name, const char *where, struct st_err *e)
{
    const struct st_buf *b = &c->file[c->n_file++];
    c->at[c->n++] = (struct st_container_entry){
        .tensor = {.name = name, .dtype = ST_DTYPE_COUNT, .stored = "", .data = b->p, .bytes = b->len},
        .is_file = true,
        .place = ST_CONTAINER_OUTSIDE};
    return b->len ? 0 : st_fail(e, ST_INPUT, "%s: is empty", where);
}

static int read_file(struct st_contents *c, const char *path, const char *name, struct st_err *e)
{
    int rc = st_file_read(path, FILE_BYTES_MAX, &c->file[c->n_file], e);
    return rc ? rc : add_file(c, name, path, e);
}

/* ---- a model's files ---- */

static const char *tokenizer_name(const char *path)
{
    size_t len = strlen(path);
    if (len >= 5 && strcmp(path + len - 5, ".json") == 0)
        return "tokenizer.json";
    return len >= 4 && strcmp(path + len - 4, ".bin") == 0 ? "tokenizer.bin" : "tokenizer.model";
}

static int add_tokenizer(struct st_contents *c, const char *src, const char *given, struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_err none;
    if (given && !st_path_is_dir(given))
        return read_file(c, given, tokenizer_name(given), e);
    if (given && st_locate_tokenizer(given, path, e))
        return e->code;
    c->no_tokenizer = !given && st_locate_tokenizer(src, path, &none) != 0;
    return c->no_tokenizer ? 0 : read_file(c, path, tokenizer_name(path), e);
}

/* The texts that are there but those of other tokenizers, of which one is enough. */
static int add_texts(struct st_contents *c, const char *dir, struct st_err *e)
{
    static const char *const others[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"};
    for (size_t i = 0; st_model_texts[i]; i++) {
        char path[ST_PATH_MAX];
        bool skip = false;
        for (size_t k = 0; k < sizeof others / sizeof *others; k++)
            skip = skip || strcmp(st_model_texts[i], others[k]) == 0;
        if (st_path_join(path, sizeof path, dir, st_model_texts[i], e))
            return e->code;
        if (!skip && st_path_exists(path) && read_file(c, path, st_model_texts[i], e))
            return e->code;
    }
    return 0;
}

/* The header alone is enough to know such a model's config. */
static int add_llama2c_header(struct st_contents *c, const char *path, struct st_err *e)
{
    struct st_map m;
    int rc = st_map_open(path, &m, e);
    if (rc)
        return rc;
    if (m.len < LLAMA2C_HEADER)
        rc = st_fail(e, ST_INPUT, "%s: %zu bytes are too few for a llama2.c file", path, m.len);
    else
        st_buf_add(&c->file[c->n_file], m.p, LLAMA2C_HEADER);
    st_map_close(&m);
    if (!rc && c->file[c->n_file].failed)
        rc = st_fail(e, ST_MEMORY, "%s: out of memory", path);
    return rc ? rc : add_file(c, ST_CONTAINER_LLAMA2C, path, e);
}

/* ---- a model ---- */

/* Where each weight lies: a tensor with two roles lies open when one of them does. */
static void settle_places(struct st_contents *c, const struct st_plan *plan, const struct st_placement *p,
                          enum st_container_place *place)
{
    for (int i = 0; i < plan->n_weight; i++)
        place[i] = p->of[plan->weights[i].role];
    for (int i = 0; i < plan->n_weight; i++) {
        int first = plan->weights[i].tied_to;
        if (first < 0 || place[i] == place[first])
            continue;
        place[first] = ST_CONTAINER_OUTSIDE;
        snprintf(c->moved, sizeof c->moved, "%s", plan->weights[first].name);
    }
}

static int add_weights(struct st_contents *c, const struct st_plan *plan, const struct st_placement *p, const char *src,
                       struct st_err *e)
{
    enum st_container_place *place = NULL;
    int rc = st_alloc(&place, (size_t)plan->n_weight, sizeof *place, src, e);
    if (!rc)
        settle_places(c, plan, p, place);
    for (int i = 0; !rc && i < plan->n_weight; i++) {
        if (plan->weights[i].tied_to >= 0)
            continue;
        const struct st_tensor *t = st_ckpt_find(c->ckpt, plan->weights[i].name);
        rc = t ? add_tensor(c, t, place[i], src, e)
               : st_fail(e, ST_INPUT, "%s: %s: missing", src, plan->weights[i].name);
    }
    free(place);
    return rc;
}

static int add_model(struct st_contents *c, const char *src, const struct st_contents_opts *o, struct st_err *e)
{
    struct st_model *m = NULL;
    struct st_config ignored;
    bool is_dir = st_path_is_dir(src);
    int rc = st_model_open(src, &(struct st_model_opts){.n_threads = o->n_threads}, &m, e);
    if (rc)
        return rc;
    rc = is_dir ? st_ckpt_open(src, &c->ckpt, e) : st_ckpt_open_llama2c(src, &c->ckpt, &ignored, e);
    if (!rc)
        rc = st_alloc(&c->at, (size_t)m->plan.n_weight + ST_CONTENTS_FILES, sizeof *c->at, src, e);
    if (!rc)
        rc = is_dir ? add_texts(c, src, e) : add_llama2c_header(c, src, e);
    if (!rc)
        rc = add_tokenizer(c, src, o->tokenizer, e);
    if (!rc)
        rc = add_weights(c, &m->plan, o->placement, src, e);
    st_model_close(m);
    return rc;
}

/* ---- an adapter ---- */

/* The bytes are in the container's first file. */
static int check_adapter(const struct st_contents *c, const char *path, struct st_err *e)
{
    struct st_adapter_config *config;
    int rc = st_adapter_config_parse(c->file[0].p, c->file[0].len, path, &config, e);
    if (!rc)
        st_adapter_config_free(config);
    return rc;
}

static int add_adapter(struct st_contents *c, const char *src, const char *config, const struct st_contents_opts *o,
                       struct st_err *e)
{
    char weights[ST_PATH_MAX];
    c->kind = ST_CONTAINER_ADAPTER;
    if (o->tokenizer)
        return st_fail(e, ST_USAGE, "%s: is an adapter, which has no tokenizer of its own (--tokenizer)", src);
    for (int r = 0; r < ST_ROLE_COUNT; r++)
        if (o->placement->of[r] == ST_CONTAINER_OUTSIDE)
            return st_fail(e, ST_USAGE, "%s: is an adapter, which is sealed whole; want --policy all-inside", src);
    int rc = st_path_join(weights, sizeof weights, src, ADAPTER_WEIGHTS, e);
    if (!rc && !st_path_exists(weights))
        rc = st_fail(e, ST_INPUT, "%s: no " ADAPTER_WEIGHTS, src);
    if (!rc)
        rc = st_ckpt_open(weights, &c->ckpt, e);
    if (!rc)
        rc = st_alloc(&c->at, st_ckpt_count(c->ckpt) + 1, sizeof *c->at, src, e);
    if (!rc)
        rc = read_file(c, config, ADAPTER_CONFIG, e);
    if (!rc)
        rc = check_adapter(c, config, e);
    for (size_t i = 0; !rc && i < st_ckpt_count(c->ckpt); i++)
        rc = add_tensor(c, st_ckpt_at(c->ckpt, i), ST_CONTAINER_INSIDE, weights, e);
    return rc;
}

/* The files of which a container is made, so that what was hashed, what was read first and what was sealed last are
 * known to be the same. */
static int see(struct st_contents *c, const char *src, const char *tokenizer, struct st_err *e)
{
    char path[ST_PATH_MAX];
    DIR *dir = st_path_is_dir(src) ? opendir(src) : NULL;
    int rc = dir ? 0 : st_unchanged_add(&c->source, src, e);
    for (struct dirent *d; !rc && dir && (d = readdir(dir));)
        if (st_model_counts(d->d_name) || strcmp(d->d_name, ADAPTER_CONFIG) == 0)
            rc = st_path_join(path, sizeof path, src, d->d_name, e) || st_unchanged_add(&c->source, path, e) ? e->code
                                                                                                             : 0;
    if (dir)
        closedir(dir);
    if (!rc && tokenizer && !st_path_is_dir(tokenizer))
        rc = st_unchanged_add(&c->source, tokenizer, e);
    return rc;
}

int st_contents_open(const char *src, const struct st_contents_opts *o, struct st_contents *c, struct st_err *e)
{
    char config[ST_PATH_MAX];
    *c = (struct st_contents){.kind = ST_CONTAINER_MODEL};
    if (st_container_is(src))
        return st_fail(e, ST_USAGE, "%s: is sealed already; want the model itself", src);
    if (!st_path_exists(src))
        return st_fail(e, ST_IO, "%s: no such file or directory", src);
    int rc = see(c, src, o->tokenizer, e);
    if (!rc)
        rc = st_path_join(config, sizeof config, src, ADAPTER_CONFIG, e);
    if (!rc)
        rc =
            st_path_is_dir(src) && st_path_exists(config) ? add_adapter(c, src, config, o, e) : add_model(c, src, o, e);
    if (!rc)
        rc = cut(c, src, e);
    return rc ? rc : st_model_measure(src, o->progress, c->digest, e);
}

void st_contents_close(struct st_contents *c)
{
    for (size_t i = 0; i < ST_CONTENTS_FILES; i++)
        st_buf_free(&c->file[i]);
    free(c->at);
    if (c->ckpt)
        st_ckpt_close(c->ckpt);
    st_unchanged_free(&c->source);
    *c = (struct st_contents){0};
}

#include "audit/target.h"

#include "base/file.h"
#include "engine/record.h"
#include "model/container.h"
#include "model/digest.h"
#include "protect/covariant/manifest.h"

#include <stdlib.h>
#include <string.h>

#define OWN_DOCS 48    /* documents the base model is asked for, of each text */
#define OWN_TOKENS 192 /* of each */
#define OWN_LETTERS 24 /* records among the victim's */
#define COST_TOKENS 4096
#define SETUP_ID ((uint64_t)1 << 62) /* exchanges of a scheme's own preparations, not of the text */

struct owned {
    struct st_model *seen;
    uint32_t *truth, *to;
    struct st_model *before;
    uint32_t *before_truth;
    char *path;
};

struct st_subject {
    struct st_model *base;
    struct st_tokenizer *tokenizer;
    struct st_text_made text, prior;
    struct st_subject_opts opts;
    double base_nats; /* NAN = not measured yet */
    struct st_target plain, targets[ST_SUBJECT_MAX];
    struct owned owned[ST_SUBJECT_MAX];
    size_t n;
};

/* ---- base and text ---- */

static int open_texts(struct st_subject *s, struct st_err *e)
{
    const struct st_subject_opts *o = &s->opts;
    struct st_text_speak speak = {.model = s->base,
                                  .tok = s->tokenizer,
                                  .n_doc = OWN_DOCS,
                                  .n_token = OWN_TOKENS,
                                  .n_record = OWN_LETTERS,
                                  .seed = o->seed + 1,
                                  .n_threads = o->n_threads,
                                  .cancel = o->cancel};
    size_t n_ctx = s->base->config.n_ctx;
    int rc =
        o->text ? st_text_read(o->text, s->base, s->tokenizer, n_ctx, &s->text, e) : st_text_make(&speak, &s->text, e);
    speak.seed = o->seed + 0x5eed;
    speak.n_record = 0;
    if (!rc)
        rc = o->prior ? st_text_read(o->prior, s->base, s->tokenizer, n_ctx, &s->prior, e)
                      : st_text_make(&speak, &s->prior, e);
    return rc;
}

int st_subject_open(const struct st_subject_opts *o, struct st_subject **out, struct st_err *e)
{
    struct st_subject *s = calloc(1, sizeof *s);
    const struct st_model_opts mo = {.dtype = ST_LOAD_F32, .n_threads = o->n_threads};
    if (!s)
        return st_fail(e, ST_MEMORY, "no memory for an audit");
    s->opts = *o;
    s->base_nats = NAN;
    int rc = st_model_open(o->base, &mo, &s->base, e);
    if (!rc)
        rc = st_tokenizer_open(o->tokenizer ? o->tokenizer : o->base, &s->tokenizer, e);
    if (!rc)
        rc = open_texts(s, e);
    if (rc) {
        st_subject_close(s);
        return rc;
    }
    s->plain = (struct st_target){.base = s->base,
                                  .tokenizer = s->tokenizer,
                                  .text = s->text.view,
                                  .prior = s->prior.view,
                                  .seed = o->seed,
                                  .cost = NAN};
    *out = s;
    return 0;
}

const struct st_target *st_subject_plain(const struct st_subject *s)
{
    return &s->plain;
}

static void owned_free(struct st_subject *s, size_t i)
{
    struct owned *o = &s->owned[i];
    if (o->seen)
        st_model_close(o->seen);
    if (o->before)
        st_model_close(o->before);
    if (s->targets[i].container)
        st_container_close((struct st_container *)s->targets[i].container);
    free(o->truth);
    free(o->to);
    free(o->before_truth);
    free(o->path);
    *o = (struct owned){0};
}

void st_subject_close(struct st_subject *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        owned_free(s, i);
    st_text_free(&s->text);
    st_text_free(&s->prior);
    if (s->tokenizer)
        st_tokenizer_free(s->tokenizer);
    if (s->base)
        st_model_close(s->base);
    free(s);
}

size_t st_subject_count(const struct st_subject *s)
{
    return s->n;
}

const struct st_target *st_subject_at(const struct st_subject *s, size_t i)
{
    return &s->targets[i];
}

/* The next target with what all have; *o is what it will own. It counts once the caller adds 1 to n. */
static int begin(struct st_subject *s, unsigned kind, const char *path, const char *label, struct st_target **t,
                 struct owned **o, struct st_err *e)
{
    if (s->n == ST_SUBJECT_MAX)
        return st_fail(e, ST_USAGE, "an audit looks at no more than %d targets", ST_SUBJECT_MAX);
    *t = &s->targets[s->n];
    *o = &s->owned[s->n];
    **o = (struct owned){0};
    **t = s->plain;
    (*t)->kinds = kind;
    if (label)
        snprintf((*t)->label, sizeof(*t)->label, "%s", label);
    if (path && !((*o)->path = strdup(path)))
        return st_fail(e, ST_MEMORY, "no memory for an audit");
    return 0;
}

static int finish(struct st_subject *s, int rc)
{
    if (rc) {
        owned_free(s, s->n);
        s->targets[s->n] = (struct st_target){0};
    } else {
        s->n++;
    }
    return rc;
}

unsigned st_view_kind(const char *path)
{
    char manifest[ST_PATH_MAX];
    struct st_err ignored;
    struct st_record *r;
    if (st_path_is_dir(path))
        return !st_path_join(manifest, sizeof manifest, path, ST_COV_MANIFEST, &ignored) && st_path_exists(manifest)
                   ? ST_TARGET_PAIR
                   : 0;
    if (st_container_is(path))
        return ST_TARGET_SEALED;
    if (st_record_open(path, &r, &ignored))
        return 0;
    st_record_close(r);
    return ST_TARGET_RECORD;
}

/* ---- a pair ---- */

static int check_shapes(const struct st_model *base, const struct st_model *seen, const char *path,
                        const struct st_cov_cipher *c, struct st_err *e)
{
    const struct st_config *a = &base->config, *b = &seen->config;
    if (a->n_layer != b->n_layer)
        return st_fail(e, ST_INPUT, "%s: has %u layers, the base %u: they do not belong together", path, b->n_layer,
                       a->n_layer);
    if (b->n_vocab < st_cov_cipher_size(c))
        return st_fail(e, ST_INPUT, "%s: has %u token ids, want at least %u: it does not belong to base and key", path,
                       b->n_vocab, st_cov_cipher_size(c));
    return 0;
}

/* truth [n_seen] */
static int plain_ids(const struct st_cov_cipher *c, uint32_t n_seen, uint32_t **truth, struct st_err *e)
{
    int rc = st_alloc(truth, n_seen, sizeof **truth, "permutation", e);
    for (uint32_t i = 0; !rc && i < n_seen; i++)
        (*truth)[i] = i < st_cov_cipher_size(c) ? c->from[i] : c->n_vocab;
    return rc;
}

/* truth [n_vocab of seen] and the ids that a proxy sends. */
static int take_truth(struct owned *o, const struct st_cov_cipher *c, uint32_t n_seen, struct st_err *e)
{
    int rc = plain_ids(c, n_seen, &o->truth, e);
    if (!rc)
        rc = st_alloc(&o->to, c->n_vocab, sizeof *o->to, "permutation", e);
    if (!rc)
        memcpy(o->to, c->to, c->n_vocab * sizeof *o->to);
    return rc;
}

/* VERIFY of the manifest is the answer to "do they belong together": bad input of an audit. */
static int read_cipher(const struct st_subject *s, const char *seen, const struct st_cov_key *key,
                       struct st_cov_manifest *m, struct st_cov_cipher *c, struct st_err *e)
{
    uint8_t digest[32];
    struct st_cov_frequent frequent = {0};
    uint32_t n = s->base->config.n_vocab;
    int rc = st_cov_read_manifest(seen, m, e);
    if (!rc)
        rc = st_model_digest(s->opts.base, false, digest, e);
    if (!rc && st_cov_manifest_check(m, key, digest, e))
        return st_fail(e, ST_INPUT, "%s: was not made from %s with this key", seen, s->opts.base);
    if (!rc && m->made.homophones)
        rc = st_cov_frequent_open(m->frequent, n, digest, key, &frequent, e);
    if (!rc)
        rc = st_cov_cipher_init(n, &frequent, m->made.homophones, digest, key, c, e);
    st_cov_frequent_wipe(&frequent);
    return rc;
}

static void name_pair(struct st_target *t, const struct st_cov_opts *made)
{
    t->pair.preset = st_cov_preset_name(made->preset);
    t->pair.noise = (struct st_pair_noise){made->alpha_e, made->alpha_h, made->noise_all};
    t->pair.homophones = made->homophones;
    if (!*t->label) {
        size_t at = (size_t)snprintf(t->label, sizeof t->label, "%s", t->pair.preset);
        if (made->alpha_e > 0 && at < sizeof t->label)
            at += (size_t)snprintf(t->label + at, sizeof t->label - at, " alpha_e %g", made->alpha_e);
        if (made->noise_all > 0 && at < sizeof t->label)
            snprintf(t->label + at, sizeof t->label - at, " all %g", made->noise_all);
    }
}

/* A permutation of ids tells what any other tells. Not of a later point of a series: attacks on ids pass over it. */
static const char *earlier_ids(const struct st_subject *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct st_target *t = &s->targets[i];
        if ((t->kinds & ST_TARGET_PAIR) && !t->pair.homophones && !(t->x_name && t->x > 0))
            return t->label;
    }
    return NULL;
}

static int measure_cost(struct st_subject *s, struct st_target *t, const struct owned *o, struct st_err *e)
{
    double nats;
    int rc = isnan(s->base_nats)
                 ? st_text_nats(s->base, &t->prior, NULL, COST_TOKENS, s->opts.n_threads, &s->base_nats, e)
                 : 0;
    if (!rc)
        rc = st_text_nats(o->seen, &t->prior, o->to, COST_TOKENS, s->opts.n_threads, &nats, e);
    if (!rc)
        t->cost = exp(nats - s->base_nats) - 1;
    return rc;
}

int st_subject_add_pair(struct st_subject *s, const char *seen, const struct st_cov_key *key, const char *label,
                        struct st_err *e)
{
    const struct st_model_opts mo = {.dtype = ST_LOAD_F32, .n_threads = s->opts.n_threads};
    struct st_cov_manifest m = {0};
    struct st_cov_cipher cipher = {0};
    struct st_target *t = NULL;
    struct owned *o = NULL;
    if (begin(s, ST_TARGET_PAIR, seen, label, &t, &o, e))
        return e->code;
    int rc = read_cipher(s, seen, key, &m, &cipher, e);
    if (!rc)
        rc = st_model_open(seen, &mo, &o->seen, e);
    if (!rc)
        rc = check_shapes(s->base, o->seen, seen, &cipher, e);
    if (!rc)
        rc = take_truth(o, &cipher, o->seen->config.n_vocab, e);
    if (!rc) {
        t->pair = (struct st_pair){.base = s->base, .seen = o->seen, .truth = o->truth};
        name_pair(t, &m.made);
    }
    if (!rc)
        rc = measure_cost(s, t, o, e);
    if (!rc && !t->pair.homophones)
        t->ids_as = earlier_ids(s);
    st_cov_cipher_wipe(&cipher);
    return finish(s, rc);
}

int st_subject_add_before(struct st_subject *s, const char *seen, const struct st_cov_key *key, struct st_err *e)
{
    const struct st_model_opts mo = {.dtype = ST_LOAD_F32, .n_threads = s->opts.n_threads};
    struct st_cov_manifest m = {0};
    struct st_cov_cipher cipher = {0};
    if (!s->n || !(s->targets[s->n - 1].kinds & ST_TARGET_PAIR))
        return st_fail(e, ST_USAGE, "%s: there is no pair that it was before", seen);
    struct st_target *t = &s->targets[s->n - 1];
    struct owned *o = &s->owned[s->n - 1];
    int rc = read_cipher(s, seen, key, &m, &cipher, e);
    if (!rc)
        rc = st_model_open(seen, &mo, &o->before, e);
    if (!rc)
        rc = check_shapes(s->base, o->before, seen, &cipher, e);
    if (!rc)
        rc = plain_ids(&cipher, o->before->config.n_vocab, &o->before_truth, e);
    if (!rc)
        t->before = (struct st_pair){.base = s->base,
                                     .seen = o->before,
                                     .truth = o->before_truth,
                                     .noise = {m.made.alpha_e, m.made.alpha_h, m.made.noise_all},
                                     .preset = st_cov_preset_name(m.made.preset),
                                     .homophones = m.made.homophones};
    st_cov_cipher_wipe(&cipher);
    return rc;
}

int st_subject_sweep(struct st_subject *s, const char *x_name, double x, struct st_err *e)
{
    if (!s->n)
        return st_fail(e, ST_USAGE, "%s: there is no target that is a point of it", x_name);
    s->targets[s->n - 1].x_name = x_name;
    s->targets[s->n - 1].x = x;
    return 0;
}

/* ---- a recording ---- */

struct seen_layers {
    const struct st_subject *s;
    const char *path;
    uint64_t n_entry, n_row; /* entries; rows that left for the first group of the lowest layer seen */
    int low, high;           /* layers; -1 = none yet */
    char first[ST_RECORD_ROLES];
    bool *seen; /* [n_layer] */
};

/* n_in of the first role of an exchange, by the plan; 0 = no such weight. */
static uint32_t want_width(const struct st_model *m, const struct st_record_entry *r)
{
    size_t n = strcspn(r->roles, ",");
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        const char *name = st_role_name(w->role);
        if (w->layer == r->layer && strlen(name) == n && memcmp(name, r->roles, n) == 0)
            return w->n_in;
    }
    return 0;
}

static int take_entry(struct seen_layers *l, const struct st_record_entry *r, struct st_err *e)
{
    if (r->kind == ST_RECORD_FULL)
        return st_fail(e, ST_INPUT, "%s: entry %llu: the recording was full here: it is cut short", l->path,
                       (unsigned long long)l->n_entry);
    if (r->kind != ST_RECORD_OUT || r->id >= SETUP_ID)
        return 0;
    if (st_record_is_pair(r))
        return r->layer < 0 || (uint32_t)r->layer >= l->s->base->config.n_layer
                   ? st_fail(e, ST_INPUT, "%s: entry %llu: the base has no layer %d: they do not belong together",
                             l->path, (unsigned long long)l->n_entry, r->layer)
                   : 0;
    uint32_t want = want_width(l->s->base, r);
    if (!want)
        return st_fail(e, ST_INPUT, "%s: entry %llu: layer %d has no %.60s in the base: they do not belong together",
                       l->path, (unsigned long long)l->n_entry, r->layer, r->roles);
    if (r->format == ST_EXPOSED_F32 && r->n_in < want)
        return st_fail(e, ST_INPUT, "%s: entry %llu: rows of %u values, the base's %.60s has %u", l->path,
                       (unsigned long long)l->n_entry, r->n_in, r->roles, want);
    if (r->layer < 0)
        return 0;
    l->seen[r->layer] = true;
    if (l->low < 0 || r->layer < l->low) {
        l->low = r->layer;
        l->n_row = 0;
        snprintf(l->first, sizeof l->first, "%s", r->roles);
    }
    if (r->layer == l->low && r->expert < 0 && strcmp(r->roles, l->first) == 0)
        l->n_row += r->n_row;
    return 0;
}

static int check_recording(const struct st_subject *s, const char *path, size_t n_text, struct st_err *e)
{
    struct seen_layers l = {.s = s, .path = path, .low = -1};
    struct st_record *r;
    struct st_record_entry entry;
    int rc = st_alloc(&l.seen, (size_t)s->base->config.n_layer, sizeof *l.seen, "layers", e);
    if (rc)
        return rc;
    if ((rc = st_record_open(path, &r, e)) != 0) {
        free(l.seen);
        return rc;
    }
    while (!rc && (rc = st_record_next(r, &entry, e)) == 0 && entry.kind != ST_RECORD_END) {
        rc = take_entry(&l, &entry, e);
        l.n_entry++;
    }
    if (!rc && entry.torn)
        rc = st_fail(e, ST_INPUT, "%s: cut short: entry %llu is not whole", path, (unsigned long long)l.n_entry);
    if (!rc && !l.n_entry)
        rc = st_fail(e, ST_INPUT, "%s: an empty recording", path);
    for (uint32_t i = 0; !rc && l.low >= 0 && i < (uint32_t)s->base->config.n_layer; i++)
        if (!l.seen[i])
            rc = st_fail(e, ST_INPUT, "%s: nothing of layer %u: the recording lacks layers", path, i);
    if (!rc && l.low >= 0 && l.n_row < n_text)
        rc = st_fail(e, ST_INPUT, "%s: %llu rows left for layer %d, but the text has %zu tokens", path,
                     (unsigned long long)l.n_row, l.low, n_text);
    st_record_close(r);
    free(l.seen);
    return rc;
}

/* The first documents of a text, with the items that lie in them. */
static struct st_texts_ids first_documents(struct st_texts_ids t, size_t n_doc)
{
    if (n_doc && n_doc < t.n)
        t.n = n_doc;
    size_t len = st_texts_len(&t);
    while (t.n_item && t.items[t.n_item - 1].hi > len)
        t.n_item--;
    return t;
}

int st_subject_add_recording(struct st_subject *s, const char *path, const char *scheme, size_t n_doc,
                             const char *label, struct st_err *e)
{
    struct st_target *t = NULL;
    struct owned *o = NULL;
    if (begin(s, ST_TARGET_RECORD, path, label ? label : scheme, &t, &o, e))
        return e->code;
    t->text = first_documents(t->text, n_doc);
    t->recording = o->path;
    t->scheme = scheme;
    return finish(s, check_recording(s, path, st_texts_len(&t->text), e));
}

int st_subject_add_asked(struct st_subject *s, const struct st_asked *asked, size_t n, struct st_err *e)
{
    if (!s->n || !(s->targets[s->n - 1].kinds & ST_TARGET_RECORD))
        return st_fail(e, ST_USAGE, "requests with replies: there is no recording that they are in");
    s->targets[s->n - 1].asked = asked;
    s->targets[s->n - 1].n_asked = n;
    return 0;
}

/* ---- sealed, traffic ---- */

/* Every tensor of the container that the base has must have its shape, and each layer must be there. */
static int check_container(const struct st_subject *s, const struct st_container *c, struct st_err *e)
{
    const struct st_plan *plan = &s->base->plan;
    for (int i = 0; i < plan->n_weight; i++) {
        const struct st_plan_weight *w = &plan->weights[i];
        const struct st_container_entry *n = st_container_find(c, w->name);
        if (w->tied_to >= 0)
            continue;
        if (!n)
            return st_fail(e, ST_INPUT, "%s: %s: missing, but the base has it", st_container_path(c), w->name);
        uint64_t have = 1, want = (uint64_t)w->n_out * w->n_in;
        for (int d = 0; d < n->tensor.n_dim; d++)
            have *= n->tensor.dim[d];
        if (have != want)
            return st_fail(e, ST_INPUT, "%s: %s: %llu values, the base has %llu: they do not belong together",
                           st_container_path(c), w->name, (unsigned long long)have, (unsigned long long)want);
    }
    return 0;
}

int st_subject_add_sealed(struct st_subject *s, const char *path, const char *label, struct st_err *e)
{
    struct st_container *c = NULL;
    struct st_container_about about;
    struct st_target *t = NULL;
    struct owned *o = NULL;
    if (begin(s, ST_TARGET_SEALED, path, label, &t, &o, e))
        return e->code;
    int rc = st_container_open(path, &c, e);
    t->container = c;
    t->sealed = o->path;
    if (!rc) {
        st_container_about(c, &about);
        if (!label)
            snprintf(t->label, sizeof t->label, "sealed %.30s", about.policy ? about.policy : "");
        rc = about.kind == ST_CONTAINER_MODEL ? check_container(s, c, e)
                                              : st_fail(e, ST_INPUT, "%s: a sealed adapter; want a sealed model", path);
    }
    return finish(s, rc);
}

int st_subject_add_traffic(struct st_subject *s, const struct st_traffic *traffic, const char *label, struct st_err *e)
{
    struct st_target *t = NULL;
    struct owned *o = NULL;
    if (begin(s, ST_TARGET_TRAFFIC, NULL, label ? label : "confidential", &t, &o, e))
        return e->code;
    t->traffic = traffic;
    return finish(s, 0);
}

int st_subject_add_unmade(struct st_subject *s, const char *label, const char *why, struct st_err *e)
{
    struct st_target *t = NULL;
    struct owned *o = NULL;
    if (begin(s, 0, NULL, label, &t, &o, e))
        return e->code;
    snprintf(t->unmade, sizeof t->unmade, "%s", why);
    return finish(s, 0);
}

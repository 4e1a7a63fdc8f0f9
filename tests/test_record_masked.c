/* What a recording of masked outsourcing holds: no prompt, token id or activation in clear, and no row twice. The
 * searches are tried on a protection that hides nothing first. */
#include "masked_setup.h"

#include "base/file.h"
#include "engine/record.h"

#include <unistd.h>

#define PIECE 16 /* bytes of a row that are looked for: four activations */

/* The protection under test, seen from the trusted side: everything that goes in and comes out. */
struct witness {
    const struct st_protection_hooks *inner;
    struct st_protection_hooks hooks;
    struct st_buf clear; /* pieces of activations */
};

static void note(struct witness *w, const struct st_trusted *t)
{
    for (size_t i = 0, n = t->p ? (size_t)t->n_row * t->width : 0; i + PIECE / 4 <= n; i += 13)
        if (t->p[i] != 0 && t->p[i + 1] != 0) /* zeros are found anywhere */
            st_buf_add(&w->clear, t->p + i, PIECE);
}

static int witness_enter(void *ctx, const struct st_exchange *x, const struct st_trusted *in, struct st_exposed *out,
                         struct st_err *e)
{
    struct witness *w = ctx;
    note(w, in);
    return w->inner->enter(w->inner->ctx, x, in, out, e);
}

static int witness_leave(void *ctx, const struct st_exchange *x, const struct st_exposed *reply,
                         struct st_trusted *outs, struct st_err *e)
{
    struct witness *w = ctx;
    int rc = w->inner->leave(w->inner->ctx, x, reply, outs, e);
    for (int k = 0; k < x->n_op && !rc; k++)
        note(w, &outs[k]);
    return rc;
}

static void witness_drop(void *ctx, const struct st_exchange *x)
{
    const struct witness *w = ctx;
    w->inner->drop(w->inner->ctx, x);
}

/* A protection that sends rows as they are, ids as one-hot rows. */
struct naked {
    float rows[64 * 512];
};

static int naked_enter(void *ctx, const struct st_exchange *x, const struct st_trusted *in, struct st_exposed *out,
                       struct st_err *e)
{
    struct naked *n = ctx;
    size_t len = (size_t)in->n_row * in->width;
    (void)x;
    (void)e;
    assert_true(len <= 64 * 512);
    memset(n->rows, 0, len * sizeof(float));
    for (uint32_t r = 0; r < in->n_row; r++)
        if (in->ids)
            n->rows[r * in->width + in->ids[r]] = 1;
        else
            memcpy(n->rows + (size_t)r * in->width, in->p + (size_t)r * in->width, in->width * sizeof(float));
    *out = (struct st_exposed){.p = n->rows, .len = len * sizeof(float), .format = ST_EXPOSED_F32};
    return 0;
}

static int naked_leave(void *ctx, const struct st_exchange *x, const struct st_exposed *reply, struct st_trusted *outs,
                       struct st_err *e)
{
    const float *v = reply->p;
    (void)ctx;
    (void)e;
    for (int k = 0; k < x->n_op; k++) {
        size_t n = (size_t)outs[k].n_row * outs[k].width;
        memcpy(outs[k].p, v, n * sizeof(float));
        v += n;
    }
    return 0;
}

static void naked_drop(void *ctx, const struct st_exchange *x)
{
    (void)ctx;
    (void)x;
}

static const uint32_t prompt[] = {211, 187, 65, 143, 254, 99, 176, 230};
enum { N_PROMPT = sizeof prompt / sizeof *prompt };

struct run {
    struct setup s;
    struct naked naked;
    struct witness w;
    char path[64];
};

/* Two requests with the same prompt, recorded. scheme NULL: nothing is hidden. */
static void record_run(struct run *r, const char *scheme)
{
    struct st_err e;
    struct st_protection_hooks naked = {
        .enter = naked_enter, .leave = naked_leave, .drop = naked_drop, .ctx = &r->naked};
    struct st_masked_place place = {.embedding = true};
    plant(&r->s, &(struct tiny){.seed = 5, .n_vocab = 300}, &place);
    r->w = (struct witness){.inner = &naked};
    if (scheme) {
        struct st_masked_opts o = options(&r->s, scheme);
        mask(&r->s, &o);
        r->w.inner = st_masked_hooks(r->s.masked);
    }
    r->w.hooks = (struct st_protection_hooks){
        .enter = witness_enter, .leave = witness_leave, .drop = witness_drop, .ctx = &r->w};
    snprintf(r->path, sizeof r->path, "/tmp/sotto-recording-%d", (int)getpid());
    unlink(r->path);
    struct st_recorder *recorder;
    struct st_recorder_opts o = {.path = r->path, .inner = &r->s.worker.transport};
    assert_ok(st_recorder_new(&o, &recorder, &e), &e);
    struct st_boundary b = {.hooks = &r->w.hooks, .transport = st_recorder_transport(recorder), .max_row = 64};
    struct st_engine *en = tiny_engine(r->s.m, (struct st_engine_opts){.boundary = &b, .n_threads = 1});
    for (int i = 0; i < 2; i++) {
        struct client c = {0};
        client_run(&c, en, prompt, N_PROMPT, 12);
        assert_int_equal(c.n, 12);
    }
    st_engine_free(en);
    st_recorder_free(recorder);
    assert_false(r->w.clear.failed);
    assert_true(r->w.clear.len > 1000 * PIECE);
}

static void end_run(struct run *r)
{
    unlink(r->path);
    st_buf_free(&r->w.clear);
    tear_down(&r->s);
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, PIECE);
}

/* Places of the recording, at any alignment, where a piece of an activation stands. */
static size_t count_clear(const struct run *r)
{
    struct st_buf file = {0};
    struct st_err e;
    size_t n = 0, n_piece = r->w.clear.len / PIECE;
    assert_ok(st_file_read(r->path, (size_t)1 << 28, &file, &e), &e);
    qsort(r->w.clear.p, n_piece, PIECE, compare);
    for (size_t i = 0; i + PIECE <= file.len; i++)
        n += bsearch(file.p + i, r->w.clear.p, n_piece, PIECE, compare) != NULL;
    st_buf_free(&file);
    return n;
}

static void next(struct st_record *r, struct st_record_entry *entry)
{
    struct st_err e;
    assert_ok(st_record_next(r, entry, &e), &e);
}

/* Of the rows that went out: values that are an id of the prompt, rows from which an id can be read off (its value is
 * the largest by far), and rows that begin like another one. */
struct findings {
    size_t n_value, n_row, ids, hot, twice;
};

static bool is_hot(const uint8_t *row, uint32_t width, bool field)
{
    double sum = 0, most = 0;
    for (uint32_t i = 0; i < width; i++) {
        uint32_t u;
        float f;
        memcpy(&u, row + 4 * i, 4);
        memcpy(&f, row + 4 * i, 4);
        double v = field ? fabs((double)st_fq_centre(u)) : fabs(f);
        sum += v;
        most = v > most ? v : most;
    }
    return most > 0.5 * sum;
}

static struct findings look(const struct run *r)
{
    struct findings f = {0};
    struct st_record *rec;
    struct st_record_entry a;
    struct st_err e;
    struct st_buf starts = {0};
    assert_ok(st_record_open(r->path, &rec, &e), &e);
    for (next(rec, &a); a.kind != ST_RECORD_END; next(rec, &a)) {
        for (size_t i = 0; i + 4 <= a.bytes.len; i += 4, f.n_value++)
            for (int k = 0; k < N_PROMPT; k++)
                f.ids += memcmp(a.bytes.p + i, &prompt[k], 4) == 0;
        for (uint32_t i = 0; a.kind == ST_RECORD_OUT && i < a.n_row; i++, f.n_row++) {
            const uint8_t *row = a.bytes.p + (size_t)i * a.n_in * 4;
            f.hot += is_hot(row, a.n_in, a.format == ST_EXPOSED_FIELD);
            st_buf_add(&starts, row, PIECE);
        }
    }
    st_record_close(rec);
    qsort(starts.p, f.n_row, PIECE, compare);
    for (size_t i = 1; i < f.n_row; i++)
        f.twice += compare(starts.p + (i - 1) * PIECE, starts.p + i * PIECE) == 0;
    st_buf_free(&starts);
    return f;
}

static void the_searches_find_what_is_not_hidden(void **state)
{
    (void)state;
    static struct run r;
    record_run(&r, NULL);
    assert_true(count_clear(&r) > 1000);
    struct findings f = look(&r);
    assert_true(f.hot >= 2 * N_PROMPT);
    assert_true(f.twice > f.n_row / 3);
    end_run(&r);
}

static void a_recording_holds_no_prompt_id_or_activation_in_clear_and_no_row_twice(void **state)
{
    (void)state;
    static const char *const schemes[] = {"lwe", "otp", "remo"};
    for (int i = 0; i < 3; i++) {
        static struct run r;
        record_run(&r, schemes[i]);
        assert_int_equal(count_clear(&r), 0);
        struct findings f = look(&r);
        assert_true(f.n_row > 200 && f.n_value > 50000);
        /* A uniform word is one of the ids with probability 8 / q: two of a million are in one run of 500,000. */
        assert_true(f.ids <= 1);
        assert_int_equal(f.hot, 0);
        assert_int_equal(f.twice, 0);
        assert_all_wiped(&r.s);
        end_run(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_searches_find_what_is_not_hidden),
        cmocka_unit_test(a_recording_holds_no_prompt_id_or_activation_in_clear_and_no_row_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

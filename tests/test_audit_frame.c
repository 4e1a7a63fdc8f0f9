/* The frame of an audit: what does not belong together is refused by name; attacks get what they need, in their order;
 * rows get what the frame knows; reports escape what stands in them. With attacks of the test's own. */
#include "audit/chart.h"
#include "audit/records.h"
#include "audit/report.h"
#include "audit/verdict.h"
#include "cov_make.h"
#include "record_bytes.h"
#include "text/json.h"

#include <stdatomic.h>
#include <time.h>

#define DEMO "models/demo"

/* Text for 2 documents; short, so that the tests are. */
static const char *write_text(void)
{
    struct st_err e;
    static const char text[] = "Once upon a time there was a little dog.\n\nThe cat sat by the tree and sang.\n";
    const char *path = in_work("text");
    static char kept[256];
    snprintf(kept, sizeof kept, "%s", path);
    assert_ok(st_file_write(kept, text, sizeof text - 1, 0644, true, &e), &e);
    return kept;
}

static struct st_subject *open_subject(void)
{
    struct st_err e = {0};
    struct st_subject *s = NULL;
    const char *text = write_text();
    assert_ok(st_subject_open(&(struct st_subject_opts){.base = DEMO, .text = text, .prior = text, .seed = 3}, &s, &e),
              &e);
    return s;
}

static void make_pair(const char *src, const char *dst, const struct st_cov_key *key, double alpha_e)
{
    struct st_err e = {0};
    struct st_cov_opts o;
    st_cov_opts_init(&o, ST_COV_PRESET_TIGHT);
    o.alpha_e = alpha_e;
    assert_ok(st_cov_obfuscate(src, dst, key, &o, &e), &e);
}

/* ---- recordings ---- */

/* Layers lo..hi - 1 of the demo model, n_row rows each. */
static struct st_buf recording(int lo, int hi, uint32_t n_row, uint32_t n_in)
{
    struct st_buf b = {0};
    put_file_head(&b);
    for (int l = lo; l < hi; l++)
        put_entry(&b, (uint64_t)l, l, "q,k,v", n_row, n_in);
    return b;
}

static int add_recording(struct st_subject *s, struct st_buf *b, size_t cut, struct st_err *e)
{
    const char *path = in_work("record");
    assert_false(b->failed);
    assert_ok(st_file_write(path, b->p, b->len - cut, 0600, true, e), e);
    st_buf_free(b);
    return st_subject_add_recording(s, path, "otp", 0, NULL, e);
}

static void recordings_that_do_not_fit_are_refused_by_name(void **state)
{
    struct st_err e = {0};
    struct st_subject *s = open_subject();
    struct st_buf b;
    (void)state;
    uint32_t n = (uint32_t)st_texts_len(&st_subject_plain(s)->text);
    b = recording(0, 6, n, 192);
    expect_refusal(add_recording(s, &b, 8, &e), &e, ST_INPUT, "cut short: entry 5");
    b = recording(0, 5, n, 192);
    expect_refusal(add_recording(s, &b, 0, &e), &e, ST_INPUT, "nothing of layer 5");
    b = recording(0, 6, n - 1, 192);
    expect_refusal(add_recording(s, &b, 0, &e), &e, ST_INPUT, "rows left for layer 0");
    b = recording(0, 6, n, 64);
    expect_refusal(add_recording(s, &b, 0, &e), &e, ST_INPUT, "rows of 64 values");
    b = recording(0, 7, n, 192);
    expect_refusal(add_recording(s, &b, 0, &e), &e, ST_INPUT, "layer 6 has no q,k,v");
    b = recording(0, 0, n, 192);
    expect_refusal(add_recording(s, &b, 0, &e), &e, ST_INPUT, "empty");
    assert_int_equal(st_subject_count(s), 0);
    b = recording(0, 6, n, 192);
    assert_ok(add_recording(s, &b, 0, &e), &e);
    assert_int_equal(st_subject_count(s), 1);
    assert_string_equal(st_subject_at(s, 0)->label, "otp");
    st_subject_close(s);
}

static void preparations_of_a_scheme_are_no_rows_of_the_text(void **state)
{
    struct st_err e = {0};
    struct st_subject *s = open_subject();
    (void)state;
    uint32_t n = (uint32_t)st_texts_len(&st_subject_plain(s)->text);
    struct st_buf b = recording(0, 6, n - 1, 192);
    put_entry(&b, (uint64_t)1 << 62, 0, "q,k,v", n, 192);
    expect_refusal(add_recording(s, &b, 0, &e), &e, ST_INPUT, "rows left for layer 0");
    st_subject_close(s);
}

/* ---- pairs ---- */

static void pairs_that_do_not_belong_together_are_refused(void **state)
{
    struct st_err e = {0};
    struct st_subject *s = open_subject();
    struct st_cov_key key = key_of(1), other = key_of(2);
    const char *dst = in_work("cov");
    (void)state;
    make_pair(DEMO, dst, &key, 0);
    expect_refusal(st_subject_add_pair(s, dst, &other, NULL, &e), &e, ST_INPUT, "was not made from");
    const char *tiny = write_tiny(&plain_tiny), *cov = in_work("tinycov");
    make_pair(tiny, cov, &key, 0);
    expect_refusal(st_subject_add_pair(s, cov, &key, NULL, &e), &e, ST_INPUT, "was not made from");
    assert_int_equal(st_view_kind(dst), ST_TARGET_PAIR);
    assert_int_equal(st_view_kind(DEMO), 0);
    assert_ok(st_subject_add_pair(s, dst, &key, NULL, &e), &e);
    const struct st_target *t = st_subject_at(s, 0);
    assert_string_equal(t->label, "tight");
    /* The truth is one: every plain id has one cipher id. */
    uint32_t n = t->base->config.n_vocab, seen = 0;
    for (uint32_t i = 0; i < t->pair.seen->config.n_vocab; i++)
        seen += t->pair.truth[i] < n;
    assert_int_equal(seen, n);
    st_cov_key_wipe(&key);
    st_cov_key_wipe(&other);
    st_subject_close(s);
}

static void what_an_earlier_key_made_stands_beside_a_pair(void **state)
{
    struct st_err e = {0};
    struct st_subject *s = open_subject();
    struct st_cov_key now = key_of(1), before = key_of(2);
    const char *a = in_work("now"), *b = in_work("before");
    (void)state;
    make_pair(DEMO, a, &now, 0);
    make_pair(DEMO, b, &before, 0);
    expect_refusal(st_subject_add_before(s, b, &before, &e), &e, ST_USAGE, "no pair");
    assert_ok(st_subject_add_pair(s, a, &now, NULL, &e), &e);
    assert_null(st_subject_at(s, 0)->before.seen);
    expect_refusal(st_subject_add_before(s, b, &now, &e), &e, ST_INPUT, "was not made from");
    assert_ok(st_subject_add_before(s, b, &before, &e), &e);
    const struct st_target *t = st_subject_at(s, 0);
    assert_non_null(t->before.seen);
    assert_memory_not_equal(t->before.truth, t->pair.truth, t->base->config.n_vocab * sizeof *t->pair.truth);
    st_cov_key_wipe(&now);
    st_cov_key_wipe(&before);
    st_subject_close(s);
}

static void noise_costs_accuracy_along_the_series(void **state)
{
    struct st_err e = {0};
    struct st_subject *s = open_subject();
    struct st_cov_key key = key_of(1);
    const char *a = in_work("a"), *b = in_work("b");
    (void)state;
    expect_refusal(st_subject_sweep(s, "alpha_e", 0, &e), &e, ST_USAGE, "no target");
    make_pair(DEMO, a, &key, 0);
    make_pair(DEMO, b, &key, 1);
    assert_ok(st_subject_add_pair(s, a, &key, NULL, &e), &e);
    assert_ok(st_subject_sweep(s, "alpha_e", 0, &e), &e);
    assert_ok(st_subject_add_pair(s, b, &key, NULL, &e), &e); /* measured, in a series or not */
    assert_true(fabs(st_subject_at(s, 0)->cost) < 0.05);
    assert_true(st_subject_at(s, 1)->cost > 0.1);
    assert_string_equal(st_subject_at(s, 1)->label, "tight alpha_e 1");
    st_cov_key_wipe(&key);
    st_subject_close(s);
}

/* ---- running ---- */

static atomic_int n_run;

static int run_one(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.chance = 0.01, .unprotected = 1, .note = "<b>&\"'"};
    (void)a;
    n_run++;
    st_row_share(&row, 95, 100);
    snprintf(row.variant, sizeof row.variant, "<script>|");
    return st_rows_add(rows, &row, e);
}

static int run_refused(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.chance = 0};
    (void)a;
    if (st_rows_add(rows, &row, e))
        return e->code;
    return st_fail(e, ST_UNSUPPORTED, "no gates here");
}

static int run_broken(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    (void)a;
    (void)rows;
    return st_fail(e, ST_INPUT, "layer 3 is missing");
}

static int run_large(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    (void)a;
    (void)rows;
    return st_fail(e, ST_MEMORY, "want 3 GiB");
}

static const struct st_attack records = {.name = "on-records",
                                         .title = "t",
                                         .metric = "share of tokens",
                                         .source = "s",
                                         .adversary = ST_ADVERSARY_WORKER,
                                         .needs = ST_TARGET_RECORD,
                                         .run = run_one},
                              anything = {.name = "on-nothing",
                                          .title = "t",
                                          .metric = "share of rows",
                                          .source = "s",
                                          .adversary = ST_ADVERSARY_SERVER,
                                          .run = run_one},
                              refused = {.name = "refused",
                                         .title = "t",
                                         .metric = "share",
                                         .source = "s",
                                         .adversary = ST_ADVERSARY_WORKER,
                                         .needs = ST_TARGET_RECORD,
                                         .run = run_refused},
                              sealed = {.name = "on-sealed",
                                        .title = "t",
                                        .metric = "share",
                                        .source = "s",
                                        .adversary = ST_ADVERSARY_DEVICE,
                                        .needs = ST_TARGET_SEALED,
                                        .run = run_one},
                              broken = {.name = "broken",
                                        .title = "t",
                                        .metric = "share",
                                        .source = "s",
                                        .adversary = ST_ADVERSARY_WORKER,
                                        .needs = ST_TARGET_RECORD,
                                        .run = run_broken},
                              large = {.name = "large",
                                       .title = "t",
                                       .metric = "share",
                                       .source = "s",
                                       .adversary = ST_ADVERSARY_WORKER,
                                       .needs = ST_TARGET_RECORD,
                                       .run = run_large};

static struct st_subject *with_recordings(int n_record)
{
    struct st_err e = {0};
    struct st_subject *s = open_subject();
    uint32_t n = (uint32_t)st_texts_len(&st_subject_plain(s)->text);
    for (int i = 0; i < n_record; i++) {
        struct st_buf b = recording(0, 6, n, 192);
        assert_ok(add_recording(s, &b, 0, &e), &e);
    }
    return s;
}

static int run_audit(struct st_subject *s, const struct st_attack *const *attacks, size_t n, int adversary,
                     const volatile sig_atomic_t *cancel, struct st_findings *f, struct st_err *e)
{
    const struct st_audit_run r = {
        .subject = s, .attacks = attacks, .n_attack = n, .adversary = adversary, .opts = {.seed = 9, .cancel = cancel}};
    n_run = 0;
    return st_audit_run(&r, f, e);
}

static void each_attack_runs_on_every_target_that_fits_and_the_rest_is_listed(void **state)
{
    static const struct st_attack *const all[] = {&records, &anything, &refused, &sealed};
    struct st_err e = {0};
    struct st_findings f;
    struct st_subject *s = with_recordings(2);
    (void)state;
    assert_ok(run_audit(s, all, 4, -1, NULL, &f, &e), &e);
    assert_int_equal(n_run, 3);
    assert_int_equal(f.rows.n, 3);
    assert_string_equal(f.rows.at[0].variant, "otp, <script>|");
    assert_string_equal(f.rows.at[0].attack, "on-records");
    assert_string_equal(f.rows.at[0].adversary, "worker");
    assert_int_equal(f.rows.at[0].seed, 9);
    assert_string_equal(f.rows.at[2].variant, "<script>|");
    assert_string_equal(f.rows.at[2].target, "");
    assert_int_equal(f.n_not_run, 3);
    assert_string_equal(f.not_run[0].why, "no gates here");
    assert_string_equal(f.not_run[2].attack, "on-sealed");
    st_findings_free(&f);
    assert_ok(run_audit(s, all, 4, ST_ADVERSARY_SERVER, NULL, &f, &e), &e);
    assert_int_equal(f.rows.n, 1);
    assert_int_equal(f.n_not_run, 0);
    st_findings_free(&f);
    st_subject_close(s);
}

/* Of nothing; no number; a score; an interval that is none. */
static int run_scores(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_row all[] = {{.variant = "empty", .high = 1},
                                 {.variant = "odd", .score = NAN, .n = 3},
                                 {.variant = "good", .high = 0.5, .n = 3},
                                 {.variant = "wide", .high = INFINITY, .n = 3},
                                 {.variant = "gradient", .note = "no derivatives", .left_out = ST_MEMORY}};
    (void)a;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (st_rows_add(rows, &all[i], e))
            return e->code;
    return 0;
}

static int run_silent(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    (void)a;
    (void)rows;
    e->code = 0;
    return 0;
}

static void what_is_no_score_is_listed_and_never_a_row(void **state)
{
    static const struct st_attack scores = {.name = "scores", .metric = "share", .run = run_scores},
                                  silent = {.name = "silent", .metric = "share", .run = run_silent};
    static const struct st_attack *const all[] = {&scores, &silent};
    struct st_err e = {0};
    struct st_findings f;
    struct st_subject *s = open_subject();
    (void)state;
    assert_ok(run_audit(s, all, 2, -1, NULL, &f, &e), &e);
    assert_int_equal(f.rows.n, 1);
    assert_string_equal(f.rows.at[0].variant, "good");
    assert_int_equal(f.n_not_run, 5);
    assert_string_equal(f.not_run[0].why, "empty: there was nothing to score");
    assert_string_equal(f.not_run[2].why, "wide: there was nothing to score");
    assert_string_equal(f.not_run[3].why, "gradient: no derivatives");
    assert_int_equal(f.not_run[2].code, ST_UNSUPPORTED);
    assert_int_equal(f.not_run[3].code, ST_MEMORY);
    assert_string_equal(f.not_run[4].why, "it ended without a score");
    st_findings_free(&f);
    st_subject_close(s);
}

static void an_attack_that_does_not_fit_costs_no_other_its_rows(void **state)
{
    static const struct st_attack *const all[] = {&records, &large, &records};
    struct st_err e = {0};
    struct st_findings f;
    struct st_subject *s = with_recordings(1);
    (void)state;
    assert_ok(run_audit(s, all, 3, -1, NULL, &f, &e), &e);
    assert_int_equal(f.rows.n, 2);
    assert_int_equal(f.n_not_run, 1);
    assert_string_equal(f.not_run[0].attack, "large");
    assert_non_null(strstr(f.not_run[0].why, "want 3 GiB"));
    st_findings_free(&f);
    st_subject_close(s);
}

static void an_attack_that_fails_costs_no_other_its_rows_and_is_said_at_the_end(void **state)
{
    static const struct st_attack *const all[] = {&records, &broken, &large, &records};
    struct st_err e = {0};
    struct st_findings f;
    struct st_buf b = {0};
    struct st_subject *s = with_recordings(1);
    (void)state;
    assert_ok(run_audit(s, all, 4, -1, NULL, &f, &e), &e);
    assert_int_equal(f.rows.n, 2);
    assert_int_equal(f.n_not_run, 2);
    assert_int_equal(f.not_run[0].code, ST_INPUT);
    assert_string_equal(f.not_run[0].why, "failed: layer 3 is missing");
    assert_int_equal(f.not_run[1].code, ST_MEMORY);
    assert_int_equal(f.failed.code, ST_INPUT);
    assert_string_equal(f.failed.msg, "broken: layer 3 is missing");
    st_findings_json(&f, "t", 1, &b);
    assert_non_null(strstr(b.p, "\"attack\": \"broken\", \"target\": \"otp\", \"code\": \"input\", \"why\": "));
    assert_non_null(strstr(b.p, "\"code\": \"memory\""));
    st_buf_free(&b);
    st_findings_free(&f);
    st_subject_close(s);
}

static void a_signal_ends_the_audit(void **state)
{
    static const struct st_attack *const all[] = {&records};
    static const volatile sig_atomic_t yes = 1;
    struct st_err e = {0};
    struct st_findings f;
    struct st_subject *s = with_recordings(1);
    (void)state;
    expect_refusal(run_audit(s, all, 1, -1, &yes, &f, &e), &e, ST_IO, "cancelled");
    assert_int_equal(n_run, 0);
    st_findings_free(&f);
    st_subject_close(s);
}

/* Until another has run: only beside it. */
static int run_behind(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct timespec tick = {0, 1000000};
    for (int i = 0; i < 10000 && !atomic_load(&n_run); i++)
        nanosleep(&tick, NULL);
    int n = atomic_load(&n_run);
    return n ? run_one(a, rows, e) : st_fail(e, ST_INTERNAL, "nothing runs beside it");
}

struct heard {
    double done;
    int n;
};

static void hear(void *arg, const struct st_attack *a, const struct st_target *t, double done)
{
    struct heard *h = arg;
    assert_non_null(a);
    assert_non_null(t);
    assert_true(done >= h->done && done <= 1 + 1e-9); /* never back */
    h->done = done;
    h->n++;
}

static void attacks_on_a_small_model_run_at_once_and_are_reported_in_their_order(void **state)
{
    static const struct st_attack behind = {.name = "behind", .metric = "share", .run = run_behind};
    static const struct st_attack *const all[] = {&behind, &records, &broken};
    struct st_err e = {0};
    struct st_findings f;
    struct heard h = {.n = 0};
    struct st_pool *pool;
    struct st_subject *s = with_recordings(1);
    (void)state;
    assert_ok(st_pool_new(3, &pool, &e), &e);
    struct st_audit_run r = {.subject = s,
                             .attacks = all,
                             .n_attack = 2,
                             .adversary = -1,
                             .opts = {.pool = pool, .seed = 9, .memory = (uint64_t)4 << 30},
                             .told = hear,
                             .arg = &h};
    n_run = 0;
    assert_ok(st_audit_run(&r, &f, &e), &e);
    assert_int_equal(f.n_lane, 3);
    assert_int_equal(f.rows.n, 2);
    assert_string_equal(f.rows.at[0].attack, "behind");
    assert_string_equal(f.rows.at[1].attack, "on-records");
    assert_string_equal(f.spent[0].attack, "behind");
    assert_true(isnan(f.spent[0].cpu));
    assert_true(h.n == 4 && h.done > 0.999);
    st_findings_free(&f);
    /* What was found beside one that fails stays; the first that failed is named. */
    r.n_attack = 3;
    r.told = NULL;
    n_run = 0;
    assert_ok(st_audit_run(&r, &f, &e), &e);
    assert_string_equal(f.failed.msg, "broken: layer 3 is missing");
    assert_int_equal(f.rows.n, 2);
    st_findings_free(&f);
    /* A budget that is none for several. */
    r.n_attack = 1;
    r.attacks = all + 1;
    r.opts.memory = (uint64_t)1 << 30;
    assert_ok(st_audit_run(&r, &f, &e), &e);
    assert_int_equal(f.n_lane, 1);
    st_findings_free(&f);
    st_pool_free(pool);
    st_subject_close(s);
}

/* ---- reports ---- */

static void reports_hold_every_row_and_escape_it(void **state)
{
    static const struct st_attack *const all[] = {&records, &refused};
    struct st_err e = {0};
    struct st_findings f;
    struct st_subject *s = with_recordings(1);
    struct st_buf b = {0};
    json_t *o;
    (void)state;
    assert_ok(run_audit(s, all, 2, -1, NULL, &f, &e), &e);
    const struct st_report r = {.findings = &f, .model = "a<b", .target = "x & y", .command = "sotto audit", .seed = 9};
    st_report_html(&r, &b);
    assert_false(b.failed);
    assert_non_null(strstr(b.p, "<td>&lt;script&gt;|</td>"));
    assert_non_null(strstr(b.p, "&lt;b&gt;&amp;&quot;&#39;"));
    assert_non_null(strstr(b.p, "a&lt;b"));
    assert_non_null(strstr(b.p, "nearly everything"));
    assert_null(strstr(b.p, "<script"));
    assert_null(strstr(b.p, "http://"));
    assert_null(strstr(b.p, "https://"));
    st_buf_clear(&b);
    struct st_report links = r;
    links.model = "https://a.example/x or WWW.a.example, b@a.example, 1:2";
    st_report_markdown(&links, "f.svg", NULL, &b);
    assert_non_null(strstr(b.p, "## https:<!-- -->//a.example/x or WWW<!-- -->.a.example, b@<!-- -->a.example, 1:2"));
    assert_non_null(strstr(b.p, "| on-records | otp, &lt;script>\\| | worker | 95 % ("));
    assert_non_null(strstr(b.p, "no gates here"));
    st_buf_clear(&b);
    const struct st_report named = {
        .findings = &f, .model = "[a](b:c)\n&`*", .target = "x", .command = "sotto audit 'a``\n<b>'", .seed = 9};
    st_report_markdown(&named, "a (b):c.svg", NULL, &b);
    assert_non_null(strstr(b.p, "## \\[a\\](b:c) &amp;\\`\\*\n"));
    assert_non_null(strstr(b.p, "Made by ```sotto audit 'a`` <b>' --seed 9```;"));
    assert_non_null(strstr(b.p, "](a%20%28b%29%3Ac.svg)"));
    st_buf_clear(&b);
    st_report_text(&r, &b);
    assert_non_null(strstr(b.p, "not run: refused, otp: no gates here"));
    st_buf_clear(&b);
    assert_false(st_report_series(&r, &b));
    st_report_figure(&r, &b);
    assert_non_null(strstr(b.p, "xmlns=\"http://www.w3.org/2000/svg\""));
    st_buf_clear(&b);
    st_findings_json(&f, "demo", 9, &b);
    assert_ok(st_json_parse(b.p, b.len, "audit", &o, &e), &e);
    const json_t *row = json_array_get(json_object_get(o, "rows"), 0);
    static const char *const fields[] = {"attack", "variant", "adversary", "score",  "chance", "unprotected",
                                         "ci",     "seed",    "n",         "metric", "note"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        assert_non_null(json_object_get(row, fields[i]));
    json_decref(o);
    st_buf_free(&b);
    st_findings_free(&f);
    st_subject_close(s);
}

static void verdicts_say_the_worst_and_leave_out_the_noise_series(void **state)
{
    struct st_row at[] = {
        {.attack = "a",
         .adversary = "server",
         .target = "tight",
         .score = 0.2,
         .low = 0.1,
         .high = 0.3,
         .chance = 0.15},
        {.attack = "b", .adversary = "server", .target = "tight", .score = 0.6, .low = 0.5, .high = 0.7, .chance = 0.1},
        {.attack = "c",
         .adversary = "server",
         .target = "tight",
         .score = 1,
         .low = 1,
         .high = 1,
         .sweep = true,
         .x = 0.5,
         .x_name = "alpha_e"},
        {.attack = "a", .adversary = "worker", .target = "lwe", .score = 0.1, .low = 0, .high = 0.3, .chance = 0.05},
        {.attack = "d", .adversary = "worker", .target = "lwe", .score = 1, .low = 1, .high = 1, .traffic = true},
        {.attack = "e", .adversary = "worker", .target = "", .score = 1, .low = 1, .high = 1, .others = true},
    };
    const struct st_rows rows = {.at = at, .n = 6};
    struct st_verdict v[ST_VERDICT_MAX];
    struct st_buf b = {0};
    (void)state;
    for (size_t i = 0; i < rows.n; i++)
        at[i].metric = "share of it";
    at[1].unprotected = NAN;
    snprintf(at[1].variant, sizeof at[1].variant, "tight, one layer");
    assert_int_equal(st_verdicts(&rows, v), 4);
    assert_string_equal(v[0].worst->attack, "b");
    assert_int_equal(v[0].level, ST_VERDICT_MOST);
    assert_int_equal(v[1].level, ST_VERDICT_NOTHING);
    assert_true(v[2].traffic);
    st_verdict_text(&v[0], &b);
    assert_string_equal(b.p, "most: share of it, 60 % (50 to 70); guessing gets 10 %; by b (one layer)");
    st_buf_clear(&b);
    st_verdict_summary(v, 4, ST_VERDICT_NOTHING, &b);
    assert_string_equal(b.p, "worker (lwe)");
    st_buf_clear(&b);
    assert_string_equal(st_verdict_target(&v[3]), "schemes of others");
    st_verdict_summary(v, 4, ST_VERDICT_ALL, &b); /* neither lengths nor what is not Sotto's */
    assert_int_equal(b.len, 0);
    st_buf_free(&b);
}

static void the_luckiest_of_many_rows_is_no_leak(void **state)
{
    static const uint64_t hits[] = {22, 10, 40}; /* of 100, where guessing gets 15: luck of one in 40; none; a leak */
    struct st_row at[40];
    const struct st_rows rows = {.at = at, .n = 40};
    struct st_verdict v[ST_VERDICT_MAX];
    (void)state;
    for (size_t h = 0; h < 3; h++) {
        for (size_t i = 0; i < 40; i++) {
            at[i] = (struct st_row){.attack = "a", .adversary = "worker", .metric = "share", .chance = 0.15};
            st_row_share(&at[i], i == 7 ? hits[h] : 15, 100);
        }
        assert_int_equal(st_verdicts(&rows, v), 1);
        assert_int_equal(v[0].level, h == 2 ? ST_VERDICT_PART : ST_VERDICT_NOTHING);
    }
    st_row_share(&at[7], 24, 100);
    assert_true(at[7].low > 0.15);
    assert_int_equal(st_verdicts(&rows, v), 1);
    assert_int_equal(v[0].level, ST_VERDICT_NOTHING);
    for (size_t i = 0; i < 40; i++)
        at[i].chance = 0; /* what guessing never hits is a leak when it is hit once */
    assert_int_equal(st_verdicts(&rows, v), 1);
    assert_int_equal(v[0].level, ST_VERDICT_PART);
}

static void a_series_is_drawn_with_its_accuracy_and_its_figures(void **state)
{
    static const struct {
        const char *attack;
        double x, score;
    } points[] = {{"strong", 0, 1},   {"strong", 0.5, 0.875}, {"strong", 1, 0.75}, {"weak", 0, 1},
                  {"weak", 0.5, 0.5}, {"weak", 1, 0},         {"once", 0, 1}}; /* one point is no line */
    struct st_row at[7];
    struct st_buf b = {0};
    struct st_chart_line lines[ST_CHART_LINES];
    struct st_findings f = {.rows = {.at = at, .n = 7}};
    const struct st_report r = {.findings = &f, .model = "m", .target = "t", .command = "sotto audit", .seed = 1};
    size_t n;
    (void)state;
    for (size_t i = 0; i < 7; i++)
        at[i] = (struct st_row){.attack = points[i].attack,
                                .adversary = "server",
                                .metric = "share of it",
                                .score = points[i].score,
                                .sweep = true,
                                .x_name = "alpha_e",
                                .x = points[i].x,
                                .cost = points[i].x};
    const struct st_row **rows = st_rows_pick(&f.rows, st_row_in_series, "alpha_e", &n);
    assert_non_null(rows);
    assert_int_equal(n, 7);
    assert_int_equal(st_chart_lines(rows, n, lines), 2);
    assert_string_equal(lines[1].name, "weak");
    assert_true(st_chart_point(rows, n, &lines[0], 0.5)->score == 0.875);
    assert_null(st_chart_point(rows, n, &lines[0], 0.25));
    free(rows);
    assert_true(st_report_series(&r, &b));
    assert_non_null(strstr(b.p, "dashed: perplexity added"));
    assert_non_null(strstr(b.p, ">weak</text>"));
    assert_null(strstr(b.p, ">once</text>"));
    st_buf_clear(&b);
    st_report_html(&r, &b);
    assert_non_null(
        strstr(b.p, "<tr><th scope=\"row\">strong</th><td class=\"n\">100 %</td><td class=\"n\">87.5 %</td>"));
    assert_non_null(strstr(b.p, "<td class=\"n\">+50 %</td>"));
    st_buf_free(&b);
}

static void texts_of_the_models_own_are_the_same_for_a_seed(void **state)
{
    struct st_err e = {0};
    struct st_subject *s = open_subject();
    const struct st_target *t = st_subject_plain(s);
    struct st_text_made a, b;
    struct st_text_speak speak = {
        .model = t->base, .tok = t->tokenizer, .n_doc = 3, .n_token = 20, .n_record = 2, .seed = 4, .n_threads = 1};
    (void)state;
    assert_ok(st_text_make(&speak, &a, &e), &e);
    speak.n_threads = 2;
    assert_ok(st_text_make(&speak, &b, &e), &e);
    assert_int_equal(a.view.n, 5);
    assert_int_equal(st_texts_len(&a.view), st_texts_len(&b.view));
    assert_memory_equal(a.view.ids, b.view.ids, st_texts_len(&a.view) * sizeof *a.view.ids);
    /* The items decode to what stands in the letters. */
    struct st_rng rng;
    struct st_letter l;
    struct st_buf text = {0};
    st_rng_seed(&rng, 4);
    st_letter_make(&rng, &l);
    assert_true(a.view.n_item >= l.n_item);
    for (size_t k = 0; k < l.n_item; k++) {
        char want[64];
        snprintf(want, sizeof want, "%.*s", (int)(l.items[k].hi - l.items[k].lo), l.text + l.items[k].lo);
        st_buf_clear(&text);
        assert_ok(st_tokenizer_decode(t->tokenizer, a.view.ids + a.view.items[k].lo,
                                      a.view.items[k].hi - a.view.items[k].lo, true, &text, &e),
                  &e);
        assert_non_null(strstr(text.p, want));
    }
    st_buf_free(&text);
    st_text_free(&a);
    st_text_free(&b);
    st_subject_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(recordings_that_do_not_fit_are_refused_by_name, make_work, drop_work),
        cmocka_unit_test_setup_teardown(preparations_of_a_scheme_are_no_rows_of_the_text, make_work, drop_work),
        cmocka_unit_test_setup_teardown(pairs_that_do_not_belong_together_are_refused, make_work, drop_work),
        cmocka_unit_test_setup_teardown(what_an_earlier_key_made_stands_beside_a_pair, make_work, drop_work),
        cmocka_unit_test_setup_teardown(noise_costs_accuracy_along_the_series, make_work, drop_work),
        cmocka_unit_test_setup_teardown(each_attack_runs_on_every_target_that_fits_and_the_rest_is_listed, make_work,
                                        drop_work),
        cmocka_unit_test_setup_teardown(what_is_no_score_is_listed_and_never_a_row, make_work, drop_work),
        cmocka_unit_test_setup_teardown(an_attack_that_does_not_fit_costs_no_other_its_rows, make_work, drop_work),
        cmocka_unit_test_setup_teardown(an_attack_that_fails_costs_no_other_its_rows_and_is_said_at_the_end, make_work,
                                        drop_work),
        cmocka_unit_test_setup_teardown(a_signal_ends_the_audit, make_work, drop_work),
        cmocka_unit_test_setup_teardown(attacks_on_a_small_model_run_at_once_and_are_reported_in_their_order, make_work,
                                        drop_work),
        cmocka_unit_test_setup_teardown(reports_hold_every_row_and_escape_it, make_work, drop_work),
        cmocka_unit_test(verdicts_say_the_worst_and_leave_out_the_noise_series),
        cmocka_unit_test(the_luckiest_of_many_rows_is_no_leak),
        cmocka_unit_test(a_series_is_drawn_with_its_accuracy_and_its_figures),
        cmocka_unit_test_setup_teardown(texts_of_the_models_own_are_the_same_for_a_seed, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

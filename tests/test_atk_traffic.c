/* Traffic of the confidential path: what sizes, times, tokens and choices of nodes tell, each with a weak case that is
 * told nearly fully and one at chance. */
#include "expect.h"

#include "audit/atk_node_choice.h"
#include "audit/atk_token_link.h"
#include "audit/attack.h"
#include "audit/tell.h"
#include "audit/traffic_read.h"
#include "base/hooks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEMO "models/demo"
#define DOCS 8

/* Documents of random tokens and of different lengths, with a tokenizer that can say them. */
struct rig {
    struct st_tokenizer *tokenizer;
    uint32_t ids[DOCS * 300];
    size_t ends[DOCS];
    struct st_texts_ids text;
    struct st_traffic *t;
};

static struct rig *rig_new(bool unblinded, bool sticky, bool even)
{
    static const char path[] = DEMO "/tokenizer.json";
    struct rig *r = calloc(1, sizeof *r);
    struct st_err e;
    struct st_rng rng;
    size_t n = 0;
    assert_non_null(r);
    assert_ok(st_tokenizer_open(path, &r->tokenizer, &e), &e);
    st_rng_seed(&rng, 5);
    for (size_t d = 0; d < DOCS; d++) {
        size_t len = even ? 120 : 100 + 24 * d; /* apart by more than words of other lengths are */
        for (size_t i = 0; i < len; i++)
            r->ids[n++] = 260 + (uint32_t)(st_rng_next(&rng) % 200);
        r->ends[d] = n;
    }
    r->text = (struct st_texts_ids){.ids = r->ids, .ends = r->ends, .n = DOCS};
    const struct st_traffic_opts o = {.text = &r->text,
                                      .tokenizer = r->tokenizer,
                                      .n_repeat = 10,
                                      .seed = 9,
                                      .unblinded = unblinded,
                                      .sticky = sticky};
    assert_ok(st_traffic_make(&o, &r->t, &e), &e);
    return r;
}

static void rig_free(struct rig *r)
{
    st_traffic_free(r->t);
    st_tokenizer_free(r->tokenizer);
    free(r);
}

/* The row whose variant begins so. */
static struct st_row run(const struct rig *r, const struct st_attack *attack, const char *variant)
{
    struct st_rows rows = {0};
    struct st_err e;
    const struct st_target target = {.kinds = ST_TARGET_TRAFFIC, .traffic = r->t};
    const struct st_audit a = {.target = &target, .seed = 3};
    struct st_row found = {0};
    bool any = false;
    assert_ok(attack->run(&a, &rows, &e), &e);
    for (size_t i = 0; i < rows.n && !any; i++)
        if ((any = strncmp(rows.at[i].variant, variant, strlen(variant)) == 0))
            found = rows.at[i];
    st_rows_free(&rows);
    if (!any)
        fail_msg("no row '%s'", variant);
    return found;
}

static void what_differs_is_told_and_what_does_not_is_not(void **state)
{
    (void)state;
    struct st_tell t;
    struct st_err e;
    double x[40][2];
    uint32_t class[40];
    struct st_rng rng;
    st_rng_seed(&rng, 1);
    for (int i = 0; i < 40; i++) {
        class[i] = (uint32_t)(i % 4);
        x[i][0] = 7; /* the same for all */
        x[i][1] = class[i] + 0.05 * st_rng_unit(&rng);
    }
    assert_ok(st_tell_learn(&x[0][0], class, 40, 4, 2, &t, &e), &e);
    for (int i = 0; i < 40; i++)
        assert_true(st_tell_right(&t, x[i], class[i]) == 1);
    st_tell_free(&t);
    for (int i = 0; i < 40; i++)
        x[i][1] = 3;
    assert_ok(st_tell_learn(&x[0][0], class, 40, 4, 2, &t, &e), &e);
    for (int i = 0; i < 40; i++)
        assert_true(st_tell_right(&t, x[i], class[i]) == 0.25);
    st_tell_free(&t);
    class[0] = 4;
    expect_refusal(st_tell_learn(&x[0][0], class, 40, 4, 2, &t, &e), &e, ST_INPUT, "class 4");
}

static const char reply[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1A;x=y\r\n"
                            "abcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";

static int read_reply(const char *p, size_t len, struct st_traffic_request *out, struct st_err *e)
{
    const struct st_traffic_mark marks[] = {{len > 60 ? 60 : len, 10.5}, {len, 11.25}};
    const struct st_traffic_heard h = {
        .up = {(const uint8_t *)"GET", 3}, .down = {(const uint8_t *)p, len}, .marks = marks, .n_mark = 2, .start = 10};
    return st_traffic_read(&h, 22, out, e);
}

static void chunks_of_a_recorded_reply_are_read_with_their_times(void **state)
{
    (void)state;
    struct st_traffic_request r;
    struct st_err e;
    assert_ok(read_reply(reply, sizeof reply - 1, &r, &e), &e);
    assert_int_equal(r.up, 25);
    assert_int_equal(r.n_piece, 2);
    assert_int_equal(r.pieces[0].size, 5 + 22);
    assert_int_equal(r.pieces[1].size, 26 + 22);
    assert_true(r.pieces[0].time == 0.5 && r.pieces[1].time == 1.25);
    free(r.pieces);
}

static void what_is_no_whole_reply_in_chunks_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhixx0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhi\r\n"};
    struct st_traffic_request r;
    struct st_err e;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(read_reply(bad[i], strlen(bad[i]), &r, &e), &e, ST_INPUT, "traffic: ");
    for (size_t len = 0; len < sizeof reply - 1; len++) {
        char *cut = malloc(len ? len : 1); /* its own, so that a sanitizer sees what is read behind it */
        memcpy(cut, reply, len);
        expect_refusal(read_reply(cut, len, &r, &e), &e, ST_INPUT, "traffic: ");
        free(cut);
    }
    char more[sizeof reply + 1];
    snprintf(more, sizeof more, "%sx", reply);
    expect_refusal(read_reply(more, strlen(more), &r, &e), &e, ST_INPUT, "1 bytes behind");
}

static void buckets_and_pieces_of_one_size_hide_sizes_but_not_lengths(void **state)
{
    (void)state;
    struct rig *r = rig_new(false, false, false);
    struct st_row row = run(r, &st_atk_sizes, "request, in buckets");
    assert_true(row.traffic && row.unprotected > 0.9 && fabs(row.score - row.chance) < 1e-9);
    row = run(r, &st_atk_sizes, "size of each piece");
    assert_true(row.unprotected > 0.9 && fabs(row.score - row.chance) < 1e-9);
    row = run(r, &st_atk_sizes, "length of the reply, as produced");
    assert_true(row.score > 0.9);
    row = run(r, &st_atk_sizes, "length of the reply, on a cadence");
    assert_true(row.score > 0.9);
    rig_free(r);
    r = rig_new(false, false, true); /* all as long: nothing is left */
    row = run(r, &st_atk_sizes, "length of the reply, as produced");
    assert_true(fabs(row.score - row.chance) < 1e-9);
    row = run(r, &st_atk_sizes, "length of the reply, on a cadence");
    assert_true(row.score > 0.2); /* how long the engine took, which is of the text */
    for (size_t i = 0; i < r->t->made.n_request; i++)
        r->t->made.wires[ST_TRAFFIC_CADENCE][i].n_piece = 3;
    row = run(r, &st_atk_sizes, "length of the reply, on a cadence");
    assert_true(fabs(row.score - row.chance) < 1e-9); /* as many ticks for all */
    rig_free(r);
}

static void a_cadence_hides_pauses_and_nothing_else_does(void **state)
{
    (void)state;
    struct rig *r = rig_new(false, false, false);
    struct st_row row = run(r, &st_atk_timing, "pauses, as produced");
    assert_true(row.score > 0.9 && row.low > row.chance);
    row = run(r, &st_atk_timing, "pauses, on a cadence");
    assert_true(row.low <= row.chance + 0.1 && row.score < 0.3);
    row = run(r, &st_atk_timing, "time to the first piece, as produced");
    assert_true(row.score > 0.5 && row.low > row.chance); /* the length of the prompt */
    row = run(r, &st_atk_timing, "time to the first piece, on a cadence");
    assert_true(row.low <= row.chance && row.score < 0.3); /* all of these prompts are done within one tick */
    row = run(r, &st_atk_timing, "time to the end, on a cadence");
    assert_true(row.score > 0.5); /* the length still shows */
    rig_free(r);
}

static void blinded_tokens_are_not_linked_and_bare_ones_are(void **state)
{
    (void)state;
    struct rig *r = rig_new(false, false, false);
    struct st_row row = run(r, &st_atk_token_link, "by the bytes");
    assert_true(row.score < 0.08 && !row.traffic); /* one of 128 on the mean; ten and more once in ten millions */
    assert_true(run(r, &st_atk_token_link, "by the time").traffic);
    rig_free(r);
    r = rig_new(true, false, false);
    row = run(r, &st_atk_token_link, "by the bytes");
    assert_true(row.score == 1);
    rig_free(r);
}

enum { BUYERS = 4, EACH = 8 };

/* Buyers buy one after the other; they spend before the next one buys, or when all have bought. */
static double linked_by_time(bool at_once)
{
    static struct st_traffic_sold sold[BUYERS * EACH];
    static struct st_traffic_spent spent[BUYERS * EACH];
    const struct st_traffic t = {.sold = sold, .spent = spent, .n_token = BUYERS * EACH, .n_client = BUYERS};
    double values[BUYERS * EACH], sum = 0;
    for (uint32_t i = 0; i < BUYERS * EACH; i++) {
        sold[i].client = i / EACH;
        sold[i].time = 1000.0 * (i / EACH);
        spent[i].sold = i;
        spent[i].time = sold[i].time + (at_once ? 1 : 1000 * BUYERS);
    }
    st_link_by_time(&t, values);
    for (size_t i = 0; i < BUYERS * EACH; i++)
        sum += values[i] / (BUYERS * EACH);
    return sum;
}

static void tokens_spent_at_once_are_linked_by_the_time_and_late_ones_are_not(void **state)
{
    (void)state;
    assert_true(linked_by_time(true) > 0.999);
    assert_true(fabs(linked_by_time(false) - 1.0 / BUYERS) < 1e-9);
}

static void nodes_drawn_all_alike_tell_no_client_and_a_node_of_ones_own_does(void **state)
{
    (void)state;
    struct rig *r = rig_new(false, false, false);
    struct st_node_choice c;
    struct st_err e;
    struct st_row row = run(r, &st_atk_node_choice, "");
    assert_true(row.score < 0.19 && row.low < row.chance + 0.03); /* an eighth on the mean, twelve draws together */
    assert_ok(st_node_choice(r->t->picks, r->t->n_pick, r->t->n_client, r->t->n_node, &c, &e), &e);
    assert_true(c.p > 1e-6 && c.bits < 0.1);
    rig_free(r);
    r = rig_new(false, true, false);
    row = run(r, &st_atk_node_choice, "");
    assert_true(fabs(row.score - row.unprotected) < 1e-9); /* 8 clients, 5 nodes: as far as there are nodes */
    assert_ok(st_node_choice(r->t->picks, r->t->n_pick, r->t->n_client, r->t->n_node, &c, &e), &e);
    assert_true(c.p < 1e-6 && c.bits > 1);
    expect_refusal(st_node_choice(r->t->picks, r->t->n_pick, 2, r->t->n_node, &c, &e), &e, ST_INPUT, "picks: client");
    rig_free(r);
}

static void attacks_on_traffic_need_it(void **state)
{
    (void)state;
    static const struct st_attack *const all[] = {&st_atk_sizes, &st_atk_timing, &st_atk_token_link,
                                                  &st_atk_node_choice};
    const struct st_target target = {0};
    const struct st_audit a = {.target = &target};
    struct st_rows rows = {0};
    struct st_err e;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        expect_refusal(all[i]->run(&a, &rows, &e), &e, ST_UNSUPPORTED, "needs the traffic");
    st_rows_free(&rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_differs_is_told_and_what_does_not_is_not),
        cmocka_unit_test(chunks_of_a_recorded_reply_are_read_with_their_times),
        cmocka_unit_test(what_is_no_whole_reply_in_chunks_is_refused),
        cmocka_unit_test(buckets_and_pieces_of_one_size_hide_sizes_but_not_lengths),
        cmocka_unit_test(a_cadence_hides_pauses_and_nothing_else_does),
        cmocka_unit_test(blinded_tokens_are_not_linked_and_bare_ones_are),
        cmocka_unit_test(tokens_spent_at_once_are_linked_by_the_time_and_late_ones_are_not),
        cmocka_unit_test(nodes_drawn_all_alike_tell_no_client_and_a_node_of_ones_own_does),
        cmocka_unit_test(attacks_on_traffic_need_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The directory of all keys: what is written is read back as the same, and everything else is refused by name. */
#include "attest/directory.h"
#include "attest/tiles.h"
#include "expect.h"
#include "mutate.h"
#include "text/json.h"

#include <stdio.h>

static const char good[] =
    "{\"version\":1,\"kind\":\"directory\",\"epoch\":29333333,\"time\":1760000000,\"every\":60,\"gateways\":["
    "{\"name\":\"east\",\"keys\":\"AAEC\",\"price\":{\"request\":2,\"unit_bytes\":4096},\"nodes\":["
    "{\"id\":\"000102030405060708090a0b0c0d0e0f\",\"tags\":[\"model=demo\",\"q=\\\"\"],"
    "\"bundle\":\"1111111111111111111111111111111111111111111111111111111111111111\"},"
    "{\"id\":\"100102030405060708090a0b0c0d0e0f\",\"tags\":[],"
    "\"bundle\":\"2211111111111111111111111111111111111111111111111111111111111111\"}]},"
    "{\"name\":\"west.2\",\"keys\":\"AA==\",\"price\":{\"request\":0,\"unit_bytes\":1},\"nodes\":[]}],"
    "\"issuers\":[{\"name\":\"bank\",\"keys\":[{\"day\":20370,\"units\":1,\"key\":\"MIIB\"},"
    "{\"day\":20370,\"units\":8,\"key\":\"MIIC\"}]}]}";
static const char good_gateway[] =
    "{\"version\":1,\"kind\":\"gateway\",\"name\":\"east\",\"keys\":\"AAEC\",\"price\":{\"request\":2,\"unit_bytes\":"
    "4096},\"nodes\":[{\"id\":\"000102030405060708090a0b0c0d0e0f\",\"tags\":[\"model=demo\"],\"bundle\":"
    "\"1111111111111111111111111111111111111111111111111111111111111111\"}]}";
static const char good_issuer[] = "{\"version\":1,\"kind\":\"issuer\",\"name\":\"bank\",\"keys\":[{\"day\":20370,"
                                  "\"units\":512,\"key\":\"MIIB\"}]}";

typedef int parser(const void *, size_t, const char *, struct st_directory *, struct st_err *);

static struct st_directory *read_with(parser *read, const char *text)
{
    struct st_err e;
    struct st_directory *d = malloc(sizeof *d);
    assert_ok(read(text, strlen(text), "d", d, &e), &e);
    return d;
}

static void drop(struct st_directory *d)
{
    st_directory_wipe(d);
    free(d);
}

/* The text with one place replaced, parsed. */
static void refuse(parser *read, const char *text, const char *from, const char *to, const char *says)
{
    struct st_err e;
    struct st_buf b = {0};
    struct st_directory *d = malloc(sizeof *d);
    const char *at = strstr(text, from);
    assert_non_null(at);
    st_buf_add(&b, text, (size_t)(at - text));
    st_buf_add_str(&b, to);
    st_buf_add_str(&b, at + strlen(from));
    expect_refusal(read(b.p, b.len, "d", d, &e), &e, ST_INPUT, says);
    st_buf_free(&b);
    drop(d);
}

static void a_directory_is_read_and_written_back_as_the_same_bytes(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf out = {0};
    struct st_directory *d = read_with(st_directory_parse, good);
    assert_int_equal(d->n_gateway, 2);
    assert_int_equal(d->gateways[0].n_node, 2);
    assert_int_equal(d->gateways[0].unit_bytes, 4096);
    assert_int_equal(d->gateways[0].price_request, 2);
    assert_memory_equal(d->gateways[0].keys.p, "\0\1\2", 3);
    assert_string_equal(d->gateways[0].nodes[0].tags[1], "q=\"");
    assert_int_equal(d->gateways[0].nodes[1].bundle[0], 0x22);
    assert_int_equal(d->issuers[0].n_key, 2);
    assert_int_equal(d->epoch, 29333333);
    assert_ok(st_directory_write(d, &out, &e), &e);
    assert_string_equal(out.p, good);
    st_buf_free(&out);
    drop(d);
}

static void parts_are_read_and_written_back_as_the_same_bytes(void **state)
{
    (void)state;
    struct st_buf out = {0};
    struct st_directory *d = read_with(st_directory_parse_part, good_gateway);
    assert_int_equal(d->n_gateway, 1);
    assert_int_equal(d->n_issuer, 0);
    st_directory_write_gateway(&d->gateways[0], &out);
    assert_string_equal(out.p, good_gateway);
    drop(d);
    st_buf_clear(&out);
    d = read_with(st_directory_parse_part, good_issuer);
    assert_int_equal(d->n_gateway, 0);
    assert_int_equal(d->n_issuer, 1);
    st_directory_write_issuer(&d->issuers[0], &out);
    assert_string_equal(out.p, good_issuer);
    drop(d);
    st_buf_free(&out);
}

static void what_a_directory_must_not_say_is_refused_by_name(void **state)
{
    (void)state;
    parser *p = st_directory_parse;
    refuse(p, good, "\"epoch\":29333333", "\"epoch\":29333334", "d: epoch: want time divided by every");
    refuse(p, good, "\"every\":60", "\"every\":0", "every: want an integer");
    refuse(p, good, "\"time\":1760000000", "\"time\":-1", "time: want an integer");
    refuse(p, good, "\"kind\":\"directory\"", "\"kind\":\"gateway\"", "kind: want \"directory\"");
    refuse(p, good, "\"version\":1,", "\"version\":1,\"more\":2,", "unknown field 'more'");
    refuse(p, good, "\"version\":1,", "", "version: missing");
    refuse(p, good, "east", "a/b", "gateways[0]: name: want");
    refuse(p, good, "east", "..", "gateways[0]: name: want");
    refuse(p, good, "east", "west.2", "gateways[1]: name: want one that no other");
    refuse(p, good, "east", "0123456789012345678901234567890123456789012345678901234567890123x", "name: want 1 to 64");
    refuse(p, good, "AAEC", "AAE", "gateways[0]: keys: want base64");
    refuse(p, good, "\"request\":2", "\"request\":-2", "price: request: want an integer");
    refuse(p, good, "\"unit_bytes\":4096", "\"unit_bytes\":0", "price: unit_bytes: want an integer");
    refuse(p, good, ",\"unit_bytes\":4096", "", "price: unit_bytes: missing");
    refuse(p, good, "0001020304", "00010203", "nodes[0]: id: want");
    refuse(p, good, "1001020304", "0001020304", "nodes[1]: id: want one that no other");
    refuse(p, good, "model=demo", "model demo", "nodes[0]: tags: want words");
    refuse(p, good, "\"model=demo\"", "7", "nodes[0]: tags: want words");
    refuse(p, good, "[\"model=demo\"", "{\"a\":\"b\"},[\"model=demo\"", "not valid JSON");
    refuse(p, good, "221111", "2211", "nodes[1]: bundle: want");
    refuse(p, good, "\"bundle\":\"22", "\"time\":1,\"bundle\":\"22", "nodes[1]: unknown field 'time'");
    refuse(p, good, "\"units\":8", "\"units\":1", "issuers[0]: keys[1]: units: want one key per day");
    refuse(p, good, "\"units\":8", "\"units\":0", "keys[1]: units: want an integer");
    refuse(p, good, "\"key\":\"MIIC\"", "\"key\":\"\"", "keys[1]: key: want base64");
    refuse(p, good, "\"issuers\":[", "\"issuers\":[7,", "issuers[0]: want an object");
    refuse(p, good, "\"nodes\":[]", "\"nodes\":{}", "gateways[1]: nodes: want a list");
    p = st_directory_parse_part;
    refuse(p, good_gateway, "\"kind\":\"gateway\"", "\"kind\":\"node\"", "kind: want \"gateway\"");
    refuse(p, good_gateway, "\"kind\":\"gateway\"", "\"kind\":\"issuer\"", "unknown field");
    refuse(p, good_issuer, "\"name\":\"bank\",", "", "name: missing");
}

static void another_version_is_unsupported(void **state)
{
    (void)state;
    struct st_err e;
    struct st_directory *d = malloc(sizeof *d);
    const char text[] = "{\"version\":2,\"kind\":\"directory\"}";
    expect_refusal(st_directory_parse(text, strlen(text), "d", d, &e), &e, ST_UNSUPPORTED, "d: version: want 1, got 2");
    drop(d);
}

static void lists_have_the_lengths_that_the_header_says(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf out = {0};
    struct st_directory *d = read_with(st_directory_parse_part, good_gateway), *back = malloc(sizeof *back);
    struct st_directory_node *own = d->gateways[0].nodes;
    struct st_directory_node *many = calloc(ST_DIRECTORY_MAX_NODES + 1, sizeof *many);
    for (size_t i = 0; i <= ST_DIRECTORY_MAX_NODES; i++) {
        many[i] = own[0];
        many[i].id[0] = (uint8_t)i;
        many[i].id[1] = (uint8_t)(i >> 8);
    }
    d->gateways[0].nodes = many;
    d->gateways[0].n_node = ST_DIRECTORY_MAX_NODES;
    st_directory_write_gateway(&d->gateways[0], &out);
    assert_ok(st_directory_parse_part(out.p, out.len, "d", back, &e), &e);
    assert_int_equal(back->gateways[0].n_node, ST_DIRECTORY_MAX_NODES);
    assert_memory_equal(back->gateways[0].nodes, many, ST_DIRECTORY_MAX_NODES * sizeof *many);
    st_directory_wipe(back);
    d->gateways[0].n_node++;
    st_buf_clear(&out);
    st_directory_write_gateway(&d->gateways[0], &out);
    expect_refusal(st_directory_parse_part(out.p, out.len, "d", back, &e), &e, ST_INPUT, "at most 256 nodes");

    for (d->n_gateway = 0; d->n_gateway < 2; d->n_gateway++) { /* two such rows are no entry any more */
        d->gateways[d->n_gateway] = d->gateways[0];
        d->gateways[d->n_gateway].n_node = ST_DIRECTORY_MAX_NODES;
    }
    d->time = 1760000000;
    d->every = 60;
    expect_refusal(st_directory_write(d, &out, &e), &e, ST_INPUT, "directory: want at most 65535 bytes");
    struct st_buf spaces = {0};
    memset(st_buf_room(&spaces, ST_TILE_MAX_ENTRY + 1), ' ', ST_TILE_MAX_ENTRY + 1);
    expect_refusal(st_directory_parse(spaces.p, spaces.len, "d", back, &e), &e, ST_INPUT, "at most 65535 bytes");
    st_buf_free(&spaces);
    st_buf_free(&out);
    free(many);
    free(back);
    drop(d);
}

static void rows_are_found_by_name_id_day_and_tags(void **state)
{
    (void)state;
    struct st_directory *d = read_with(st_directory_parse, good);
    const struct st_directory_gateway *g = st_directory_find_gateway(d, "east");
    const char *const both[] = {"q=\"", "model=demo"}, *const other[] = {"model=other"};
    assert_ptr_equal(g, &d->gateways[0]);
    assert_null(st_directory_find_gateway(d, "north"));
    assert_ptr_equal(st_directory_find_issuer(d, "bank"), &d->issuers[0]);
    assert_null(st_directory_find_issuer(d, "east"));
    assert_ptr_equal(st_directory_find_node(g, g->nodes[1].id), &g->nodes[1]);
    assert_null(st_directory_find_node(&d->gateways[1], g->nodes[1].id));
    assert_ptr_equal(st_directory_find_key(&d->issuers[0], 20370, 8), &d->issuers[0].keys[1]);
    assert_null(st_directory_find_key(&d->issuers[0], 20371, 8));
    assert_true(st_node_has_tags(&g->nodes[0], both, 2));
    assert_true(st_node_has_tags(&g->nodes[1], both, 0));
    assert_false(st_node_has_tags(&g->nodes[1], both, 1));
    assert_false(st_node_has_tags(&g->nodes[0], other, 1));
    drop(d);
}

static void damaged_directories_are_refused_or_mean_something_else(void **state)
{
    (void)state;
    struct st_rng r;
    struct st_err e;
    struct st_directory *d = malloc(sizeof *d);
    st_rng_seed(&r, 5);
    for (size_t n = 0; n < strlen(good); n++)
        assert_int_not_equal(st_directory_parse(good, n, "d", d, &e), 0);
    for (int i = 0; i < 20000; i++) {
        size_t len;
        struct st_buf out = {0};
        parser *p = i % 2 ? st_directory_parse : st_directory_parse_part;
        const char *text = i % 2 ? good : i % 4 ? good_gateway : good_issuer;
        uint8_t *bytes = mutate(&r, text, strlen(text), 64, &len);
        if (p(bytes, len, "d", d, &e) == 0) {
            assert_ok(st_directory_write(d, &out, &e), &e);
            st_directory_wipe(d);
        }
        st_buf_free(&out);
        free(bytes);
    }
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_directory_is_read_and_written_back_as_the_same_bytes),
        cmocka_unit_test(parts_are_read_and_written_back_as_the_same_bytes),
        cmocka_unit_test(what_a_directory_must_not_say_is_refused_by_name),
        cmocka_unit_test(another_version_is_unsupported),
        cmocka_unit_test(lists_have_the_lengths_that_the_header_says),
        cmocka_unit_test(rows_are_found_by_name_id_day_and_tags),
        cmocka_unit_test(damaged_directories_are_refused_or_mean_something_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

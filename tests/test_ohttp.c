/* Oblivious HTTP: the examples of RFC 9458 and of the chunked draft, whole exchanges cut anywhere, and what is refused.
 */
#include "channel/reply.h"
#include "vectors.h"

#define NO_FIELDS ((struct st_bhttp_fields){0})
#define MAX (1 << 20)

static const struct st_keyring_opts opts = {.kem = ST_HPKE_KEM_X25519,
                                            .aeads = {ST_AEAD_AES_128_GCM, ST_AEAD_CHACHA20_POLY1305},
                                            .n_aeads = 2,
                                            .max_requests = 1000};

static struct st_keyring *new_ring(void)
{
    struct st_err e;
    struct st_keyring *r;
    assert_ok(st_keyring_new(&opts, &r, &e), &e);
    return r;
}

/* Opens all of p [len], in pieces of `step`; the text is appended to out. */
static int open_all(struct st_ohttp *x, const void *p, size_t len, size_t step, struct st_buf *out, struct st_err *e)
{
    struct st_span text;
    for (size_t at = 0; at < len; at += step) {
        struct st_span in = {(const uint8_t *)p + at, len - at < step ? len - at : step};
        while (in.len) {
            int rc = st_ohttp_open(x, &in, &text, e);
            if (rc)
                return rc;
            st_buf_add(out, text.p, text.len);
        }
    }
    int rc = st_ohttp_open_end(x, &text, e);
    if (!rc)
        st_buf_add(out, text.p, text.len);
    return rc;
}

/* A request of `text`, in pieces of `chunk` when chunked. */
static void make_request(struct st_ohttp *client, enum st_ohttp_form form, const struct st_keyring *ring,
                         const char *text, size_t len, size_t chunk, struct st_buf *out)
{
    struct st_err e;
    assert_ok(st_ohttp_client(client, form, st_keyring_current(ring), MAX, out, &e), &e);
    for (; form == ST_OHTTP_CHUNKED && len > chunk; len -= chunk, text += chunk)
        assert_ok(st_ohttp_seal(client, text, chunk, false, out, &e), &e);
    assert_ok(st_ohttp_seal(client, text, len, true, out, &e), &e);
}

static int serve(struct st_ohttp *server, enum st_ohttp_form form, struct st_keyring *ring, const struct st_buf *b,
                 struct st_buf *text, struct st_err *e)
{
    st_ohttp_server(server, form, ring, MAX);
    return open_all(server, b->p, b->len, b->len ? b->len : 1, text, e);
}

#define expect_closed(rc, e) expect_refusal(rc, e, ST_VERIFY, "does not open")

/* ---- published examples ---- */

/* RFC 9458 appendix A. */
static const char whole_key[] = "3c168975674b2fa8e465970b79c8dcf09f1c741626480bd4c6162fc5b6a98e1a";
static const char whole_ephemeral[] = "bc51d5e930bda26589890ac7032f70ad12e4ecb37abb1b65b1256c9c48999c73";
static const char whole_config[] =
    "01002031e1f05a740102115220e9af918f738674aec95f54db6e04eb705aae8e79815500080001000100010003";
static const char whole_request[] =
    "010020000100014b28f881333e7c164ffc499ad9796f877f4e1051ee6d31bad19dec96c208b4726374e4"
    "69135906992e1268c594d2a10c695d858c40a026e7965e7d86b83dd440b2c0185204b4d63525";
static const char whole_nonce[] = "c789e7151fcba46158ca84b04464910d";
static const char whole_reply[] = "c789e7151fcba46158ca84b04464910d86f9013e404feea014e7be4a441f234f857fbd";
/* The example of draft-ietf-ohai-chunked-ohttp. */
static const char chunked_key[] = "1c190d72acdbe4dbc69e680503bb781a932c70a12c8f3754434c67d8640d8698";
static const char chunked_ephemeral[] = "b26d565f3f875ed480d1abced3d665159650c99174fd0b124ac4bda0c64ae324";
static const char chunked_config[] =
    "010020668eb21aace159803974a4c67f08b4152d29bed10735fd08f98ccdd6fe09570800080001000100010003";
static const char chunked_request[] = "010020000100018811eb457e100811c40a0aa71340a1b81d804bb986f736f2f566a7199761a0321c"
                                      "2ad24942d4d692563012f2980c8fef437a33"
                                      "6b9b2fc938ef77a5834f1d2e33d8fd25577afe31bd1c79d094f76b6250ae6549b473ecd950501311"
                                      "001c6c1395d0ef7c1022297966307b8a7f";
static const char chunked_nonce[] = "bcce7f4cb921309ba5d62edf1769ef09";
static const char chunked_reply[] =
    "bcce7f4cb921309ba5d62edf1769ef091179bf1cc87fa0e2c02de4546945aa3d1e4812b348b5bd4c594c1"
    "6b6170b07b475845d1f3200ed9d8a796617a5b27265f4d73247f639";

static const char bhttp_request[] = "00034745540568747470730b6578616d706c652e636f6d012f";
static const char bhttp_reply[] = "0140c8";

/* Lengths of the text of each piece, the last one final. */
static void seal_pieces(struct st_ohttp *x, const struct bytes *text, const size_t *pieces, size_t n,
                        struct st_buf *out)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        struct st_err e;
        assert_ok(st_ohttp_seal(x, text->p + at, pieces[i], i + 1 == n, out, &e), &e);
        at += pieces[i];
    }
    assert_int_equal(at, text->len);
}

struct example {
    enum st_ohttp_form form;
    const char *key, *ephemeral, *config, *request, *nonce, *reply;
    size_t request_pieces[3], reply_pieces[3], n_pieces;
};

static void run_example(const struct example *x)
{
    struct st_err e;
    struct bytes sk = bytes_hex(x->key), eph = bytes_hex(x->ephemeral), config = bytes_hex(x->config);
    struct bytes request = bytes_hex(bhttp_request), reply = bytes_hex(bhttp_reply), nonce = bytes_hex(x->nonce);
    struct st_hpke_key *key, *ephemeral;
    struct st_keyring *ring;
    struct st_ohttp_config c;
    struct st_ohttp client, server;
    struct st_buf b = {0}, text = {0};
    assert_ok(st_hpke_key_import(ST_HPKE_KEM_X25519, sk.p, 32, &key, &e), &e);
    assert_ok(st_hpke_key_import(ST_HPKE_KEM_X25519, eph.p, 32, &ephemeral, &e), &e);
    assert_ok(st_keyring_new_from(&opts, key, 1, &ring, &e), &e);
    st_ohttp_config_add(&b, st_keyring_current(ring));
    assert_bytes(b.p, b.len, config);
    st_buf_clear(&b);

    assert_ok(st_ohttp_config_parse((struct st_span){config.p, config.len}, &c, &e), &e);
    assert_ok(st_ohttp_client_from(&client, x->form, &c, ephemeral, MAX, &b, &e), &e);
    seal_pieces(&client, &request, x->request_pieces, x->n_pieces, &b);
    assert_bytes(b.p, b.len, bytes_hex(x->request));
    assert_ok(serve(&server, x->form, ring, &b, &text, &e), &e);
    assert_bytes(text.p, text.len, request);

    st_buf_clear(&b);
    st_buf_clear(&text);
    assert_ok(st_ohttp_reply_from(&server, nonce.p, &b, &e), &e);
    seal_pieces(&server, &reply, x->reply_pieces, x->n_pieces, &b);
    assert_bytes(b.p, b.len, bytes_hex(x->reply));
    assert_ok(open_all(&client, b.p, b.len, 5, &text, &e), &e);
    assert_bytes(text.p, text.len, reply);
    st_ohttp_wipe(&client);
    st_ohttp_wipe(&server);
    st_keyring_free(ring);
    st_hpke_key_free(ephemeral);
    st_buf_free(&b);
    st_buf_free(&text);
}

static void the_example_of_rfc_9458_comes_out_byte_for_byte(void **state)
{
    (void)state;
    const struct example x = {ST_OHTTP_WHOLE,
                              whole_key,
                              whole_ephemeral,
                              whole_config,
                              whole_request,
                              whole_nonce,
                              whole_reply,
                              {25},
                              {3},
                              1};
    run_example(&x);
    assert_string_equal(st_ohttp_request_type(ST_OHTTP_WHOLE), "message/ohttp-req");
    assert_string_equal(st_ohttp_reply_type(ST_OHTTP_WHOLE), "message/ohttp-res");
}

static void the_example_of_the_chunked_draft_comes_out_byte_for_byte(void **state)
{
    (void)state;
    const struct example x = {ST_OHTTP_CHUNKED, chunked_key,   chunked_ephemeral, chunked_config, chunked_request,
                              chunked_nonce,    chunked_reply, {12, 13, 0},       {1, 2, 0},      3};
    run_example(&x);
    assert_string_equal(st_ohttp_request_type(ST_OHTTP_CHUNKED), "message/ohttp-chunked-req");
    assert_string_equal(st_ohttp_reply_type(ST_OHTTP_CHUNKED), "message/ohttp-chunked-res");
}

/* ---- exchanges ---- */

static void exchanges_of_every_suite_and_form_survive_any_cut(void **state)
{
    (void)state;
    static const uint16_t kems[] = {ST_HPKE_KEM_X25519, ST_HPKE_KEM_P256};
    static char text[40000];
    memset(text, 'a', sizeof text);
    for (size_t i = 0; i < 2 * 3 * 2; i++) {
        struct st_err e;
        struct st_keyring *ring;
        struct st_ohttp client, server;
        struct st_buf b = {0}, got = {0};
        enum st_ohttp_form form = i % 2 ? ST_OHTTP_CHUNKED : ST_OHTTP_WHOLE;
        struct st_keyring_opts o = {
            .kem = kems[i / 6], .aeads = {(uint16_t)(1 + i / 2 % 3)}, .n_aeads = 1, .max_requests = 4};
        assert_ok(st_keyring_new(&o, &ring, &e), &e);
        assert_ok(st_ohttp_client(&client, form, st_keyring_current(ring), MAX, &b, &e), &e);
        assert_ok(st_ohttp_seal_all(&client, text, sizeof text, &b, &e), &e);
        st_ohttp_server(&server, form, ring, MAX);
        assert_ok(open_all(&server, b.p, b.len, 1 + 17 * i, &got, &e), &e);
        assert_int_equal(got.len, sizeof text);
        assert_memory_equal(got.p, text, sizeof text);
        st_buf_clear(&b);
        st_buf_clear(&got);
        assert_ok(st_ohttp_reply(&server, &b, &e), &e);
        assert_ok(st_ohttp_seal_all(&server, text, 20000, &b, &e), &e);
        assert_ok(open_all(&client, b.p, b.len, 1 + 5 * i, &got, &e), &e);
        assert_int_equal(got.len, 20000);
        expect_refusal(st_ohttp_seal(&server, "x", 1, true, &b, &e), &e, ST_USAGE, "final");
        st_ohttp_wipe(&client);
        st_ohttp_wipe(&server);
        st_keyring_free(ring);
        st_buf_free(&b);
        st_buf_free(&got);
    }
}

static void every_flipped_byte_and_every_truncation_of_a_request_is_refused(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        struct st_err e;
        struct st_keyring *ring = new_ring();
        struct st_ohttp client, server;
        struct st_buf b = {0}, text = {0};
        size_t len = form == ST_OHTTP_CHUNKED ? 39 + 2 * 21 + 19 : 39 + 26;
        for (size_t at = 0; at < len; at++)
            for (int cut = 0; cut < 2;
                 cut++) { /* each time anew: chunks before the fault use the encapsulated key up */
                st_buf_clear(&b);
                make_request(&client, form, ring, "a question", 10, 4, &b);
                assert_int_equal(b.len, len);
                b.p[at] ^= cut ? 0 : 0x40;
                b.len = cut ? at : len;
                expect_closed(serve(&server, form, ring, &b, &text, &e), &e);
                st_ohttp_wipe(&server);
                st_ohttp_wipe(&client);
            }
        st_buf_clear(&b);
        make_request(&client, form, ring, "a question", 10, 4, &b);
        st_buf_add(&b, "x", 1);
        expect_closed(serve(&server, form, ring, &b, &text, &e), &e);
        st_ohttp_wipe(&server);
        st_ohttp_wipe(&client);
        st_keyring_free(ring);
        st_buf_free(&b);
        st_buf_free(&text);
    }
}

static void every_flipped_byte_and_every_truncation_of_a_reply_is_refused(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        struct st_err e;
        struct st_keyring *ring = new_ring();
        struct st_ohttp client, server, again;
        struct st_buf b = {0}, reply = {0}, text = {0};
        struct st_hpke_key *ephemeral;
        assert_ok(st_hpke_key_new(ST_HPKE_KEM_X25519, &ephemeral, &e), &e);
        assert_ok(st_ohttp_client_from(&client, form, st_keyring_current(ring), ephemeral, MAX, &b, &e), &e);
        assert_ok(st_ohttp_seal_all(&client, "q", 1, &b, &e), &e);
        assert_ok(serve(&server, form, ring, &b, &text, &e), &e);
        assert_ok(st_ohttp_reply(&server, &reply, &e), &e);
        if (form == ST_OHTTP_CHUNKED)
            assert_ok(st_ohttp_seal(&server, "an answer", 9, false, &reply, &e), &e);
        assert_ok(st_ohttp_seal(&server, " ends", 5, true, &reply, &e), &e);
        for (size_t at = 0; at < reply.len; at++)
            for (int cut = 0; cut < 2; cut++) {
                reply.p[at] ^= cut ? 0 : 1;
                st_buf_clear(&b); /* a client in the same state */
                assert_ok(st_ohttp_client_from(&again, form, st_keyring_current(ring), ephemeral, MAX, &b, &e), &e);
                expect_closed(open_all(&again, reply.p, cut ? at : reply.len, 7, &text, &e), &e);
                st_ohttp_wipe(&again);
                reply.p[at] ^= cut ? 0 : 1;
            }
        st_buf_clear(&text);
        assert_ok(open_all(&client, reply.p, reply.len, 7, &text, &e), &e);
        assert_string_equal(text.p, form ? "an answer ends" : " ends");
        st_ohttp_wipe(&client);
        st_ohttp_wipe(&server);
        st_hpke_key_free(ephemeral);
        st_keyring_free(ring);
        st_buf_free(&b);
        st_buf_free(&reply);
        st_buf_free(&text);
    }
}

/* A relay that holds chunks can neither reorder, repeat nor drop them, nor call an inner one the last. */
static void chunks_in_another_order_or_number_are_refused(void **state)
{
    (void)state;
    enum { HEAD = 39, CHUNK = 1 + 4 + 16, FINAL = 1 + 4 + 16 };
    static const char text[] = "aaaabbbbcccc";
    static const int orders[][4] = {{1, 0, 2, 9}, {0, 0, 1, 2}, {0, 2, 9, 9}, {2, 9, 9, 9}, {0, 1, 9, 9}, {0, 1, 2, 2}};
    for (size_t i = 0; i <= sizeof orders / sizeof *orders; i++) {
        struct st_err e;
        struct st_keyring *ring = new_ring();
        struct st_ohttp client, server;
        struct st_buf b = {0}, c = {0}, got = {0};
        make_request(&client, ST_OHTTP_CHUNKED, ring, text, 12, 4, &b);
        assert_int_equal(b.len, HEAD + 2 * CHUNK + FINAL);
        st_buf_add(&c, b.p, HEAD);
        if (i < sizeof orders / sizeof *orders)
            for (int j = 0; j < 4 && orders[i][j] < 9; j++)
                st_buf_add(&c, b.p + HEAD + orders[i][j] * CHUNK, CHUNK);
        else { /* the second chunk as if it were the final one */
            st_buf_add(&c, b.p + HEAD, CHUNK);
            st_buf_add(&c, "", 1);
            st_buf_add(&c, b.p + HEAD + CHUNK + 1, CHUNK - 1);
        }
        expect_closed(serve(&server, ST_OHTTP_CHUNKED, ring, &c, &got, &e), &e);
        struct st_span in = {(const uint8_t *)b.p, b.len}, piece;
        expect_closed(st_ohttp_open(&server, &in, &piece, &e), &e); /* and it stays closed */
        expect_closed(st_ohttp_open_end(&server, &piece, &e), &e);
        st_ohttp_wipe(&client);
        st_ohttp_wipe(&server);
        st_keyring_free(ring);
        st_buf_free(&b);
        st_buf_free(&c);
        st_buf_free(&got);
    }
}

static void hostile_chunk_lengths_are_refused_before_they_are_gathered(void **state)
{
    (void)state;
    static const struct bytes lengths[] = {{{1}, 1},
                                           {{15}, 1},
                                           {{0x80, 0, 0x40, 0x11}, 4},
                                           {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 8},
                                           {{0xc0, 0, 0, 1, 0, 0, 0, 0}, 8}};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct st_err e;
        struct st_keyring *ring = new_ring();
        struct st_ohttp client, server;
        struct st_buf b = {0}, got = {0};
        assert_ok(st_ohttp_client(&client, ST_OHTTP_CHUNKED, st_keyring_current(ring), MAX, &b, &e), &e);
        st_buf_add(&b, lengths[i].p, lengths[i].len);
        st_ohttp_server(&server, ST_OHTTP_CHUNKED, ring, MAX);
        struct st_span in = {(const uint8_t *)b.p, b.len}, text;
        expect_closed(st_ohttp_open(&server, &in, &text, &e), &e);
        st_ohttp_wipe(&client);
        st_ohttp_wipe(&server);
        st_keyring_free(ring);
        st_buf_free(&b);
        st_buf_free(&got);
    }
    /* A final chunk, or a whole message, that goes on past its limit is refused there and not gathered to the end. */
    for (int form = 0; form < 2; form++) {
        struct st_err e;
        struct st_keyring *ring = new_ring();
        struct st_ohttp client, server;
        struct st_buf b = {0};
        struct st_span text;
        static const uint8_t zeros[1000];
        size_t limit = form == ST_OHTTP_CHUNKED ? ST_CHUNK_TEXT_MAX : 5000, fed = 0;
        int rc = 0;
        assert_ok(st_ohttp_client(&client, form, st_keyring_current(ring), MAX, &b, &e), &e);
        if (form == ST_OHTTP_CHUNKED)
            st_buf_add(&b, "", 1);
        st_ohttp_server(&server, form, ring, 5000);
        struct st_span in = {(const uint8_t *)b.p, b.len};
        assert_ok(st_ohttp_open(&server, &in, &text, &e), &e);
        while (!rc) {
            in = (struct st_span){zeros, sizeof zeros};
            rc = st_ohttp_open(&server, &in, &text, &e);
            fed += sizeof zeros;
        }
        expect_closed(rc, &e);
        assert_true(fed > limit && fed < limit + 16 + 2 * sizeof zeros);
        st_ohttp_wipe(&client);
        st_ohttp_wipe(&server);
        st_keyring_free(ring);
        st_buf_free(&b);
    }
}

static void one_form_is_never_taken_for_the_other(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        struct st_err e;
        struct st_keyring *ring = new_ring();
        struct st_ohttp client, server;
        struct st_buf b = {0}, got = {0};
        make_request(&client, form, ring, "text", 4, 100, &b);
        expect_closed(serve(&server, !form, ring, &b, &got, &e), &e);
        st_ohttp_wipe(&server);
        st_ohttp_wipe(&client);
        st_buf_clear(&b);
        assert_ok(st_ohttp_client(&client, ST_OHTTP_WHOLE, st_keyring_current(ring), MAX, &b, &e), &e);
        expect_refusal(st_ohttp_seal(&client, "x", 1, false, &b, &e), &e, ST_USAGE, "final");
        st_ohttp_wipe(&client);
        st_keyring_free(ring);
        st_buf_free(&b);
        st_buf_free(&got);
    }
}

/* ---- keys ---- */

static void a_request_is_accepted_once(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        struct st_err e;
        struct st_keyring *ring = new_ring();
        struct st_ohttp client, first, second;
        struct st_buf b = {0}, got = {0};
        make_request(&client, form, ring, "text", 4, 2, &b);
        /* Two copies at the same time: only one gets past its first piece. */
        st_ohttp_server(&second, form, ring, MAX);
        struct st_span in = {(const uint8_t *)b.p, 39}, text;
        assert_ok(st_ohttp_open(&second, &in, &text, &e), &e);
        assert_ok(serve(&first, form, ring, &b, &got, &e), &e);
        expect_closed(open_all(&second, b.p + 39, b.len - 39, b.len, &got, &e), &e);
        st_ohttp_wipe(&second);
        expect_closed(serve(&second, form, ring, &b, &got, &e), &e);
        st_ohttp_wipe(&second);
        assert_ok(st_keyring_rotate(ring, &e), &e); /* the previous key remembers */
        expect_closed(serve(&second, form, ring, &b, &got, &e), &e);
        st_ohttp_wipe(&second);
        st_ohttp_wipe(&first);
        st_ohttp_wipe(&client);
        st_keyring_free(ring);
        st_buf_free(&b);
        st_buf_free(&got);
    }
}

static void a_request_that_does_not_open_uses_nothing_up(void **state)
{
    (void)state;
    struct st_err e;
    struct st_keyring *ring = new_ring();
    struct st_ohttp client, server;
    struct st_buf b = {0}, got = {0};
    make_request(&client, ST_OHTTP_CHUNKED, ring, "text", 4, 100, &b);
    b.p[b.len - 1] ^= 1;
    expect_closed(serve(&server, ST_OHTTP_CHUNKED, ring, &b, &got, &e), &e);
    st_ohttp_wipe(&server);
    assert_true(st_keyring_used(ring) == 0);
    b.p[b.len - 1] ^= 1;
    assert_ok(serve(&server, ST_OHTTP_CHUNKED, ring, &b, &got, &e), &e);
    st_ohttp_wipe(&server);
    st_ohttp_wipe(&client);
    st_keyring_free(ring);
    st_buf_free(&b);
    st_buf_free(&got);
}

static void a_key_takes_so_many_requests_and_then_none(void **state)
{
    (void)state;
    struct st_err e;
    struct st_keyring_opts o = opts;
    struct st_keyring *ring;
    struct st_ohttp client, server;
    struct st_buf b = {0}, got = {0};
    o.max_requests = 3;
    assert_ok(st_keyring_new(&o, &ring, &e), &e);
    for (int i = 0; i < 5; i++) {
        st_buf_clear(&b);
        make_request(&client, ST_OHTTP_WHOLE, ring, "text", 4, 100, &b);
        int rc = serve(&server, ST_OHTTP_WHOLE, ring, &b, &got, &e);
        if (i < 3)
            assert_ok(rc, &e);
        else
            expect_refusal(rc, &e, ST_POLICY, "taken its 3");
        assert_true(st_keyring_used(ring) == (i < 3 ? i + 1 : 3) / 3.0);
        st_ohttp_wipe(&client);
        st_ohttp_wipe(&server);
    }
    assert_ok(st_keyring_rotate(ring, &e), &e);
    assert_true(st_keyring_used(ring) == 0);
    st_buf_clear(&b);
    make_request(&client, ST_OHTTP_WHOLE, ring, "text", 4, 100, &b);
    assert_ok(serve(&server, ST_OHTTP_WHOLE, ring, &b, &got, &e), &e);
    st_ohttp_wipe(&client);
    st_ohttp_wipe(&server);
    st_keyring_free(ring);
    st_buf_free(&b);
    st_buf_free(&got);
}

static void many_encapsulated_keys_are_all_remembered(void **state)
{
    (void)state;
    struct st_err e;
    struct st_keyring *ring = new_ring();
    uint64_t serial;
    struct st_hpke_suite s = {opts.kem, ST_HPKE_KDF_SHA256, ST_AEAD_AES_128_GCM};
    assert_non_null(st_keyring_find(ring, st_keyring_current(ring)->id, s, &serial));
    for (int pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < opts.max_requests; i++) {
            uint8_t enc[32] = {(uint8_t)i, (uint8_t)(i >> 8)};
            int rc = st_keyring_claim(ring, serial, enc, 32, &e);
            if (pass)
                expect_closed(rc, &e);
            else
                assert_ok(rc, &e);
        }
    uint8_t more[32] = {255, 255};
    expect_refusal(st_keyring_claim(ring, serial, more, 32, &e), &e, ST_POLICY, "1000");
    st_keyring_free(ring);
}

static void the_previous_key_opens_until_it_is_forgotten(void **state)
{
    (void)state;
    struct st_err e;
    struct st_keyring *ring = new_ring();
    struct st_ohttp client[3], server;
    struct st_buf b[3] = {{0}}, got = {0};
    assert_null(st_keyring_previous(ring));
    for (int i = 0; i < 3; i++)
        make_request(&client[i], ST_OHTTP_CHUNKED, ring, "old", 3, 1, &b[i]);
    uint8_t public[32];
    memcpy(public, st_keyring_current(ring)->public, 32);
    assert_ok(st_keyring_rotate(ring, &e), &e);
    assert_memory_not_equal(st_keyring_current(ring)->public, public, 32);
    assert_memory_equal(st_keyring_previous(ring)->public, public, 32);
    assert_int_equal(st_keyring_current(ring)->id, st_keyring_current(ring)->public[0]);
    assert_ok(serve(&server, ST_OHTTP_CHUNKED, ring, &b[0], &got, &e), &e);
    st_ohttp_wipe(&server);
    /* The head has been read, then the key dies: the encapsulated key cannot be marked any more, so it is refused. */
    st_ohttp_server(&server, ST_OHTTP_CHUNKED, ring, MAX);
    struct st_span in = {(const uint8_t *)b[1].p, 39}, text;
    assert_ok(st_ohttp_open(&server, &in, &text, &e), &e);
    st_keyring_forget(ring);
    assert_null(st_keyring_previous(ring));
    expect_closed(open_all(&server, b[1].p + 39, b[1].len - 39, 100, &got, &e), &e);
    st_ohttp_wipe(&server);
    expect_closed(serve(&server, ST_OHTTP_CHUNKED, ring, &b[2], &got, &e), &e);
    st_ohttp_wipe(&server);
    for (int i = 0; i < 3; i++) {
        st_ohttp_wipe(&client[i]);
        st_buf_free(&b[i]);
    }
    /* Ids come from the keys; two keys of a ring never share one. */
    for (int i = 0; i < 300; i++) {
        assert_ok(st_keyring_rotate(ring, &e), &e);
        assert_true(st_keyring_current(ring)->id != st_keyring_previous(ring)->id);
    }
    st_keyring_free(ring);
    st_buf_free(&got);
}

static void what_a_reply_needs_may_be_made_ahead(void **state)
{
    (void)state;
    struct st_err e;
    struct st_keyring *ring = new_ring();
    struct st_ohttp client, server;
    struct st_buf b = {0}, got = {0};
    make_request(&client, ST_OHTTP_CHUNKED, ring, "text", 4, 100, &b);
    st_ohttp_server(&server, ST_OHTTP_CHUNKED, ring, MAX);
    st_ohttp_reply_ahead(&server); /* nothing, before a request */
    expect_refusal(st_ohttp_reply(&server, &got, &e), &e, ST_USAGE, "request");
    st_ohttp_wipe(&server);
    assert_ok(serve(&server, ST_OHTTP_CHUNKED, ring, &b, &got, &e), &e);
    st_ohttp_reply_ahead(&server);
    st_ohttp_reply_ahead(&server);
    st_buf_clear(&b);
    expect_refusal(st_ohttp_seal(&server, "x", 1, true, &b, &e), &e, ST_USAGE, "reply has not begun");
    assert_ok(st_ohttp_reply(&server, &b, &e), &e);
    expect_refusal(st_ohttp_reply(&server, &b, &e), &e, ST_USAGE, "has one");
    assert_ok(st_ohttp_seal_all(&server, "the reply", 9, &b, &e), &e);
    st_buf_clear(&got);
    assert_ok(open_all(&client, b.p, b.len, 7, &got, &e), &e);
    assert_int_equal(got.len, 9);
    assert_memory_equal(got.p, "the reply", 9);
    st_ohttp_wipe(&server);
    st_ohttp_wipe(&client);
    st_keyring_free(ring);
    st_buf_free(&b);
    st_buf_free(&got);
}

static void a_reply_begins_only_after_a_request_and_once(void **state)
{
    (void)state;
    struct st_err e;
    struct st_keyring *ring = new_ring();
    struct st_ohttp client, server;
    struct st_buf b = {0}, got = {0};
    st_ohttp_server(&server, ST_OHTTP_WHOLE, ring, MAX);
    expect_refusal(st_ohttp_reply(&server, &b, &e), &e, ST_USAGE, "request");
    expect_refusal(st_ohttp_seal(&server, "x", 1, true, &b, &e), &e, ST_USAGE, "reply has not begun");
    st_ohttp_wipe(&server);
    make_request(&client, ST_OHTTP_WHOLE, ring, "text", 4, 100, &b);
    expect_refusal(st_ohttp_reply(&client, &b, &e), &e, ST_USAGE, "request");
    assert_ok(serve(&server, ST_OHTTP_WHOLE, ring, &b, &got, &e), &e);
    assert_ok(st_ohttp_reply(&server, &b, &e), &e);
    st_ohttp_reply_ahead(&server);
    expect_refusal(st_ohttp_reply(&server, &b, &e), &e, ST_USAGE, "has one");
    st_ohttp_wipe(&server);
    st_ohttp_wipe(&client);
    st_keyring_free(ring);
    struct st_keyring_opts bad = opts;
    struct st_keyring *none;
    bad.n_aeads = 0;
    expect_refusal(st_keyring_new(&bad, &none, &e), &e, ST_USAGE, "aeads");
    bad = opts;
    bad.max_requests = (1u << 24) + 1;
    expect_refusal(st_keyring_new(&bad, &none, &e), &e, ST_USAGE, "requests");
    st_buf_free(&b);
    st_buf_free(&got);
}

/* ---- key configurations ---- */

static void configurations_go_there_and_back_and_others_are_skipped(void **state)
{
    (void)state;
    struct st_err e;
    struct st_keyring *ring = new_ring();
    struct st_ohttp_config both[2], got[ST_OHTTP_CONFIGS_MAX];
    struct st_buf b = {0}, again = {0};
    size_t n;
    assert_ok(st_keyring_rotate(ring, &e), &e);
    both[0] = *st_keyring_current(ring);
    both[1] = *st_keyring_previous(ring);
    st_ohttp_config_add_list(&b, both, 2);
    /* A post-quantum KEM (X-Wing, 0x647a) that we do not have, between bytes that we do. */
    st_buf_add(&b, "\0\20\7\144\172\0\0\0\0\0\0\0\4\0\1\0\1\0", 17);
    b.p[b.len - 17 + 1] = 15;
    assert_ok(st_ohttp_config_parse_list((struct st_span){(uint8_t *)b.p, b.len}, got, &n, &e), &e);
    assert_int_equal(n, 2);
    assert_int_equal(got[0].n_suites, 2);
    st_ohttp_config_add_list(&again, got, 2);
    assert_memory_equal(again.p, b.p, again.len);
    for (size_t cut = 0; cut < again.len; cut++) {
        uint8_t *exact = malloc(cut + !cut); /* so that a sanitizer sees a read behind it */
        memcpy(exact, again.p, cut);
        int rc = st_ohttp_config_parse_list((struct st_span){exact, cut}, got, &n, &e);
        assert_true(rc != 0 || cut == again.len / 2); /* between the two */
        free(exact);
    }
    st_buf_clear(&b);
    both[1].id = both[0].id;
    st_ohttp_config_add_list(&b, both, 2);
    expect_refusal(st_ohttp_config_parse_list((struct st_span){(uint8_t *)b.p, b.len}, got, &n, &e), &e, ST_INPUT,
                   "id");
    st_buf_clear(&b);
    for (int i = 0; i < ST_OHTTP_CONFIGS_MAX + 1; i++) {
        both[0].id = (uint8_t)i;
        st_ohttp_config_add_list(&b, both, 1);
    }
    expect_refusal(st_ohttp_config_parse_list((struct st_span){(uint8_t *)b.p, b.len}, got, &n, &e), &e, ST_INPUT,
                   "at most 16");
    st_keyring_free(ring);
    st_buf_free(&b);
    st_buf_free(&again);
}

static void configurations_that_are_none_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_ohttp_config c;
    struct bytes b = bytes_hex(whole_config);
    for (size_t cut = 0; cut < b.len; cut++) {
        uint8_t *exact = malloc(cut + !cut);
        memcpy(exact, b.p, cut);
        expect_refusal(st_ohttp_config_parse((struct st_span){exact, cut}, &c, &e), &e, ST_INPUT, "key configuration");
        free(exact);
    }
    b.p[b.len] = 0;
    expect_refusal(st_ohttp_config_parse((struct st_span){b.p, b.len + 1}, &c, &e), &e, ST_INPUT, "suites");
    b.p[36] = 0; /* no suites */
    expect_refusal(st_ohttp_config_parse((struct st_span){b.p, 37}, &c, &e), &e, ST_INPUT, "suites");
    b = bytes_hex(whole_config);
    b.p[38] = b.p[42] = 9; /* KDFs of which none is ours */
    expect_refusal(st_ohttp_config_parse((struct st_span){b.p, b.len}, &c, &e), &e, ST_UNSUPPORTED, "none");
    b.p[1] = 1;
    expect_refusal(st_ohttp_config_parse((struct st_span){b.p, b.len}, &c, &e), &e, ST_UNSUPPORTED, "kem 0x0120");
    struct st_ohttp_config list[ST_OHTTP_CONFIGS_MAX];
    size_t n;
    expect_refusal(st_ohttp_config_parse_list((struct st_span){NULL, 0}, list, &n, &e), &e, ST_UNSUPPORTED, "none");
    /* A public key of small order shows when it is used. */
    struct st_ohttp x;
    struct st_buf out = {0};
    b = bytes_hex(whole_config);
    memset(b.p + 3, 0, 32);
    assert_ok(st_ohttp_config_parse((struct st_span){b.p, b.len}, &c, &e), &e);
    expect_refusal(st_ohttp_client(&x, ST_OHTTP_CHUNKED, &c, MAX, &out, &e), &e, ST_INPUT, "public key");
    assert_int_equal(out.len, 0);
}

/* ---- replies in chunks of one size ---- */

#define SIZE 512

static void a_reply_leaves_in_chunks_of_one_size(void **state)
{
    (void)state;
    const struct st_bhttp_field type = {{(const uint8_t *)"content-type", 12},
                                        {(const uint8_t *)"text/event-stream", 17}};
    const struct st_bhttp_field receipt = {{(const uint8_t *)"sotto-receipt", 13}, {(const uint8_t *)"00", 2}};
    const struct st_bhttp_limits limits = {.head = 4096, .n_fields = 8, .content = 1 << 20, .padding = 1 << 20};
    static char event[3000];
    memset(event, 'e', sizeof event);
    for (size_t len = 0; len < 2 * SIZE + 20; len += len < SIZE - 60 ? 37 : 1) {
        struct st_err e;
        struct st_keyring *ring = new_ring();
        struct st_ohttp client, server;
        struct st_reply r;
        struct st_buf b = {0}, text = {0}, content = {0};
        struct st_bhttp_head head = {.status = 200, .fields = {&type, 1}};
        make_request(&client, ST_OHTTP_CHUNKED, ring, "q", 1, 100, &b);
        assert_ok(serve(&server, ST_OHTTP_CHUNKED, ring, &b, &text, &e), &e);
        st_buf_clear(&b);
        assert_ok(st_reply_begin(&r, &server, SIZE, &head, &b, &e), &e);
        assert_int_equal(b.len, 16); /* the nonce; the head waits */
        struct st_digest hash, seen;
        uint8_t sent[32], got[32];
        assert_ok(st_digest_init(&hash, &e), &e);
        assert_ok(st_digest_init(&seen, &e), &e);
        r.hash = &hash;
        for (int i = 0; i < 3; i++) {
            assert_ok(st_reply_content(&r, event, len, &b, &e), &e);
            assert_ok(st_reply_flush(&r, &b, &e), &e);
            assert_int_equal((b.len - 16) % (2 + SIZE + 16), 0); /* length, text, tag */
        }
        size_t before = b.len;
        assert_ok(st_reply_flush(&r, &b, &e), &e);
        assert_int_equal(b.len, before);
        assert_ok(st_reply_tick(&r, &b, &e), &e);
        assert_int_equal(b.len, before + 2 + SIZE + 16);
        assert_ok(st_reply_content(&r, event, 3 * SIZE, &b, &e), &e);
        assert_ok(st_reply_end(&r, (struct st_bhttp_fields){&receipt, 1}, &b, &e), &e);
        assert_int_equal((b.len - 16 - 1 + 2) % (2 + SIZE + 16), 0); /* the final one's length is one zero */

        st_buf_clear(&text);
        assert_ok(open_all(&client, b.p, b.len, 100, &text, &e), &e);
        assert_int_equal(text.len % SIZE, 0);
        struct st_bhttp_reader reader;
        struct st_span in = {(uint8_t *)text.p, text.len}, piece;
        assert_ok(st_bhttp_reader_init(&reader, ST_BHTTP_RESPONSE, &limits, &e), &e);
        while (in.len) {
            assert_ok(st_bhttp_read(&reader, &in, &piece, &e), &e);
            st_digest_add(&seen, piece.p, piece.len);
            for (size_t i = 0; i < piece.len; i++)
                if (piece.p[i] != '\n')
                    st_buf_add(&content, piece.p + i, 1);
        }
        assert_ok(st_bhttp_read_end(&reader, &e), &e);
        assert_int_equal(content.len, 3 * len + 3 * SIZE);
        st_digest_end(&hash, sent);
        st_digest_end(&seen, got);
        assert_memory_equal(sent, got, 32); /* what a receipt names is what came, filler and all */
        assert_int_equal(strspn(content.p, "e"), content.len);
        assert_int_equal(st_bhttp_trailers(&reader).n, 1);
        st_bhttp_reader_wipe(&reader);
        st_reply_wipe(&r);
        st_ohttp_wipe(&client);
        st_ohttp_wipe(&server);
        st_keyring_free(ring);
        st_buf_free(&b);
        st_buf_free(&text);
        st_buf_free(&content);
    }
}

static void a_reply_refuses_sizes_that_no_chunk_has(void **state)
{
    (void)state;
    struct st_err e;
    struct st_keyring *ring = new_ring();
    struct st_ohttp server;
    struct st_reply r;
    struct st_buf b = {0};
    struct st_bhttp_head head = {.status = 200};
    st_ohttp_server(&server, ST_OHTTP_CHUNKED, ring, MAX);
    expect_refusal(st_reply_begin(&r, &server, 15, &head, &b, &e), &e, ST_USAGE, "16 to 16384");
    expect_refusal(st_reply_begin(&r, &server, 16385, &head, &b, &e), &e, ST_USAGE, "16 to 16384");
    expect_refusal(st_reply_begin(&r, &server, 16, &head, &b, &e), &e, ST_USAGE, "request");
    st_reply_wipe(&r);
    st_ohttp_wipe(&server);
    st_keyring_free(ring);
}

/* What a relay can measure of requests: their length falls into the buckets of the message. */
static void requests_of_one_bucket_have_one_length(void **state)
{
    (void)state;
    static const char body[9000];
    size_t first = 0;
    for (size_t len = 0; len < 4000; len += 333) {
        struct st_err e;
        struct st_keyring *ring = new_ring();
        struct st_ohttp client;
        struct st_buf message = {0}, b = {0};
        struct st_bhttp_head h = {.method = {(const uint8_t *)"POST", 4},
                                  .scheme = {(const uint8_t *)"https", 5},
                                  .path = {(const uint8_t *)"/v1/chat/completions", 20}};
        assert_ok(
            st_bhttp_write(&message, ST_BHTTP_REQUEST, &h, (struct st_span){(const uint8_t *)body, len}, NO_FIELDS, &e),
            &e);
        st_bhttp_pad(&message, 0, st_bhttp_bucket(message.len));
        assert_ok(st_ohttp_client(&client, ST_OHTTP_CHUNKED, st_keyring_current(ring), MAX, &b, &e), &e);
        assert_ok(st_ohttp_seal_all(&client, message.p, message.len, &b, &e), &e);
        first = first ? first : b.len;
        assert_int_equal(b.len, first);
        st_ohttp_wipe(&client);
        st_keyring_free(ring);
        st_buf_free(&message);
        st_buf_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_of_rfc_9458_comes_out_byte_for_byte),
        cmocka_unit_test(the_example_of_the_chunked_draft_comes_out_byte_for_byte),
        cmocka_unit_test(exchanges_of_every_suite_and_form_survive_any_cut),
        cmocka_unit_test(every_flipped_byte_and_every_truncation_of_a_request_is_refused),
        cmocka_unit_test(every_flipped_byte_and_every_truncation_of_a_reply_is_refused),
        cmocka_unit_test(chunks_in_another_order_or_number_are_refused),
        cmocka_unit_test(hostile_chunk_lengths_are_refused_before_they_are_gathered),
        cmocka_unit_test(one_form_is_never_taken_for_the_other),
        cmocka_unit_test(a_request_is_accepted_once),
        cmocka_unit_test(a_request_that_does_not_open_uses_nothing_up),
        cmocka_unit_test(a_key_takes_so_many_requests_and_then_none),
        cmocka_unit_test(many_encapsulated_keys_are_all_remembered),
        cmocka_unit_test(the_previous_key_opens_until_it_is_forgotten),
        cmocka_unit_test(what_a_reply_needs_may_be_made_ahead),
        cmocka_unit_test(a_reply_begins_only_after_a_request_and_once),
        cmocka_unit_test(configurations_go_there_and_back_and_others_are_skipped),
        cmocka_unit_test(configurations_that_are_none_are_refused),
        cmocka_unit_test(a_reply_leaves_in_chunks_of_one_size),
        cmocka_unit_test(a_reply_refuses_sizes_that_no_chunk_has),
        cmocka_unit_test(requests_of_one_bucket_have_one_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

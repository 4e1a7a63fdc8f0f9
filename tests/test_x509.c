/* Certificate chains, revocation and raw signatures, on certificates made here. */
#include "expect.h"

#include "mint.h"

static struct mint root, middle, leaf;

static int setup(void **state)
{
    (void)state;
    root = mint_new((struct mint_spec){.name = "Root"});
    middle = mint_new((struct mint_spec){.name = "Middle", .issuer = &root, .serial = 7});
    leaf = mint_new((struct mint_spec){.name = "Leaf", .issuer = &middle, .not_ca = true, .serial = 9});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mint_free(&root);
    mint_free(&middle);
    mint_free(&leaf);
    return 0;
}

/* Verifies leaf_cert with the certificates of chain and crls, under one root. */
static int verify(X509 *leaf_cert, X509 *issuer, X509 *trusted, const struct st_crls *crls, bool need, bool unlisted,
                  int64_t time, struct st_err *e)
{
    struct st_certs chain = {.p = {issuer}, .n = issuer != NULL}, roots = {.p = {trusted}, .n = 1};
    const struct st_x509_verify v = {.leaf = leaf_cert,
                                     .chain = &chain,
                                     .roots = &roots,
                                     .crls = crls,
                                     .need_crl = need,
                                     .leaf_unlisted = unlisted,
                                     .time = time};
    return st_x509_verify(&v, e);
}

static void a_chain_to_the_pinned_root_verifies(void **state)
{
    (void)state;
    struct st_err e;
    assert_ok(verify(leaf.cert, middle.cert, root.cert, NULL, false, false, MINT_NOW, &e), &e);
    expect_refusal(verify(leaf.cert, NULL, root.cert, NULL, false, false, MINT_NOW, &e), &e, ST_VERIFY, "issuer");
}

static void certificates_count_only_in_their_time(void **state)
{
    (void)state;
    struct st_err e;
    expect_refusal(verify(leaf.cert, middle.cert, root.cert, NULL, false, false, MINT_NOW + 2 * MINT_YEAR, &e), &e,
                   ST_VERIFY, "expired");
    expect_refusal(verify(leaf.cert, middle.cert, root.cert, NULL, false, false, MINT_NOW - 2 * MINT_YEAR, &e), &e,
                   ST_VERIFY, "not yet valid");
}

static void a_root_of_the_same_name_is_not_the_root(void **state)
{
    (void)state;
    struct st_err e;
    struct mint other = mint_new((struct mint_spec){.name = "Root"});
    expect_refusal(verify(leaf.cert, middle.cert, other.cert, NULL, false, false, MINT_NOW, &e), &e, ST_VERIFY,
                   "certificate");
    /* Nor does it help to bring the true root along as an untrusted certificate. */
    struct st_certs chain = {.p = {middle.cert, root.cert}, .n = 2}, roots = {.p = {other.cert}, .n = 1};
    const struct st_x509_verify v = {.leaf = leaf.cert, .chain = &chain, .roots = &roots, .time = MINT_NOW};
    assert_int_equal(st_x509_verify(&v, &e), ST_VERIFY);
    mint_free(&other);
}

static void an_issuer_must_be_a_ca(void **state)
{
    (void)state;
    struct st_err e;
    struct mint plain = mint_new((struct mint_spec){.name = "Plain", .issuer = &root, .not_ca = true});
    struct mint below = mint_new((struct mint_spec){.name = "Below", .issuer = &plain, .not_ca = true});
    expect_refusal(verify(below.cert, plain.cert, root.cert, NULL, false, false, MINT_NOW, &e), &e, ST_VERIFY, "CA");
    mint_free(&below);
    mint_free(&plain);
}

static void weak_digests_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct mint weak = mint_new((struct mint_spec){.name = "Weak", .issuer = &root, .not_ca = true, .sha1 = true});
    expect_refusal(verify(weak.cert, NULL, root.cert, NULL, false, false, MINT_NOW, &e), &e, ST_VERIFY, "weak");
    mint_free(&weak);
}

static void revoked_certificates_are_refused_at_every_depth(void **state)
{
    (void)state;
    struct st_err e;
    struct st_crls crls = {.n = 2};
    int64_t from = MINT_NOW - 1000, to = MINT_NOW + 1000;
    crls.p[0] = mint_crl(&root, 0, from, to);
    crls.p[1] = mint_crl(&middle, 0, from, to);
    assert_ok(verify(leaf.cert, middle.cert, root.cert, &crls, true, false, MINT_NOW, &e), &e);
    X509_CRL_free(crls.p[1]);
    crls.p[1] = mint_crl(&middle, 9, from, to);
    expect_refusal(verify(leaf.cert, middle.cert, root.cert, &crls, true, false, MINT_NOW, &e), &e, ST_VERIFY,
                   "revoked");
    expect_refusal(verify(leaf.cert, middle.cert, root.cert, &crls, false, false, MINT_NOW, &e), &e, ST_VERIFY,
                   "revoked");
    X509_CRL_free(crls.p[0]);
    crls.p[0] = mint_crl(&root, 7, from, to);
    expect_refusal(verify(leaf.cert, middle.cert, root.cert, &crls, true, true, MINT_NOW, &e), &e, ST_VERIFY,
                   "revoked");
    st_crls_free(&crls);
}

static void lists_must_be_there_and_valid(void **state)
{
    (void)state;
    struct st_err e;
    struct st_crls crls = {.n = 1};
    crls.p[0] = mint_crl(&root, 0, MINT_NOW - 1000, MINT_NOW + 1000);
    expect_refusal(verify(leaf.cert, middle.cert, root.cert, &crls, true, false, MINT_NOW, &e), &e, ST_VERIFY, "CRL");
    assert_ok(verify(leaf.cert, middle.cert, root.cert, &crls, true, true, MINT_NOW, &e), &e);
    assert_ok(verify(leaf.cert, middle.cert, root.cert, &crls, false, false, MINT_NOW, &e), &e);
    expect_refusal(verify(leaf.cert, middle.cert, root.cert, NULL, true, true, MINT_NOW, &e), &e, ST_VERIFY, "CRL");
    expect_refusal(verify(leaf.cert, middle.cert, root.cert, &crls, false, false, MINT_NOW + 2000, &e), &e, ST_VERIFY,
                   "CRL has expired");
    X509_CRL_free(crls.p[0]);
    /* Under the right name, but signed by another. */
    struct mint other = mint_new((struct mint_spec){.name = "Root"});
    crls.p[0] = mint_crl(&other, 0, MINT_NOW - 1000, MINT_NOW + 1000);
    expect_refusal(verify(leaf.cert, middle.cert, root.cert, &crls, true, true, MINT_NOW, &e), &e, ST_VERIFY,
                   "CRL signature");
    st_crls_free(&crls);
    mint_free(&other);
}

/* ---- sets ---- */

static size_t der_of(X509 *x, uint8_t *out)
{
    uint8_t *p = out;
    int n = i2d_X509(x, &p);
    assert_true(n > 0);
    return (size_t)n;
}

static void sets_read_der_and_pem(void **state)
{
    (void)state;
    struct st_err e;
    struct st_certs c = {0};
    uint8_t bytes[8192] = {0};
    size_t one = der_of(middle.cert, bytes), two = one + der_of(leaf.cert, bytes + one);
    assert_ok(st_certs_add(&c, bytes, two, "der", &e), &e);
    assert_int_equal(c.n, 2);
    assert_ptr_equal(st_certs_leaf(&c), c.p[1]);
    st_certs_free(&c);
    assert_ok(st_certs_add(&c, bytes, two + 100, "padded", &e), &e);
    assert_int_equal(c.n, 2);
    st_certs_free(&c);
    bytes[two + 50] = 1;
    expect_refusal(st_certs_add(&c, bytes, two + 100, "tail", &e), &e, ST_INPUT, "tail: certificate 3");
    st_certs_free(&c);

    BIO *bio = BIO_new(BIO_s_mem());
    BIO_puts(bio, "some words\n");
    PEM_write_bio_X509(bio, leaf.cert);
    X509_CRL *crl = mint_crl(&root, 0, MINT_NOW, MINT_NOW + 9);
    PEM_write_bio_X509_CRL(bio, crl);
    PEM_write_bio_X509(bio, middle.cert);
    char *pem;
    size_t len = (size_t)BIO_get_mem_data(bio, &pem);
    struct st_crls l = {0};
    assert_ok(st_certs_add(&c, pem, len, "pem", &e), &e);
    assert_ok(st_crls_add(&l, pem, len, "pem", &e), &e);
    assert_int_equal(c.n, 2);
    assert_int_equal(l.n, 1);
    assert_ptr_equal(st_certs_leaf(&c), c.p[0]);
    st_certs_free(&c);
    st_crls_free(&l);
    X509_CRL_free(crl);
    BIO_free(bio);
}

static void sets_refuse_what_is_damaged(void **state)
{
    (void)state;
    struct st_err e;
    struct st_certs c = {0};
    uint8_t bytes[4096];
    size_t len = der_of(leaf.cert, bytes);
    for (size_t n = 0; n < len; n++) {
        assert_int_equal(st_certs_add(&c, bytes, n, "cut", &e), ST_INPUT);
        assert_int_equal(c.n, 0);
    }
    expect_refusal(st_certs_add(&c, "-----BEGIN RUBBISH-----\nAAAA\n-----END RUBBISH-----\n", 52, "none", &e), &e,
                   ST_INPUT, "holds no certificate");
    for (int i = 0; i < ST_X509_MAX; i++)
        assert_ok(st_certs_add(&c, bytes, len, "many", &e), &e);
    expect_refusal(st_certs_add(&c, bytes, len, "many", &e), &e, ST_INPUT, "more than 32");
    st_certs_free(&c);
}

static void raw_signatures_verify_for_their_curve_only(void **state)
{
    (void)state;
    struct st_err e;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t der[128], raw[96];
    size_t len = sizeof der;
    assert_int_equal(EVP_DigestSignInit(ctx, NULL, EVP_sha384(), NULL, leaf.key), 1);
    assert_int_equal(EVP_DigestSign(ctx, der, &len, (const uint8_t *)"message", 7), 1);
    const uint8_t *at = der;
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &at, (long)len);
    BN_bn2binpad(ECDSA_SIG_get0_r(sig), raw, 48);
    BN_bn2binpad(ECDSA_SIG_get0_s(sig), raw + 48, 48);
    assert_ok(st_ecdsa_verify(leaf.key, "message", 7, raw, raw + 48, 48, &e), &e);
    expect_refusal(st_ecdsa_verify(leaf.key, "messagE", 7, raw, raw + 48, 48, &e), &e, ST_VERIFY, "signature");
    expect_refusal(st_ecdsa_verify(leaf.key, "message", 7, raw, raw + 32, 32, &e), &e, ST_VERIFY, "P-256");
    assert_ok(st_signature_verify(leaf.key, "SHA384", false, "message", 7, (struct st_span){der, len}, &e), &e);
    expect_refusal(st_signature_verify(leaf.key, "SHA1", false, "message", 7, (struct st_span){der, len}, &e), &e,
                   ST_VERIFY, "SHA1");
    memset(raw, 0, sizeof raw);
    expect_refusal(st_ecdsa_verify(leaf.key, "message", 7, raw, raw + 48, 48, &e), &e, ST_VERIFY, "signature");
    ECDSA_SIG_free(sig);
    EVP_MD_CTX_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chain_to_the_pinned_root_verifies),
        cmocka_unit_test(certificates_count_only_in_their_time),
        cmocka_unit_test(a_root_of_the_same_name_is_not_the_root),
        cmocka_unit_test(an_issuer_must_be_a_ca),
        cmocka_unit_test(weak_digests_are_refused),
        cmocka_unit_test(revoked_certificates_are_refused_at_every_depth),
        cmocka_unit_test(lists_must_be_there_and_valid),
        cmocka_unit_test(sets_read_der_and_pem),
        cmocka_unit_test(sets_refuse_what_is_damaged),
        cmocka_unit_test(raw_signatures_verify_for_their_curve_only),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* One end of HPKE and of Oblivious HTTP on standard input and output, for the interop tests: a line of hexadecimal
 * digits is one message. Not installed.
 *
 *   peer_channel hpke-send KEM AEAD            reads a public key; writes the encapsulated key, three messages, an
 * export peer_channel hpke-receive KEM AEAD         writes its public key; reads the above; writes the texts and the
 * export peer_channel client FORM                   reads key configurations; writes a request; reads a reply; writes
 * its status and content peer_channel gateway FORM KEM AEAD         writes key configurations; reads a request; writes
 * its path, a field and its content; writes a reply FORM is whole or chunked, KEM and AEAD are the numbers of RFC 9180.
 * Any refusal ends it with the error and its code. */
#include "channel/bhttp.h"
#include "channel/ohttp.h"
#include "crypto/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX (1 << 20)
#define INFO "interop"
#define EXPORT "context"

static struct st_err e;

static void check(int rc)
{
    if (rc) {
        fprintf(stderr, "peer_channel: %s\n", e.msg);
        exit(rc);
    }
}

static void put(const void *p, size_t len)
{
    char *hex = malloc(2 * len + 1);
    if (!hex)
        abort();
    st_hex(p, len, hex);
    puts(hex);
    fflush(stdout);
    free(hex);
}

static struct st_buf get(void)
{
    struct st_buf b = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, stdin);
    if (n < 1 || line[n - 1] != '\n')
        check(st_fail(&e, ST_INPUT, "want a line of hexadecimal digits"));
    void *p = st_buf_room(&b, (size_t)n / 2);
    check(st_unhex(line, (size_t)n - 1, p, (size_t)n / 2, "line", &e));
    free(line);
    return b;
}

static struct st_span span(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p, b->len};
}

static void hpke_send(struct st_hpke_suite s)
{
    static const char *const texts[] = {"first", "", "third"};
    struct st_buf pk = get();
    struct st_hpke h;
    uint8_t enc[ST_HPKE_PUBLIC_MAX], sealed[64];
    check(st_hpke_send(&h, s, (uint8_t *)pk.p, pk.len, INFO, strlen(INFO), enc, &e));
    put(enc, st_hpke_public_len(s.kem));
    for (int i = 0; i < 3; i++) {
        check(st_sequence_seal(&h.sequence, "ad", 2, texts[i], strlen(texts[i]), sealed, &e));
        put(sealed, strlen(texts[i]) + ST_SEQUENCE_TAG);
    }
    check(st_hpke_export(&h, EXPORT, strlen(EXPORT), sealed, 48, &e));
    put(sealed, 48);
    st_hpke_wipe(&h);
    st_buf_free(&pk);
}

static void hpke_receive(struct st_hpke_suite s)
{
    struct st_hpke_key *k;
    struct st_hpke h;
    uint8_t secret[48];
    check(st_hpke_key_new(s.kem, &k, &e));
    put(st_hpke_key_public(k), st_hpke_public_len(s.kem));
    struct st_buf enc = get();
    check(st_hpke_receive(&h, s, k, (uint8_t *)enc.p, enc.len, INFO, strlen(INFO), &e));
    for (int i = 0; i < 3; i++) {
        struct st_buf b = get();
        check(st_sequence_open(&h.sequence, "ad", 2, (uint8_t *)b.p, b.len, (uint8_t *)b.p, &e));
        put(b.p, b.len - ST_SEQUENCE_TAG);
        st_buf_free(&b);
    }
    check(st_hpke_export(&h, EXPORT, strlen(EXPORT), secret, sizeof secret, &e));
    put(secret, sizeof secret);
    st_hpke_wipe(&h);
    st_hpke_key_free(k);
    st_buf_free(&enc);
}

/* Opens a whole message and reads it as binary HTTP; content is appended. */
static void open_message(struct st_ohttp *x, enum st_bhttp_kind kind, struct st_bhttp_reader *r, struct st_buf *content)
{
    const struct st_bhttp_limits limits = {.head = 4096, .n_fields = 32, .content = MAX, .padding = MAX};
    struct st_buf sealed = get(), plain = {0};
    struct st_span in = span(&sealed), text, piece;
    while (in.len) {
        check(st_ohttp_open(x, &in, &text, &e));
        st_buf_add(&plain, text.p, text.len);
    }
    check(st_ohttp_open_end(x, &text, &e));
    st_buf_add(&plain, text.p, text.len);
    check(st_bhttp_reader_init(r, kind, &limits, &e));
    for (in = span(&plain); in.len;) {
        check(st_bhttp_read(r, &in, &piece, &e));
        st_buf_add(content, piece.p, piece.len);
    }
    check(st_bhttp_read_end(r, &e));
    st_buf_free(&sealed);
    st_buf_free(&plain);
}

#define SPAN(s)                                                                                                        \
    {                                                                                                                  \
        (const uint8_t *)(s), sizeof(s) - 1                                                                            \
    }

static const struct st_bhttp_field fields[] = {{SPAN("x-interop"), SPAN("sotto")}};

/* 20,000 bytes, so that the chunked form has several chunks. */
static struct st_span long_content(void)
{
    static uint8_t p[20000];
    for (size_t i = 0; i < sizeof p; i++)
        p[i] = (uint8_t)(i % 251);
    return (struct st_span){p, sizeof p};
}

static void client(enum st_ohttp_form form)
{
    struct st_buf keys = get(), message = {0}, sealed = {0}, content = {0};
    struct st_ohttp_config c[ST_OHTTP_CONFIGS_MAX];
    struct st_ohttp x;
    struct st_bhttp_reader r;
    struct st_bhttp_head h = {.method = SPAN("POST"),
                              .scheme = SPAN("https"),
                              .authority = SPAN("example.com"),
                              .path = SPAN("/v1/chat"),
                              .fields = {fields, 1}};
    size_t n;
    check(st_ohttp_config_parse_list(span(&keys), c, &n, &e));
    check(st_bhttp_write(&message, ST_BHTTP_REQUEST, &h, long_content(), (struct st_bhttp_fields){0}, &e));
    st_bhttp_pad(&message, 0, st_bhttp_bucket(message.len));
    check(st_ohttp_client(&x, form, &c[0], MAX, &sealed, &e));
    check(st_ohttp_seal_all(&x, message.p, message.len, &sealed, &e));
    put(sealed.p, sealed.len);
    open_message(&x, ST_BHTTP_RESPONSE, &r, &content);
    printf("%u\n", st_bhttp_head(&r)->status);
    put(content.p, content.len);
    st_bhttp_reader_wipe(&r);
    st_ohttp_wipe(&x);
    st_buf_free(&keys);
    st_buf_free(&message);
    st_buf_free(&sealed);
    st_buf_free(&content);
}

static void gateway(enum st_ohttp_form form, struct st_hpke_suite s)
{
    const struct st_keyring_opts o = {.kem = s.kem, .aeads = {s.aead}, .n_aeads = 1, .max_requests = 10};
    const struct st_bhttp_head reply = {.status = 201, .fields = {fields, 1}};
    struct st_keyring *ring;
    struct st_ohttp x;
    struct st_bhttp_reader r;
    struct st_buf b = {0}, content = {0}, message = {0};
    struct st_span value = {0};
    check(st_keyring_new(&o, &ring, &e));
    st_ohttp_config_add_list(&b, st_keyring_current(ring), 1);
    put(b.p, b.len);
    st_ohttp_server(&x, form, ring, MAX);
    open_message(&x, ST_BHTTP_REQUEST, &r, &content);
    put(st_bhttp_head(&r)->path.p, st_bhttp_head(&r)->path.len);
    if (!st_bhttp_find(st_bhttp_head(&r)->fields, "x-interop", &value))
        check(st_fail(&e, ST_INPUT, "want one x-interop"));
    put(value.p, value.len);
    put(content.p, content.len);
    check(st_bhttp_write(&message, ST_BHTTP_RESPONSE, &reply, long_content(), (struct st_bhttp_fields){0}, &e));
    st_buf_clear(&b);
    check(st_ohttp_reply(&x, &b, &e));
    check(st_ohttp_seal_all(&x, message.p, message.len, &b, &e));
    put(b.p, b.len);
    st_bhttp_reader_wipe(&r);
    st_ohttp_wipe(&x);
    st_keyring_free(ring);
    st_buf_free(&b);
    st_buf_free(&content);
    st_buf_free(&message);
}

static uint16_t number(const char *s)
{
    return (uint16_t)strtoul(s, NULL, 10);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    enum st_ohttp_form form = argc > 2 && strcmp(argv[2], "chunked") == 0 ? ST_OHTTP_CHUNKED : ST_OHTTP_WHOLE;
    struct st_hpke_suite s = {.kdf = ST_HPKE_KDF_SHA256};
    if (argc > 3) {
        s.kem = number(argv[argc - 2]);
        s.aead = number(argv[argc - 1]);
    }
    if (argc == 4 && strcmp(what, "hpke-send") == 0)
        hpke_send(s);
    else if (argc == 4 && strcmp(what, "hpke-receive") == 0)
        hpke_receive(s);
    else if (argc == 3 && strcmp(what, "client") == 0)
        client(form);
    else if (argc == 5 && strcmp(what, "gateway") == 0)
        gateway(form, s);
    else
        check(st_fail(&e, ST_USAGE, "the head of its source says how to call it"));
    return 0;
}

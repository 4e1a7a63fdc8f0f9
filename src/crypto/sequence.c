#include "crypto/sequence.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

static struct aead {
    unsigned id;
    size_t key_len;
    const char *name;
    EVP_CIPHER *cipher; /* looked up by name once, which costs more than sealing little */
} aeads[] = {
    {ST_AEAD_AES_128_GCM, 16, "AES-128-GCM", NULL},
    {ST_AEAD_AES_256_GCM, 32, "AES-256-GCM", NULL},
    {ST_AEAD_CHACHA20_POLY1305, 32, "ChaCha20-Poly1305", NULL},
};

static void look_up(void)
{
    for (size_t i = 0; i < sizeof aeads / sizeof *aeads; i++)
        aeads[i].cipher = EVP_CIPHER_fetch(NULL, aeads[i].name, NULL);
}

static const struct aead *find(unsigned id)
{
    for (size_t i = 0; i < sizeof aeads / sizeof *aeads; i++)
        if (aeads[i].id == id)
            return &aeads[i];
    return NULL;
}

size_t st_aead_key_len(unsigned aead)
{
    const struct aead *a = find(aead);
    return a ? a->key_len : 0;
}

int st_sequence_init(struct st_sequence *s, unsigned aead, const uint8_t *key, const uint8_t nonce[ST_SEQUENCE_NONCE],
                     bool seals, struct st_err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const struct aead *a = find(aead);
    *s = (struct st_sequence){.seals = seals};
    if (!a)
        return st_fail(e, ST_UNSUPPORTED, "aead 0x%04x: want AES-128-GCM, AES-256-GCM or ChaCha20-Poly1305", aead);
    pthread_once(&once, look_up);
    memcpy(s->nonce, nonce, sizeof s->nonce);
    s->cipher = a->cipher ? EVP_CIPHER_CTX_new() : NULL;
    if (s->cipher && EVP_CipherInit_ex2(s->cipher, a->cipher, key, NULL, seals, NULL) == 1)
        return 0;
    st_sequence_wipe(s);
    return st_fail(e, ST_INTERNAL, "aead 0x%04x: OpenSSL cannot start it", aead);
}

void st_sequence_wipe(struct st_sequence *s)
{
    EVP_CIPHER_CTX_free(s->cipher);
    OPENSSL_cleanse(s, sizeof *s);
}

/* Nonce of the next message, and the associated data. */
static bool begin(struct st_sequence *s, const void *ad, size_t ad_len)
{
    uint8_t nonce[ST_SEQUENCE_NONCE];
    int n;
    memcpy(nonce, s->nonce, sizeof nonce);
    for (int i = 0; i < 8; i++)
        nonce[ST_SEQUENCE_NONCE - 1 - i] ^= (uint8_t)(s->next >> (8 * i));
    return EVP_CipherInit_ex(s->cipher, NULL, NULL, NULL, nonce, -1) == 1 &&
           (!ad_len || EVP_CipherUpdate(s->cipher, NULL, &n, ad, (int)ad_len) == 1);
}

int st_sequence_seal(struct st_sequence *s, const void *ad, size_t ad_len, const void *text, size_t len, uint8_t *out,
                     struct st_err *e)
{
    int n;
    if (s->next >= ST_SEQUENCE_LIMIT)
        return st_fail(e, ST_POLICY, "aead: %llu messages were sealed, which is the limit of one key",
                       (unsigned long long)s->next);
    if (!s->seals || len > INT_MAX || ad_len > INT_MAX || !begin(s, ad, ad_len) ||
        (len && EVP_CipherUpdate(s->cipher, out, &n, text, (int)len) != 1) ||
        EVP_CipherFinal_ex(s->cipher, out + len, &n) != 1 ||
        EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_AEAD_GET_TAG, ST_SEQUENCE_TAG, out + len) != 1)
        return st_fail(e, ST_INTERNAL, "aead: OpenSSL cannot seal %zu bytes", len);
    s->next++;
    return 0;
}

int st_sequence_open(struct st_sequence *s, const void *ad, size_t ad_len, const uint8_t *sealed, size_t len,
                     uint8_t *out, struct st_err *e)
{
    uint8_t tag[ST_SEQUENCE_TAG], none[1];
    int n;
    if (s->next >= ST_SEQUENCE_LIMIT || s->seals || len < ST_SEQUENCE_TAG || len - ST_SEQUENCE_TAG > INT_MAX ||
        ad_len > INT_MAX)
        return st_fail(e, ST_VERIFY, "wrong key, or changed");
    size_t text = len - ST_SEQUENCE_TAG;
    memcpy(tag, sealed + text, sizeof tag);
    if (begin(s, ad, ad_len) && (!text || EVP_CipherUpdate(s->cipher, out, &n, sealed, (int)text) == 1) &&
        EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_AEAD_SET_TAG, ST_SEQUENCE_TAG, tag) == 1 &&
        EVP_CipherFinal_ex(s->cipher, none, &n) == 1) {
        s->next++;
        return 0;
    }
    OPENSSL_cleanse(out, text);
    return st_fail(e, ST_VERIFY, "wrong key, or changed");
}

#include "crypto/hpke_file.h"
#include "base/file.h"

#include <errno.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE 4096

/* Appends what a BIO in memory holds, and frees it. */
static void take(BIO *bio, bool good, struct st_buf *out)
{
    char *p = NULL;
    long n = good ? BIO_get_mem_data(bio, &p) : 0;
    if (n > 0)
        st_buf_add(out, p, (size_t)n);
    BIO_free(bio);
}

static int write_key(EVP_PKEY *key, const char *path, struct st_err *e)
{
    char public[ST_PATH_MAX];
    struct st_buf secret = {0}, open = {0};
    BIO *a = BIO_new(BIO_s_secmem()), *b = BIO_new(BIO_s_mem());
    int rc = 0;
    take(a, a && PEM_write_bio_PKCS8PrivateKey(a, key, NULL, NULL, 0, NULL, NULL) == 1, &secret);
    take(b, b && PEM_write_bio_PUBKEY(b, key) == 1, &open);
    if (!secret.len || !open.len)
        rc = st_fail(e, ST_MEMORY, "%s: no memory for a key", path);
    else if ((size_t)snprintf(public, sizeof public, "%s.pub", path) >= sizeof public)
        rc = st_fail(e, ST_USAGE, "%.100s...: the path is too long", path);
    else if (!(rc = st_file_write(path, secret.p, secret.len, 0600, false, e)) &&
             (rc = st_file_write(public, open.p, open.len, 0644, false, e)))
        unlink(path); /* one without the other is of no use */
    st_buf_wipe(&secret);
    st_buf_free(&open);
    return rc;
}

int st_hpke_file_create(const char *path, uint8_t public[ST_HPKE_X25519_LEN], struct st_err *e)
{
    size_t len = ST_HPKE_X25519_LEN;
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
    int rc = key && EVP_PKEY_get_raw_public_key(key, public, &len) == 1
                 ? write_key(key, path, e)
                 : st_fail(e, ST_INTERNAL, "OpenSSL cannot make an X25519 key");
    EVP_PKEY_free(key);
    return rc;
}

/* A key under a passphrase is refused instead of asking on the terminal. */
static int no_passphrase(char *out, int cap, int writes, void *arg)
{
    (void)out;
    (void)cap;
    (void)writes;
    (void)arg;
    return -1;
}

int st_hpke_file_private(const char *path, struct st_hpke_key **out, struct st_err *e)
{
    struct stat sb;
    struct st_buf text = {0};
    uint8_t raw[ST_HPKE_X25519_LEN];
    size_t len = sizeof raw;
    *out = NULL;
    if (stat(path, &sb) != 0)
        return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    if (sb.st_mode & 077)
        return st_fail(e, ST_POLICY, "%s: readable by others; want mode 0600", path);
    int rc = st_file_read(path, MAX_FILE, &text, e);
    if (rc)
        return rc;
    BIO *bio = BIO_new_mem_buf(text.p ? text.p : "", (int)text.len);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    if (!key || !EVP_PKEY_is_a(key, "X25519") || EVP_PKEY_get_raw_private_key(key, raw, &len) != 1)
        rc = st_fail(e, ST_INPUT, "%s: want an X25519 private key (PEM), as `sotto seal key --hpke` makes one", path);
    else
        rc = st_hpke_key_import(ST_HPKE_KEM_X25519, raw, len, out, e);
    explicit_bzero(raw, sizeof raw);
    EVP_PKEY_free(key);
    BIO_free(bio);
    st_buf_wipe(&text);
    return rc;
}

int st_hpke_file_public(const char *path, uint8_t out[ST_HPKE_X25519_LEN], struct st_err *e)
{
    struct st_buf text = {0};
    size_t len = ST_HPKE_X25519_LEN;
    int rc = st_file_read(path, MAX_FILE, &text, e);
    if (rc)
        return rc;
    BIO *bio = BIO_new_mem_buf(text.p ? text.p : "", (int)text.len);
    EVP_PKEY *key = bio ? PEM_read_bio_PUBKEY(bio, NULL, no_passphrase, NULL) : NULL;
    if (text.p && strstr(text.p, "PRIVATE KEY"))
        rc = st_fail(e, ST_INPUT, "%s: is a private key; want the public one (%s.pub)", path, path);
    else if (!key || !EVP_PKEY_is_a(key, "X25519") || EVP_PKEY_get_raw_public_key(key, out, &len) != 1)
        rc = st_fail(e, ST_INPUT, "%s: want an X25519 public key (PEM), as `sotto seal key --hpke` makes one", path);
    EVP_PKEY_free(key);
    BIO_free(bio);
    st_buf_wipe(&text);
    return rc;
}

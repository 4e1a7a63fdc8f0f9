/* A sealed container (docs/sealed.md has the format): one file that is a MODEL, or an adapter. This is the part that
 * needs no key: header and recipients as the publisher signed them, entries, what lies outside. What lies inside is
 * ciphertext here; protect/sealed/vault.h opens it. So a worker can serve the matrices that were left outside from the
 * same file.
 *
 * Hostile input: nothing of the header is used before its signature is verified, and every length is checked first; how
 * long it takes is bounded by the segments that the file really has, since anybody can sign a header by a new key. A
 * signature by an unknown key proves nothing: a caller pins the publisher, or says that it did not.
 * The file stays open and mapped; a file that another process shortens meanwhile kills this one (SIGBUS). Functions may
 * be called from any thread once it is open. */
#ifndef ST_MODEL_CONTAINER_H
#define ST_MODEL_CONTAINER_H

#include "base/buf.h"
#include "model/checkpoint.h"

#define ST_CONTAINER_VERSION 1
#define ST_CONTAINER_SEGMENT ((uint32_t)1 << 20) /* bytes of a segment at most, before it is sealed */
#define ST_CONTAINER_SEAL_BYTES 28               /* that a sealed segment is longer: nonce and tag */
#define ST_CONTAINER_HEADER_MAX (32u << 20)
#define ST_CONTAINER_HEADER_BASE 4096  /* of it without its entries */
#define ST_CONTAINER_HEADER_ENTRY 1024 /* of an entry, which has a segment at the least */
#define ST_CONTAINER_RECIPIENTS_MAX (1u << 20)
#define ST_CONTAINER_SEGMENTS_MAX (1u << 24)
#define ST_CONTAINER_NAME_MAX 200 /* bytes of an entry's name */

struct st_container;
struct st_source;

enum st_container_place { ST_CONTAINER_INSIDE, ST_CONTAINER_OUTSIDE };
enum st_container_kind { ST_CONTAINER_MODEL, ST_CONTAINER_ADAPTER };

struct st_container_entry {
    struct st_tensor tensor; /* name, dtype, stored, n_dim, dim, bytes; data NULL. Of a file: n_dim 0, stored "" */
    bool is_file;            /* of st_container_files[]; outside */
    enum st_container_place place;
    uint32_t segment_bytes; /* whole rows of a matrix */
    uint32_t first_segment, n_segment;
};

/* Files that a container may hold, NULL behind the last: st_model_texts (model/measure.h), and what a llama2.c model or
 * an adapter has. */
extern const char *const st_container_files[];
#define ST_CONTAINER_LLAMA2C "llama2c.header" /* the first 28 bytes of such a file; it has no config.json */

struct st_container_about {
    uint8_t id[16], publisher[32];
    uint8_t digest[32]; /* SHA-256(S) of docs/sealed.md: names what was sealed, whoever the recipients are */
    uint64_t version;
    int64_t created; /* Unix seconds */
    enum st_container_kind kind;
    const char *name, *policy; /* the model's; the policy's, or "custom" */
};

/* Whether a file begins like a container; or anything is named *.sealed: a directory in its place is no model. */
bool st_container_is(const char *path);
/* IO; INPUT: not a container; UNSUPPORTED: version; VERIFY: changed, cut, or not signed by the publisher it names. */
int st_container_open(const char *path, struct st_container **out, struct st_err *e) ST_MUST_CHECK;
/* The same of one publisher: VERIFY names another one, before anything of the header but its key is looked at. */
int st_container_open_by(const char *path, const uint8_t publisher[32], struct st_container **out,
                         struct st_err *e) ST_MUST_CHECK;
void st_container_close(struct st_container *c);
const char *st_container_path(const struct st_container *c);
/* Its last part, for messages that may reach who asks a server. */
const char *st_container_label(const struct st_container *c);
void st_container_about(const struct st_container *c, struct st_container_about *out); /* strings live as long as c */
size_t st_container_count(const struct st_container *c);
const struct st_container_entry *st_container_at(const struct st_container *c, size_t i); /* in the file's order */
const struct st_container_entry *st_container_find(const struct st_container *c, const char *name); /* NULL if absent */
/* The recipients' list as text, its signature verified; the header's mac [32], not verified. */
struct st_span st_container_recipients(const struct st_container *c);
const uint8_t *st_container_mac(const struct st_container *c);

/* Bytes of segment k of an entry before it is sealed. */
uint32_t st_container_segment_bytes(const struct st_container_entry *n, uint32_t k);
/* Segment k as it is stored, mapped: sealed (ST_CONTAINER_SEAL_BYTES longer) or plain, nothing checked. */
struct st_span st_container_segment(const struct st_container *c, const struct st_container_entry *n, uint32_t k);
/* Copies bytes at..at + len of an entry outside, each segment that it touches checked against its digest as it was
 * copied. VERIFY names the entry; POLICY: it lies inside. */
int st_container_read(const struct st_container *c, const struct st_container_entry *n, uint64_t at, size_t len,
                      void *dst, struct st_err *e) ST_MUST_CHECK;
/* A whole file entry. INPUT: none of that name, or longer than max. */
int st_container_file(const struct st_container *c, const char *name, size_t max, struct st_buf *out,
                      struct st_err *e) ST_MUST_CHECK;
/* Every segment against its digest, those inside too (needs no key). VERIFY names the entry and the segment. */
int st_container_check(const struct st_container *c, int n_threads, bool progress, struct st_err *e) ST_MUST_CHECK;
/* For st_model_opts.source on a side without the key: reads what lies outside; lives as long as c. */
const struct st_source *st_container_source(const struct st_container *c);

/* For writer and reader alike: the associated data of a sealed segment, and its length. A name is of at most
 * ST_CONTAINER_NAME_MAX bytes, as both sides check before. */
#define ST_CONTAINER_DTYPE_MAX 16
#define ST_CONTAINER_AD_MAX (256 + ST_CONTAINER_NAME_MAX + ST_CONTAINER_DTYPE_MAX)
size_t st_container_segment_ad(const struct st_container_about *a, const struct st_container_entry *n, uint32_t k,
                               uint8_t out[ST_CONTAINER_AD_MAX]);

#endif

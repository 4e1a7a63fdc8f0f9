/* Binary HTTP messages (RFC 9292): requests and responses as bytes, of known and of indeterminate length. Bytes in,
 * bytes out; no sockets.
 *
 * Reading is strict, and where the RFC leaves a choice it is narrow: field names are lowercase tokens (so neither
 * pseudo-fields nor capitals), values hold no NUL, CR, LF nor spaces at their ends, a request's target is an absolute
 * path or "*" below a lowercase scheme, padding is zeros. Integers longer than needed are valid, as the RFC says, and
 * so is a message that ends where only empty sections would follow (section 3.8). Informational responses are checked
 * and dropped. Limits: st_bhttp_limits, all checked before anything is stored; a reader allocates once, when it is
 * made. Errors are INPUT and name the part, never its bytes. */
#ifndef ST_CHANNEL_BHTTP_H
#define ST_CHANNEL_BHTTP_H

#include "base/buf.h"
#include "channel/varint.h"

enum st_bhttp_kind { ST_BHTTP_REQUEST = 0, ST_BHTTP_RESPONSE = 1 };

struct st_bhttp_field {
    struct st_span name, value;
};

struct st_bhttp_fields {
    const struct st_bhttp_field *p;
    size_t n;
};

struct st_bhttp_head {
    struct st_span method, scheme, authority, path; /* of a request; authority may be empty */
    unsigned status;                                /* of a response, 200..599 */
    struct st_bhttp_fields fields;
};

/* ---- writing: appended to out, whose `failed` the caller checks at the end ---- */

/* A whole message of known length. INPUT names a part that a strict reader would refuse. */
int st_bhttp_write(struct st_buf *out, enum st_bhttp_kind kind, const struct st_bhttp_head *head,
                   struct st_span content, struct st_bhttp_fields trailers, struct st_err *e) ST_MUST_CHECK;
/* A message of indeterminate length: begin, any number of pieces of content (an empty one adds nothing), end. */
int st_bhttp_begin(struct st_buf *out, enum st_bhttp_kind kind, const struct st_bhttp_head *head,
                   struct st_err *e) ST_MUST_CHECK;
void st_bhttp_add_content(struct st_buf *out, const void *p, size_t len);
int st_bhttp_end(struct st_buf *out, struct st_bhttp_fields trailers, struct st_err *e) ST_MUST_CHECK;

/* Content that stands for nothing, so that a piece of a stream gets the size it should have: exactly `total` bytes
 * (2 or more) of an indeterminate message, its content line feeds. Between server-sent events and around JSON values
 * those are ignored. */
void st_bhttp_add_filler(struct st_buf *out, size_t total);
/* Zeros after a message until it is `len` bytes long (from byte `start` of out); nothing when it is longer. */
void st_bhttp_pad(struct st_buf *out, size_t start, size_t len);
/* Lengths that messages are padded to: powers of two from 4 KiB to 1 MiB, then multiples of 1 MiB. At least len. */
size_t st_bhttp_bucket(size_t len);

/* ---- reading ---- */

struct st_bhttp_limits {
    size_t head;      /* bytes of control data, names and values of one message's head; the same again for trailers */
    size_t n_fields;  /* of a head, and of trailers */
    size_t n_interim; /* informational responses */
    uint64_t content; /* bytes */
    uint64_t padding; /* bytes */
};

struct st_bhttp_section {
    char *text; /* [limits.head]: control data, then name, value, name, value.. */
    size_t len;
    struct st_bhttp_field *field; /* [limits.n_fields]; pointers are set when the section is complete */
    size_t n;
};

struct st_bhttp_reader {
    enum st_bhttp_kind kind;
    struct st_bhttp_limits limits;
    int step;
    bool known; /* length */
    struct st_varint number;
    uint64_t left;         /* of the string or content piece being read */
    uint64_t section_left; /* of a field section of known length */
    uint64_t n_content, n_padding;
    size_t n_interim, n_control, control_len[4];
    struct st_bhttp_section header, trailer;
    struct st_bhttp_head head;
    bool has_head, interim, in_trailer;
    void *memory;
};

/* Allocates 2 * (limits.head + limits.n_fields * sizeof(struct st_bhttp_field)) bytes. A zeroed reader may be wiped. */
int st_bhttp_reader_init(struct st_bhttp_reader *r, enum st_bhttp_kind kind, const struct st_bhttp_limits *limits,
                         struct st_err *e) ST_MUST_CHECK;
/* Overwrites what it holds. */
void st_bhttp_reader_wipe(struct st_bhttp_reader *r);

/* Consumes the beginning of *in: up to and including the next piece of content, which *content then borrows from it,
 * or all of it (*content is then empty). Call until in->len is 0. After an error the reader is of no use. */
int st_bhttp_read(struct st_bhttp_reader *r, struct st_span *in, struct st_span *content,
                  struct st_err *e) ST_MUST_CHECK;
/* No more bytes come: INPUT unless the message may end here. */
int st_bhttp_read_end(struct st_bhttp_reader *r, struct st_err *e) ST_MUST_CHECK;

/* NULL until the head is complete; borrowed from r until it is wiped. */
const struct st_bhttp_head *st_bhttp_head(const struct st_bhttp_reader *r);
/* Empty until st_bhttp_read_end() succeeded; borrowed as above. */
struct st_bhttp_fields st_bhttp_trailers(const struct st_bhttp_reader *r);

/* The value of the one field of that (lowercase) name: false when there is none, or more than one. */
bool st_bhttp_find(struct st_bhttp_fields f, const char *name, struct st_span *value);

#endif

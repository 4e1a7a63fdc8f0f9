/* The whole wire format between a trusted side and a worker: frames over a byte stream (TCP, TLS, Unix socket) or
 * through shared memory. Little-endian. Both ends are hostile to each other: every length is checked here before
 * anything is allocated or read. No socket in this file: bytes to structs and back.
 *
 * A text is u32 length and bytes of printable ASCII.
 *
 * - frame: magic "STWORKER", u32 version, u32 type, u64 id, u64 length of the payload
 * - HELLO, of the client: digest [32] of the model that it wants (zeros = any), u32 0
 * - WELCOME, of the worker: digest [32], u32 max rows per product, u32 flags (enum st_worker_flag), u64 max payload of
 *   a request, text parameter set of its hints ("" = none), u32 n >= 1, then n times {text name, u32 n_out, u32 n_in,
 *   u32 is expert}; a matrix's id is its place
 * - CHALLENGE, of either side: nonce [32] that the other side's evidence must hold. The worker's follows its WELCOME
 *   where that has PROVE; the client's may come once, where it has PROVES
 * - EVIDENCE, the answer: a bundle (JSON, attest/evidence.h) for that nonce and this connection (service/proof.h)
 * - ADMITTED, of the worker: nothing; the client's evidence was good. Before it, where WELCOME has PROVE, a client may
 *   send CHALLENGE and EVIDENCE alone
 * - MULTIPLY, of the client: u32 format (enum st_worker_format), u32 n_row, u32 n_weight, u32 weight ids, rows
 *   [n_row][n_in]; the matrices are different ones and have the same n_in. Format 2, for a preparer: rows stand over
 *   the outputs of all matrices, [n_row][sum of n_out]
 * - PRODUCT, of the worker: u32 format, u32 n_row, u32 n_weight, u32 microseconds of work, then per weight
 *   [n_row][n_out]. Format 2: [n_row][n_in] once, the sum over the matrices of W^T times the row's part
 * - HINT, of the client: u32 weight id, u32 first column, u32 number of columns; to a preparer at most 4096
 * - COLUMNS, of the worker: the same three, then per column f32 scale, f32 norm, u32 h[m]; of a preparer m = 0
 * - PAIR, of the client: u32 n_a, u32 n_b, u32 n_inner, residues a [n_a][n_inner], b [n_b][n_inner]: the product a b^T
 *   of two matrices of the client's. Its reply is a PRODUCT of n_a rows and one matrix, [n_a][n_b]
 * - FAILURE, of the worker: u32 code (base/err.h), text; id 0 when it is about the connection, which then ends
 *
 * Ids of a client's requests are its own choice, but not 0. Replies carry the id of their request and may come in any
 * order. */
#ifndef ST_NET_WORKER_FRAME_H
#define ST_NET_WORKER_FRAME_H

#include "base/buf.h"

#define ST_WORKER_PORT 7790
#define ST_WORKER_VERSION 1u
#define ST_WORKER_HEAD 32 /* bytes of a frame's head */
#define ST_WORKER_MAX_PAYLOAD (1u << 30)
#define ST_WORKER_MAX_EVIDENCE (1u << 20)
#define ST_WORKER_SCALES 4096u /* columns of one HINT to a preparer */
#define ST_WORKER_NONCE 32
#define ST_WORKER_MAX_NAME 160
#define ST_WORKER_MAX_WEIGHTS (1u << 20)
#define ST_WORKER_MAX_GROUP 16
/* Rows of each matrix of a PAIR, and values of a row: the product costs at most 2^32 multiplications. */
#define ST_WORKER_PAIR_ROWS 2048u
#define ST_WORKER_PAIR_INNER 1024u
#define ST_WORKER_PAIR_PAYLOAD (12 + 4 * (uint64_t)(2 * ST_WORKER_PAIR_ROWS) * ST_WORKER_PAIR_INNER)
/* Bytes of one column of hints with m coefficients. */
#define ST_WORKER_COLUMN(m) (8 + 4 * (uint64_t)(m))

enum st_worker_type {
    ST_WORKER_HELLO = 1,
    ST_WORKER_WELCOME,
    ST_WORKER_MULTIPLY,
    ST_WORKER_PRODUCT,
    ST_WORKER_HINT,
    ST_WORKER_COLUMNS,
    ST_WORKER_FAILURE,
    ST_WORKER_PAIR,
    ST_WORKER_CHALLENGE,
    ST_WORKER_EVIDENCE,
    ST_WORKER_ADMITTED,
    ST_WORKER_TYPES /* one more than the last */
};
/* Residues mod q; floats; residues over the outputs, which a preparer multiplies with the transposed weights. */
enum st_worker_format { ST_WORKER_FIELD, ST_WORKER_F32, ST_WORKER_OUTPUTS };
/* Of a WELCOME. PAIR: it takes such frames. PROVE: clients must prove what they run first. PROVES: it proves what it
 * runs. PREPARES: it takes format 2 and tells scales and norms. */
enum st_worker_flag {
    ST_WORKER_FLAG_PAIR = 1,
    ST_WORKER_FLAG_PROVE = 2,
    ST_WORKER_FLAG_PROVES = 4,
    ST_WORKER_FLAG_PREPARES = 8
};

struct st_worker_head {
    enum st_worker_type type;
    uint64_t id;
    uint64_t len; /* of the payload */
};
/* INPUT: not a frame, unknown type, longer than max; UNSUPPORTED: `worker protocol version 2; this side has 1`. */
int st_worker_head_parse(const uint8_t p[ST_WORKER_HEAD], uint64_t max, struct st_worker_head *out,
                         struct st_err *e) ST_MUST_CHECK;
void st_worker_head_write(uint8_t p[ST_WORKER_HEAD], const struct st_worker_head *h);

/* Payloads. Parsers check every length against the span and leave nothing behind it unread; pointers go into the span
 * (rows and values may be unaligned there: copy). INPUT names the field. */
struct st_worker_weight {
    char name[ST_WORKER_MAX_NAME];
    uint32_t n_out, n_in;
    bool expert;
};
struct st_worker_welcome {
    uint8_t digest[32];
    uint32_t max_row, flags;
    uint64_t max_payload;
    char params[64];
    uint32_t n;
    struct st_worker_weight *weights; /* owned: free */
};
struct st_worker_multiply {
    enum st_worker_format format;
    uint32_t n_row, n_weight;
    uint32_t weights[ST_WORKER_MAX_GROUP];
    struct st_span rows;
};
struct st_worker_pair {
    uint32_t n_a, n_b, n_inner;
    struct st_span rows; /* [n_a + n_b][n_inner] */
};
struct st_worker_product {
    enum st_worker_format format;
    uint32_t n_row, n_weight, work_us;
    struct st_span values;
};
struct st_worker_hint {
    uint32_t weight, first, n;
};
struct st_worker_failure {
    int code;
    char text[256]; /* what is no printable ASCII replaced */
};
int st_worker_hello_parse(struct st_span p, uint8_t digest[32], struct st_err *e) ST_MUST_CHECK;
int st_worker_welcome_parse(struct st_span p, struct st_worker_welcome *out, struct st_err *e) ST_MUST_CHECK;
int st_worker_multiply_parse(struct st_span p, struct st_worker_multiply *out, struct st_err *e) ST_MUST_CHECK;
/* The same for a receiver that has only the first bytes of a payload of len, and puts the rows elsewhere. *need >
 * p.len: come again with so many; else all but the rows is read, and rows.len says how many bytes of them follow. */
int st_worker_multiply_begin(struct st_span p, uint64_t len, struct st_worker_multiply *out, size_t *need,
                             struct st_err *e) ST_MUST_CHECK;
int st_worker_pair_parse(struct st_span p, struct st_worker_pair *out, struct st_err *e) ST_MUST_CHECK;
/* Of the first 12 bytes p of a payload of len; rows.len says how many bytes follow. */
int st_worker_pair_begin(struct st_span p, uint64_t len, struct st_worker_pair *out, struct st_err *e) ST_MUST_CHECK;
int st_worker_product_parse(struct st_span p, struct st_worker_product *out, struct st_err *e) ST_MUST_CHECK;
int st_worker_hint_parse(struct st_span p, struct st_worker_hint *out, struct st_err *e) ST_MUST_CHECK;
int st_worker_columns_parse(struct st_span p, uint32_t m, struct st_worker_hint *out, struct st_span *records,
                            struct st_err *e) ST_MUST_CHECK;
int st_worker_failure_parse(struct st_span p, struct st_worker_failure *out, struct st_err *e) ST_MUST_CHECK;
int st_worker_challenge_parse(struct st_span p, uint8_t nonce[ST_WORKER_NONCE], struct st_err *e) ST_MUST_CHECK;
/* Its length alone: what is in it is for attest/evidence.h. */
int st_worker_evidence_parse(struct st_span p, struct st_err *e) ST_MUST_CHECK;
int st_worker_admitted_parse(struct st_span p, struct st_err *e) ST_MUST_CHECK;

/* Whole frames appended to a buffer; the large ones give only what stands before their rows or values. */
void st_worker_hello_add(struct st_buf *b, const uint8_t digest[32]);
void st_worker_welcome_add(struct st_buf *b, const struct st_worker_welcome *w);
void st_worker_multiply_add(struct st_buf *b, uint64_t id, const struct st_worker_multiply *m, size_t rows_len);
void st_worker_pair_add(struct st_buf *b, uint64_t id, const struct st_worker_pair *m);
void st_worker_product_add(struct st_buf *b, uint64_t id, const struct st_worker_product *r, size_t values_len);
void st_worker_hint_add(struct st_buf *b, uint64_t id, const struct st_worker_hint *h);
void st_worker_columns_add(struct st_buf *b, uint64_t id, const struct st_worker_hint *h, size_t records_len);
void st_worker_failure_add(struct st_buf *b, uint64_t id, int code, const char *text);
void st_worker_challenge_add(struct st_buf *b, const uint8_t nonce[ST_WORKER_NONCE]);
void st_worker_evidence_add(struct st_buf *b, struct st_span bundle);
void st_worker_admitted_add(struct st_buf *b);

#endif

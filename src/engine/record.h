/* A recording of the boundary: every byte that leaves for the untrusted side and every byte that comes back, as it
 * stood in the rows and replies, in the order and at the time in which it passed. For the audit, and for whoever wants
 * to see what a worker sees. The recorder wraps a transport; what it cannot write down does not leave (IO), except
 * beyond the size limit: there a last entry says that the recording is full, and exchanges go on without it.
 *
 * File, little-endian: magic "STRECORD", u32 version 2, u32 0; then entries of a head of ST_RECORD_HEAD bytes {u32
 * kind, u32 format, u64 id of the exchange, i32 layer, i32 expert, u32 n_row, u32 n_in, u32 n_out, u32 0, u64 len,
 * u64 nanoseconds since the recording began, roles of the group "q,k,v" with zeros behind} and `len` bytes, padded with
 * zeros to 8. Times are of this side of the transport: a worker has them but for what the way takes. It is made anew
 * with mode 0600, never over another file. A crash leaves a whole number of entries and perhaps a part of one.
 *
 * Of a product of two matrices of this side's (st_exchange.pair) the roles are its name, n_row counts the rows of both,
 * and n_out those of the second, which stand behind: the reply is [n_row - n_out, n_out].
 *
 * Limits: what passes otherwise (the worker's greeting, hints) is not in it. Not thread-safe. */
#ifndef ST_ENGINE_RECORD_H
#define ST_ENGINE_RECORD_H

#include "base/buf.h"
#include "engine/boundary.h"

#define ST_RECORD_VERSION 2u
#define ST_RECORD_FILE_HEAD 16
#define ST_RECORD_HEAD 256
#define ST_RECORD_ROLES 200
#define ST_RECORD_MAX_LEN ((uint64_t)1 << 32) /* bytes of one entry */

struct st_recorder;

struct st_recorder_opts {
    const char *path;
    const struct st_transport *inner; /* borrowed until free */
    uint64_t max_bytes;               /* of the file; 0 = 1 GiB */
};
/* IO names the path: also when there is a file already. */
int st_recorder_new(const struct st_recorder_opts *o, struct st_recorder **out, struct st_err *e) ST_MUST_CHECK;
void st_recorder_free(struct st_recorder *r);
const struct st_transport *st_recorder_transport(const struct st_recorder *r);

struct st_recorder_stats {
    uint64_t n_entry, bytes;
    bool full; /* the size limit was reached */
};
void st_recorder_stats(const struct st_recorder *r, struct st_recorder_stats *out);

enum st_record_kind {
    ST_RECORD_OUT = 1, /* rows [n_row, n_in] on their way out */
    ST_RECORD_IN,      /* the reply, whatever its length: [n_row, n_out] of a worker that keeps to the protocol */
    ST_RECORD_FULL,    /* the last entry: what followed is not recorded */
    ST_RECORD_END,     /* not in the file: there is no further entry */
};

struct st_record_entry {
    enum st_record_kind kind;
    enum st_exposed_format format;
    uint64_t id;
    int layer, expert;           /* -1 outside layers, experts */
    uint32_t n_row, n_in, n_out; /* n_out: of all matrices of the group */
    uint64_t time_ns;            /* since the recording began; never falls from entry to entry */
    char roles[ST_RECORD_ROLES];
    struct st_span bytes; /* aligned to 8; valid until st_record_close */
    bool torn;            /* END only: the last entry is not whole */
};

/* It is one of two matrices of the recorded side's: attention. */
bool st_record_is_pair(const struct st_record_entry *entry);

/* Reads a recording. INPUT names file, entry and field, also when times fall; UNSUPPORTED: another version. */
struct st_record;
int st_record_open(const char *path, struct st_record **out, struct st_err *e) ST_MUST_CHECK;
void st_record_close(struct st_record *r);
int st_record_next(struct st_record *r, struct st_record_entry *out, struct st_err *e) ST_MUST_CHECK;

/* The same over bytes: entry number n (for messages) at *at, which it moves behind the entry. *at begins with
 * ST_RECORD_FILE_HEAD. */
int st_record_check_head(struct st_span file, const char *name, struct st_err *e) ST_MUST_CHECK;
int st_record_parse(struct st_span file, size_t *at, const char *name, uint64_t n, struct st_record_entry *out,
                    struct st_err *e) ST_MUST_CHECK;

#endif

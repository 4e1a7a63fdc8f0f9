/* One binary HTTP request, padded to its bucket and sealed for one key, and the opening of its reply as it comes: what
 * the proxy does twice per request, for the node and around that for the gateway. Bytes in, bytes out.
 *
 * The reply's content may be handed on as it comes; that the reply is whole is known only when st_sealed_end() returned
 * 0. Errors: VERIFY for what does not open, INPUT for what opens and is no HTTP reply. Limits below. */
#ifndef ST_SERVICE_CONF_SEALED_H
#define ST_SERVICE_CONF_SEALED_H

#include "channel/bhttp.h"
#include "channel/ohttp.h"
#include "service/conf_spare.h"

#define ST_SEALED_MAX_HEAD ((size_t)32 << 10)
#define ST_SEALED_MAX_FIELDS 32

struct st_sealed {
    struct st_ohttp x;
    struct st_bhttp_reader reader;
};

struct st_sealed_request {
    const char *method, *authority, *path;
    struct st_bhttp_fields fields;
    struct st_span content;
};

/* Appends the sealed request to *out. spares may be NULL. max_reply: bytes of the reply's content. A zeroed exchange
 * may be wiped. */
int st_sealed_begin(struct st_sealed *s, struct st_spares *spares, const struct st_ohttp_config *key,
                    const struct st_sealed_request *r, uint64_t max_reply, struct st_buf *out,
                    struct st_err *e) ST_MUST_CHECK;
/* More bytes of the reply; `content` gets each piece, borrowed, and may refuse by an error. */
int st_sealed_feed(struct st_sealed *s, const void *p, size_t len,
                   int (*content)(void *arg, struct st_span piece, struct st_err *e), void *arg,
                   struct st_err *e) ST_MUST_CHECK;
/* No more bytes come. Also calls content. */
int st_sealed_end(struct st_sealed *s, int (*content)(void *arg, struct st_span piece, struct st_err *e), void *arg,
                  struct st_err *e) ST_MUST_CHECK;
/* 0 until the reply's head has come. */
unsigned st_sealed_status(const struct st_sealed *s);
void st_sealed_wipe(struct st_sealed *s);

#endif

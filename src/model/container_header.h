/* The JSON header of a container, once its signature is verified, to entries with their places in the file. */
#ifndef ST_MODEL_CONTAINER_HEADER_H
#define ST_MODEL_CONTAINER_HEADER_H

#include "model/container_parse.h"

/* How a header's text begins, up to the publisher's 64 hexadecimal digits and the quote behind them; so that the key is
 * found, and the signature verified, before the text is parsed as JSON. */
#define ST_CONTAINER_BEGIN "{\"publisher\":\""

/* From c->header, c->len and c->n_segment to about, entries, place, by_name and digests_hash. data_at: where the first
 * segment begins. VERIFY, naming entry and field; MEMORY. */
int st_container_read_header(struct st_container *c, uint64_t data_at, struct st_err *e) ST_MUST_CHECK;

#endif

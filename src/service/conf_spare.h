/* Exchanges begun ahead of need. What sealing a request costs before a byte of it is known, an ephemeral key and its
 * agreement with the recipient's, is a third of the time that a request spends in the proxy: so one exchange for each
 * key that was asked for of late is kept ready, made anew a few milliseconds after it was taken.
 *
 * Each is given out once, and only for the key that it was made for. A key that rotated is asked for no more and makes
 * way for others. Everything runs on the thread of the event base. Limit: 64 keys. */
#ifndef ST_SERVICE_CONF_SPARE_H
#define ST_SERVICE_CONF_SPARE_H

#include "channel/ohttp.h"

#include <event2/event.h>

struct st_spares;

int st_spares_new(struct event_base *base, struct st_spares **out, struct st_err *e) ST_MUST_CHECK;
/* As st_ohttp_client() of the chunked form. s NULL: nothing is kept. */
int st_spares_begin(struct st_spares *s, const struct st_ohttp_config *key, struct st_ohttp *x, struct st_buf *out,
                    struct st_err *e) ST_MUST_CHECK;
/* How many were given out that were ready. */
uint64_t st_spares_used(const struct st_spares *s);
void st_spares_free(struct st_spares *s);

#endif

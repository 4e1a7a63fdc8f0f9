/* Stop strings over a text that arrives in pieces: a string is found wherever token borders fall, and text that could
 * still become one is held back. */
#ifndef ST_SERVICE_STOPS_H
#define ST_SERVICE_STOPS_H

#include "base/buf.h"

struct st_stops {
    const char *const *strings; /* borrowed, none empty */
    int n;
    struct st_buf held;
    bool hit;
};

void st_stops_init(struct st_stops *s, const char *const *strings, int n);
/* Appends to *out what is certain. Returns true once a stop string was found: *out then ends just before it. Of
 * several, the one that starts first counts. */
bool st_stops_push(struct st_stops *s, const char *p, size_t len, struct st_buf *out);
/* No more text: what was held back goes out. */
void st_stops_end(struct st_stops *s, struct st_buf *out);
void st_stops_wipe(struct st_stops *s);

#endif

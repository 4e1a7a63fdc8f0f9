/* Where everything of a container lies, and its head: header, mac, recipients and their signatures (docs/sealed.md).
 * Used to write one, and to write one anew with other recipients. */
#ifndef ST_PROTECT_SEALED_LAYOUT_H
#define ST_PROTECT_SEALED_LAYOUT_H

#include "base/buf.h"
#include "crypto/ed25519.h"
#include "model/container_parse.h"
#include "protect/sealed/contents.h"

struct st_sealed_layout {
    uint64_t mac_at, recipients_at, digests_at, total; /* offsets in the file; its length */
    uint64_t *at;                                      /* [contents.n] where an entry's first segment begins */
};

/* "entries" of the header as JSON, appended. */
int st_sealed_entries(const struct st_contents *c, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* The header's text, appended. Its length does not depend on the digests' hash [32]. */
int st_sealed_header(const struct st_container_about *a, const uint8_t digests[32], struct st_span entries,
                     struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* UNSUPPORTED: a header that no reader takes. l->at is to be freed. */
int st_sealed_lay_out(const struct st_contents *c, size_t header_len, uint32_t recipients_len,
                      struct st_sealed_layout *l, struct st_err *e) ST_MUST_CHECK;

/* A list of recipients as it stands in the file: JSON and spaces up to `room` bytes, or, room 0, to as many as leave
 * some for the list to change its length. USAGE: longer than room; MEMORY. */
int st_sealed_recipients(const json_t *list, uint32_t room, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

/* Everything before the digests. `first` is the file's first ST_CONTAINER_FIXED bytes, with the recipients' length;
 * about.digest is filled. The key is the publisher's. */
struct st_sealed_head {
    struct st_span header, recipients;
    uint32_t n_segment;
    const struct st_secret *content_key;
    const struct st_ed25519 *publisher;
};
int st_sealed_write_head(const struct st_sealed_head *h, struct st_container_about *a, struct st_buf *out,
                         struct st_err *e) ST_MUST_CHECK;
/* Reads what was written as any reader does; digest [32] is that of the head. VERIFY: something else is there. */
int st_sealed_read_back(const char *path, const uint8_t digest[32], struct st_err *e) ST_MUST_CHECK;

#endif

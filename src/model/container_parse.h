/* Inside of the container's reader: bytes to a checked struct. No file is opened here, so that it can be fuzzed. */
#ifndef ST_MODEL_CONTAINER_PARSE_H
#define ST_MODEL_CONTAINER_PARSE_H

#include "base/file.h"
#include "model/container.h"
#include "model/weights.h"

#include <jansson.h>

#define ST_CONTAINER_FIXED 24 /* magic, version, three lengths */
#define ST_CONTAINER_MAC 32
#define ST_CONTAINER_SIGNATURE 64
#define ST_CONTAINER_HASH 32

struct st_container {
    char *path;        /* or what `where` was */
    struct st_map map; /* empty when the bytes are somebody else's */
    const uint8_t *p;  /* [len] the whole file */
    uint64_t len;
    char *head; /* copy of S of docs/sealed.md, of the mac and of the recipients: the file may change under us */
    struct st_span header, recipients;
    const uint8_t *mac;
    uint8_t *digests; /* [n_segment][32], copied as well */
    uint32_t n_segment;
    json_t *json; /* owns the names of entries */
    uint8_t digests_hash[32];
    struct st_container_about about;
    struct st_container_entry *entries; /* [n] */
    uint64_t *place;                    /* [n] where the entry's first segment begins in the file */
    uint32_t *by_name;                  /* [n] indices into entries */
    size_t n;
    struct st_source source;
};

/* "*.sealed" */
bool st_container_named(const char *path);
/* What a container's source does; without its context. */
extern const struct st_source st_container_outside;

/* A whole container, of any publisher when that is NULL. `p` is borrowed until st_container_close(). INPUT,
 * UNSUPPORTED, VERIFY as st_container_open_by(). */
int st_container_parse(const void *p, uint64_t len, const char *where, const uint8_t *publisher,
                       struct st_container **out, struct st_err *e) ST_MUST_CHECK;

#endif

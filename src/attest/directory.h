/* The directory: one log entry that says which gateways, issuers and nodes there are and with which keys. It is always
 * the last entry of the tree that a checkpoint names, so whoever has a checkpoint that a quorum of witnesses has signed
 * sees the same keys as everybody else with that checkpoint; a key that was made for one client would have to be logged
 * for all to see. Hostile input: until it is proved to be that entry it means nothing.
 *
 * JSON: {"version": 1, "kind": "directory", "epoch": N, "time": T, "every": S,
 *  "gateways": [{"name": TEXT, "keys": BASE64 of application/ohttp-keys,
 *                "price": {"request": UNITS, "unit_bytes": BYTES},
 *                "nodes": [{"id": HEX32, "tags": ["model=demo", ...], "bundle": HEX of the SHA-256 of its evidence
 *                           bundle's bytes}, ...]}],
 *  "issuers": [{"name": TEXT, "keys": [{"day": N, "units": N, "key": BASE64 of SubjectPublicKeyInfo}, ...]}]}
 * epoch = time / every, and a log makes at most one directory per epoch. Unknown fields are refused. */
#ifndef ST_ATTEST_DIRECTORY_H
#define ST_ATTEST_DIRECTORY_H

#include "base/buf.h"

#define ST_DIRECTORY_MAX_GATEWAYS 8
#define ST_DIRECTORY_MAX_ISSUERS 8
#define ST_DIRECTORY_MAX_NODES 256 /* of one gateway */
#define ST_DIRECTORY_MAX_KEYS 64   /* of one issuer */
#define ST_DIRECTORY_MAX_NAME 64
#define ST_NODE_ID 16
#define ST_NODE_MAX_TAGS 16
#define ST_NODE_MAX_TAG 128

struct st_directory_node {
    uint8_t id[ST_NODE_ID];
    char tags[ST_NODE_MAX_TAGS][ST_NODE_MAX_TAG + 1]; /* printable ASCII without spaces: "model=demo" */
    size_t n_tag;
    uint8_t bundle[32];
};
struct st_directory_gateway {
    char name[ST_DIRECTORY_MAX_NAME + 1];
    struct st_span keys; /* application/ohttp-keys; points into the directory's memory */
    uint32_t price_request;
    uint64_t unit_bytes; /* sealed bytes of a reply that one further unit pays for */
    struct st_directory_node *nodes;
    size_t n_node;
};
struct st_directory_key {
    uint32_t day, units;
    struct st_span key; /* SubjectPublicKeyInfo */
};
struct st_directory_issuer {
    char name[ST_DIRECTORY_MAX_NAME + 1];
    struct st_directory_key keys[ST_DIRECTORY_MAX_KEYS];
    size_t n_key;
};
struct st_directory {
    uint64_t epoch;
    int64_t time;
    uint32_t every;
    struct st_directory_gateway gateways[ST_DIRECTORY_MAX_GATEWAYS];
    size_t n_gateway;
    struct st_directory_issuer issuers[ST_DIRECTORY_MAX_ISSUERS];
    size_t n_issuer;
    void *memory; /* what spans and nodes point into */
};

/* INPUT names `where` and the field. Several tens of KiB: allocate it. End with st_directory_wipe(). */
int st_directory_parse(const void *p, size_t len, const char *where, struct st_directory *out,
                       struct st_err *e) ST_MUST_CHECK;
void st_directory_wipe(struct st_directory *d);
/* Appends the JSON, which st_directory_parse() reads: one spelling for one directory. INPUT when it would exceed
 * ST_TILE_MAX_ENTRY bytes. */
int st_directory_write(const struct st_directory *d, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

/* The parts that gateways and issuers hand to the log, {"version": 1, "kind": "gateway" or "issuer", ...} with the
 * fields of a row above. The wipe of a part is st_directory_wipe() of a directory that holds only it. */
int st_directory_parse_part(const void *p, size_t len, const char *where, struct st_directory *out,
                            struct st_err *e) ST_MUST_CHECK;
void st_directory_write_gateway(const struct st_directory_gateway *g, struct st_buf *out);
void st_directory_write_issuer(const struct st_directory_issuer *i, struct st_buf *out);

/* Names of gateways and issuers: 1 to 64 letters, digits, '.', '-' and '_', a letter or digit first. */
bool st_directory_name_good(const char *name);

/* NULL when there is none. */
const struct st_directory_gateway *st_directory_find_gateway(const struct st_directory *d, const char *name);
const struct st_directory_issuer *st_directory_find_issuer(const struct st_directory *d, const char *name);
const struct st_directory_node *st_directory_find_node(const struct st_directory_gateway *g,
                                                       const uint8_t id[ST_NODE_ID]);
const struct st_directory_key *st_directory_find_key(const struct st_directory_issuer *i, uint32_t day, uint32_t units);
/* True when the node has every one of the wanted tags. */
bool st_node_has_tags(const struct st_directory_node *n, const char *const *tags, size_t n_tag);

#endif

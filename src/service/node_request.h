/* The request that a node finds under the seal: binary HTTP around an OpenAI body, hostile input. Bytes in, a checked
 * request out; no sockets. What is not in node_fields.def, or not of the shape and bounds said there, is refused by
 * name, so that an engine sees nothing that was not looked at: the body goes on as it was parsed, not as it was written
 * (numbers may change their spelling; a name that comes twice is refused).
 * Messages are text: a picture's URL would make the engine reach out. Errors are for the reply under the seal: they
 * name the field, and never hold a value. */
#ifndef ST_SERVICE_NODE_REQUEST_H
#define ST_SERVICE_NODE_REQUEST_H

#include "channel/bhttp.h"
#include "channel/confidential.h"
#include "crypto/digest.h"
#include "text/json.h"

#define ST_NODE_SALT_MIN 32 /* hexadecimal digits */
#define ST_NODE_SALT_MAX 128

enum st_node_endpoint { ST_NODE_CHAT = 1, ST_NODE_TEXT = 2 };

/* {"error": {"message", "type", "param", "code"}} and its status. */
struct st_node_error {
    int status;
    const char *code; /* static */
    char param[64];   /* "" = null */
    char message[192];
};
/* Fills *err; returns -1. param NULL = null. */
int st_node_fail(struct st_node_error *err, int status, const char *code, const char *param, const char *fmt, ...)
    ST_PRINTF(5, 6);
void st_node_error_json(const struct st_node_error *err, struct st_buf *out);

struct st_node_request {
    struct st_bhttp_reader reader;
    struct st_buf content;
    enum st_node_endpoint endpoint;
    const char *path; /* of the engine */
    bool stream;
    char salt[ST_NODE_SALT_MAX + 1]; /* "" = not given */
    uint8_t hash[32];                /* of the content, for the receipt */
    json_t *body;
};

/* len: bytes of the sealed message, which bound the content. A zeroed request may be wiped. MEMORY. */
int st_node_request_init(struct st_node_request *r, size_t len, struct st_err *e) ST_MUST_CHECK;
/* A piece of the opened message. -1 with *err filled. */
int st_node_request_add(struct st_node_request *r, struct st_span text, struct st_node_error *err) ST_MUST_CHECK;
/* All of it came: checks head and body. -1 with *err filled. */
int st_node_request_end(struct st_node_request *r, struct st_node_error *err) ST_MUST_CHECK;
void st_node_request_wipe(struct st_node_request *r);

#endif

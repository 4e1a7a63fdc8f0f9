/* What relay, gateway and issuer of the confidential path see, with the truth beside it: sizes and times of sealed
 * messages, which node was picked, tokens bought and tokens spent.
 *
 * Most of it is made in one process: messages are sealed by the code that proxy and node use (service/conf_sealed.h,
 * channel/reply.h), tokens are blinded, signed and finished by channel/token.h, nodes picked by the proxy's own draw.
 * Only clocks are simulated: an engine that computes as many tokens at once as are easy to foresee (those that go on
 * with a word: speculative decoding, which makes times tell most), jitter of the engine's and of the network's. So
 * scores are of the format and of the rule by which pieces leave, not of one machine. What wraps the reply for the
 * gateway adds the same number of bytes to each piece and is left out.
 *
 * Source: docs/confidential.md; timing of streams: arXiv 2403.09751, 2411.01076. */
#ifndef ST_AUDIT_TRAFFIC_H
#define ST_AUDIT_TRAFFIC_H

#include "audit/text.h"
#include "crypto/blind_rsa.h"

struct st_traffic_piece {
    uint32_t size;
    double time; /* seconds since the request left */
};
/* One request as it passes on one kind of wire. */
struct st_traffic_request {
    uint32_t prompt; /* the truth: which of the prompts */
    uint32_t up;     /* bytes of the request */
    struct st_traffic_piece *pieces;
    size_t n_piece;
};

/* The same requests on each. */
enum st_traffic_wire {
    ST_TRAFFIC_OPEN,    /* TLS alone: nothing is padded, each event is a record */
    ST_TRAFFIC_STREAM,  /* as shipped: buckets, pieces of one size, as produced */
    ST_TRAFFIC_CADENCE, /* one piece per tick */
    ST_TRAFFIC_WIRES
};

struct st_traffic_pick {
    uint32_t client, node;
};

/* Sold by the issuer; spent at the gateway. Bytes of the modulus's length. */
struct st_traffic_sold {
    uint32_t client;
    double time;
    uint8_t blinded[ST_BLIND_RSA_MAX], answer[ST_BLIND_RSA_MAX];
};
struct st_traffic_spent {
    uint32_t sold; /* the truth: index of the sale */
    double time;
    uint8_t signature[ST_BLIND_RSA_MAX];
};

struct st_traffic_asked {
    size_t n_prompt, n_request;
    /* [n_request], each prompt as often as the others, one round of all prompts after the other. NULL: not looked at.
     */
    struct st_traffic_request *wires[ST_TRAFFIC_WIRES];
};

struct st_traffic {
    struct st_traffic_asked made; /* in this process */
    struct st_traffic_asked ran;  /* recorded, of a set-up that ran (audit/traffic_read.h); n_request 0 = none */
    size_t n_client, n_node;
    double cadence_s;
    /* Each client as often as the others, one round after the other. Of n_draw independent draws, equally many of each,
     * one behind the other. */
    struct st_traffic_pick *picks;
    size_t n_pick, n_draw;
    struct st_traffic_sold *sold;
    struct st_traffic_spent *spent;
    size_t n_token, token_len; /* as many sold as spent */
};

struct st_traffic_opts {
    const struct st_texts_ids *text; /* of each document one half is a prompt, the other its reply */
    const struct st_tokenizer *tokenizer;
    size_t n_prompt, n_repeat; /* at most so many documents; how often each is asked. 0 = 16, 12 */
    size_t n_client, n_node;   /* 0 = 8, 5 */
    double cadence_s;          /* 0 = .05 */
    uint64_t seed;             /* of the clocks; keys, tokens and picks come from the system's randomness */
    bool unblinded;            /* for controls: tokens whose blinding factor is 1 */
    bool sticky;               /* for controls: each client has a node of its own */
    const volatile sig_atomic_t *cancel;
};
/* INPUT: fewer than two documents that have a prompt and a reply. MEMORY, IO. */
int st_traffic_make(const struct st_traffic_opts *o, struct st_traffic **out, struct st_err *e) ST_MUST_CHECK;
void st_traffic_free(struct st_traffic *t);

/* The n-th document of a text that is long enough to be a prompt and a reply, the halves of lo..hi; false behind the
 * last. */
bool st_traffic_document(const struct st_texts_ids *text, size_t n, size_t *lo, size_t *hi);
/* Its prompt, as text. */
void st_traffic_prompt(const struct st_texts_ids *text, const struct st_tokenizer *tok, size_t lo, size_t hi,
                       struct st_buf *out);

/* ---- for traffic.c: the parts ---- */

/* Fills sold and spent; n_client is set. */
int st_traffic_tokens(struct st_traffic *t, const struct st_traffic_opts *o, struct st_err *e) ST_MUST_CHECK;
/* Fills wires[][] of request i, whose prompt is the document of ids lo..hi. */
struct st_traffic_keys; /* of gateway and node */
int st_traffic_keys_new(struct st_traffic_keys **out, struct st_err *e) ST_MUST_CHECK;
void st_traffic_keys_free(struct st_traffic_keys *k);
int st_traffic_request(struct st_traffic *t, const struct st_traffic_opts *o, struct st_traffic_keys *k, size_t i,
                       size_t lo, size_t hi, struct st_err *e) ST_MUST_CHECK;

#endif

/* Receipts on disk, for whoever wants to show later what was answered: on wish only, because with a receipt stands what
 * it is about. Per reply, in a directory of mode 0700, files of mode 0600: ID.receipt (hexadecimal digits), ID.request
 * and ID.reply (the contents that it signs, filler included), and once per node key DIGEST.bundle, the evidence that
 * certifies the key, with DIGEST.checkpoint, the log's checkpoint whose digest is the evidence's nonce (none when the
 * node was challenged). `sotto attest receipt` reads them. */
#ifndef ST_SERVICE_CONF_RECEIPTS_H
#define ST_SERVICE_CONF_RECEIPTS_H

#include "service/conf_nodes.h"

struct st_conf_kept {
    const char *dir;
    struct st_span receipt /* digits */, request, reply;
    int64_t time; /* the node's */
};
/* Makes the directory when it is not there. IO; POLICY: others can read it. */
int st_conf_receipts_open(const char *dir, struct st_err *e) ST_MUST_CHECK;
int st_conf_receipt_keep(const struct st_conf_kept *k, const struct st_conf_nodes *nodes, const uint8_t bundle[32],
                         struct st_err *e) ST_MUST_CHECK;

#endif

/* Any bytes as a log's answer: refused, or written again and read back as the same. */
#include "service/log_reply.h"

#include <stdlib.h>
#include <string.h>

static bool same(const struct st_buf *a, const struct st_buf *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->p, b->p, a->len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_log_reply first, second;
    struct st_buf text = {0};
    struct st_err e;
    if (st_log_reply_parse(data, size, &first, &e) == 0) {
        st_log_reply_write(&first, &text);
        if (text.len <= ST_LOG_REPLY_MAX) {
            if (st_log_reply_parse(text.p, text.len, &second, &e) || !same(&first.note, &second.note) ||
                !same(&first.entry, &second.entry) || first.index != second.index ||
                memcmp(&first.consistency, &second.consistency, sizeof first.consistency) != 0 ||
                memcmp(&first.inclusion, &second.inclusion, sizeof first.inclusion) != 0)
                abort();
            st_log_reply_wipe(&second);
        }
    }
    st_log_reply_wipe(&first);
    st_buf_free(&text);
    return 0;
}

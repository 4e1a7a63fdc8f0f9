/* Any bytes as a tokenizer file and, after the last newline, as a text for it: refused, or a tokenizer whose streamed
 * decode equals its whole decode. A corpus file is the tokenizer, a newline, the text. */
#include "model/tokenizer.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

static void check_stream(const struct st_tokenizer *t, const struct st_ids *ids, struct st_err *e)
{
    struct st_buf whole = {0}, parts = {0};
    struct st_detok d;
    st_detok_init(&d, t, false);
    for (size_t i = 0; i < ids->len; i++)
        st_detok_push(&d, ids->p[i], &parts);
    st_detok_end(&d, &parts);
    st_detok_wipe(&d);
    if (st_tokenizer_decode(t, ids->p, ids->len, false, &whole, e) || whole.len != parts.len ||
        (whole.len && memcmp(whole.p, parts.p, whole.len)) || !st_utf8_valid(whole.p, whole.len))
        abort();
    st_buf_free(&whole);
    st_buf_free(&parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nl = memrchr(data, '\n', size);
    size_t file = nl ? (size_t)(nl - data) : size, text = nl ? size - file - 1 : 0;
    struct st_tokenizer *t;
    struct st_err e;
    if (st_tokenizer_parse(data, file, "fuzz", &t, &e))
        return 0;
    struct st_plain_range half = {0, text / 2};
    struct st_encode_opts o = {.add_special = true, .parse_special = true, .plain = &half, .n_plain = text > 1};
    struct st_ids ids = {0};
    if (st_tokenizer_encode(t, text ? (const char *)nl + 1 : "", text, &o, &ids, &e) == 0)
        check_stream(t, &ids, &e);
    for (size_t i = 0; i < ids.len; i++)
        if (ids.p[i] >= st_tokenizer_vocab(t))
            abort();
    ids.len = 0;
    for (size_t i = 0; i < text; i++) /* ids that no text has */
        st_ids_add(&ids, nl[1 + i]);
    check_stream(t, &ids, &e);
    st_ids_free(&ids);
    st_tokenizer_free(t);
    return 0;
}

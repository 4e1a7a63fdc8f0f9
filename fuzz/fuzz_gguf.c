/* Any bytes as a GGUF file: refused, or every tensor and the manifest can be read to their last byte. */
#include "protect/covariant/gguf_read.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned seen;

static void touch(const uint8_t *p, uint64_t len)
{
    if (len)
        seen += p[0] + p[len - 1];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"token_embd.weight", "blk.0.attn_q.weight", "output.weight", "a"};
    struct st_err e = {0};
    struct st_gguf_file f;
    struct st_gguf_view v;
    struct st_span s;
    int rc = st_gguf_parse((struct st_span){data, size}, "fuzz", &f, &e);
    if (rc) {
        if (rc != ST_INPUT && rc != ST_UNSUPPORTED)
            abort();
        return 0;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (st_gguf_find(&f, names[i], &v))
            touch(v.data, v.bytes);
    if (st_gguf_find_str(&f, "sotto.manifest", &s))
        touch(s.p, s.len);
    for (size_t at = 0; at < f.pairs.len; at += 7)
        if (st_gguf_key_at(f.pairs, f.n_pair, at, &s))
            touch(s.p, s.len);
    return 0;
}

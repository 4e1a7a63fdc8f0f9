/* Any bytes as an upstream's reply, in every dialect: what is read does not depend on how the bytes are cut, and only
 * ids of the vocabulary come out. The first byte chooses the dialect, and whether logprobs were asked for; the second
 * says where to cut. */
#include "service/upstream.h"

#include <stdlib.h>
#include <string.h>

enum { N_VOCAB = 16, MAX_TOKENS = 8 };

struct heard {
    uint32_t ids[MAX_TOKENS];
    size_t n;
};

static void hear(void *arg, const struct st_sampled *tok)
{
    struct heard *h = arg;
    if (tok->id >= N_VOCAB || h->n == MAX_TOKENS || tok->n_top < 0 || tok->n_top > ST_MAX_LOGPROBS)
        abort();
    for (int i = 0; i < tok->n_top; i++)
        if (tok->top[i].id >= N_VOCAB || !(tok->top[i].logprob >= -9999.0f))
            abort();
    h->ids[h->n++] = tok->id;
}

static int run(const struct st_upstream_dialect *dialect, const uint8_t *p, size_t len, size_t cut, int n_logprobs,
               struct heard *h, bool *finished)
{
    static uint32_t ids[N_VOCAB] = {15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
    static const struct st_cov_cipher cipher = {.n_vocab = N_VOCAB, .to = ids, .from = ids};
    static const uint32_t ends[] = {3};
    struct st_err e;
    struct st_upstream_reply r = {.dialect = dialect,
                                  .cipher = &cipher,
                                  .ends = ends,
                                  .n_end = 1,
                                  .max_tokens = MAX_TOKENS,
                                  .n_logprobs = n_logprobs,
                                  .token = hear,
                                  .arg = h};
    memset(h, 0, sizeof *h);
    st_upstream_reply_init(&r, 4096);
    int rc = st_upstream_reply_feed(&r, p, cut, &e);
    if (!rc)
        rc = st_upstream_reply_feed(&r, p + cut, len - cut, &e);
    *finished = r.finished;
    st_upstream_reply_wipe(&r);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct heard a, b;
    bool end_a, end_b;
    if (size < 2)
        return 0;
    const struct st_upstream_dialect *d = st_upstream_dialects[data[0] % st_upstream_n_dialect];
    const uint8_t *p = data + 2;
    size_t len = size - 2;
    int n_logprobs = data[0] / 16 % 4 - 1;
    int rc_a = run(d, p, len, 0, n_logprobs, &a, &end_a);
    int rc_b = run(d, p, len, len ? data[1] % len : 0, n_logprobs, &b, &end_b);
    if (rc_a != rc_b || end_a != end_b || a.n != b.n || memcmp(a.ids, b.ids, a.n * sizeof *a.ids) != 0)
        abort();
    char word[48];
    st_upstream_error_code(p, len, word);
    return 0;
}

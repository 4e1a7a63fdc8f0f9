/* Any bytes as a hints file: refused, or all that is given lies inside the bytes and is in range. The input is a u16,
 * that many bytes of header without its hash, and what follows: the hash is put in here, since no fuzzer finds one. */
#include "crypto/digest.h"
#include "field/fq.h"
#include "model/hints.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    uint32_t n;
};

static int check(void *arg, const struct st_hint_columns *c, struct st_err *e)
{
    struct seen *s = arg;
    (void)e;
    if (c->first != s->n || c->m > ST_LWE_MAX_M)
        abort();
    s->n += c->n;
    for (uint32_t i = 0; i < c->n; i++) {
        if (!(c->scale[i] >= 0 && isfinite(c->scale[i]) && c->norm[i] >= 0 && isfinite(c->norm[i])))
            abort();
        for (uint32_t k = 0; k < c->m; k++)
            if (c->h[(size_t)i * c->m + k] >= ST_FQ)
                abort();
    }
    return 0;
}

static void read_all(const struct st_hints *h)
{
    static const char *const names[] = {"a", "b", "model.embed_tokens.weight^T"};
    const struct st_hint_source *s = st_hints_source(h);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (uint32_t side = 1; side < 4; side++) {
            struct seen seen = {0};
            struct st_err e;
            volatile uint8_t sum = 0;
            const void *records;
            size_t len;
            if (s->read(s->ctx, names[i], side, 7, check, &seen, &e) == 0 && seen.n != side)
                abort();
            if (st_hints_columns(h, names[i], side - 1, 1, &records, &len, &e) == 0)
                for (size_t k = 0; k < len; k++)
                    sum = (uint8_t)(sum + ((const uint8_t *)records)[k]);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_hints *h;
    struct st_err e;
    size_t head = size < 2 ? 0 : data[0] | (size_t)data[1] << 8;
    if (size < 2 || head > size - 2)
        return 0;
    uint8_t *p = malloc(size + 32);
    if (!p)
        abort();
    memcpy(p, data + 2, head);
    st_sha256(p, head, p + head);
    memcpy(p + head + 32, data + 2 + head, size - 2 - head);
    if (st_hints_parse(p, size + 30, "fuzz", &h, &e) == 0) {
        read_all(h);
        st_hints_close(h);
    }
    free(p);
    return 0;
}

#include "service/witness_request.h"
#include "text/base64.h"

#include <inttypes.h>
#include <string.h>

static bool next_line(struct st_span *rest, struct st_span *line)
{
    const uint8_t *newline = rest->len ? memchr(rest->p, '\n', rest->len) : NULL;
    if (!newline)
        return false;
    *line = (struct st_span){rest->p, (size_t)(newline - rest->p)};
    rest->p += line->len + 1;
    rest->len -= line->len + 1;
    return true;
}

/* Decimal without leading zeros; 19 digits fit u64. */
static bool read_size(struct st_span s, uint64_t *out)
{
    bool good = s.len > 0 && s.len <= 19 && (s.p[0] != '0' || s.len == 1);
    *out = 0;
    for (size_t i = 0; i < s.len && good; i++) {
        good = s.p[i] >= '0' && s.p[i] <= '9';
        *out = *out * 10 + (uint64_t)(s.p[i] - '0');
    }
    return good && *out <= ST_MERKLE_MAX_SIZE;
}

static bool read_hash(struct st_span line, struct st_merkle_hash *out)
{
    struct st_buf raw = {0};
    bool good = line.len == (ST_MERKLE_HASH + 2) / 3 * 4 && st_base64_decode((const char *)line.p, line.len, &raw) &&
                raw.len == ST_MERKLE_HASH;
    if (good)
        memcpy(out->b, raw.p, ST_MERKLE_HASH);
    st_buf_free(&raw);
    return good;
}

int st_witness_request_parse(struct st_span body, struct st_witness_request *out, struct st_err *e)
{
    struct st_span line;
    *out = (struct st_witness_request){0};
    if (body.len > ST_WITNESS_MAX_BODY)
        return st_fail(e, ST_INPUT, "add-checkpoint: want at most %zu bytes", ST_WITNESS_MAX_BODY);
    if (!next_line(&body, &line) || line.len < 4 || memcmp(line.p, "old ", 4) != 0 ||
        !read_size((struct st_span){line.p + 4, line.len - 4}, &out->old))
        return st_fail(e, ST_INPUT, "add-checkpoint: want a first line 'old SIZE'");
    while (next_line(&body, &line)) {
        if (line.len == 0) {
            out->note = body;
            return 0;
        }
        if (out->proof.n >= ST_WITNESS_MAX_PROOF || !read_hash(line, &out->proof.hashes[out->proof.n]))
            break;
        out->proof.n++;
    }
    return st_fail(e, ST_INPUT, "add-checkpoint: want at most %d hashes in base64, one a line, and an empty line",
                   ST_WITNESS_MAX_PROOF);
}

void st_witness_request_write(const struct st_witness_request *r, struct st_buf *out)
{
    st_buf_addf(out, "old %" PRIu64 "\n", r->old);
    for (size_t i = 0; i < r->proof.n; i++) {
        st_base64_encode(r->proof.hashes[i].b, ST_MERKLE_HASH, out);
        st_buf_add_str(out, "\n");
    }
    st_buf_add_str(out, "\n");
    st_buf_add(out, r->note.p, r->note.len);
}

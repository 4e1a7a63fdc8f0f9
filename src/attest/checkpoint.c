#include "attest/checkpoint.h"
#include "crypto/digest.h"
#include "text/base64.h"

#include <inttypes.h>
#include <string.h>

#define TIME_LEN 8

/* Takes a line off the text, without its newline; false when none is left. */
static bool next_line(struct st_span *text, struct st_span *line)
{
    const uint8_t *newline = text->len ? memchr(text->p, '\n', text->len) : NULL;
    if (!newline)
        return false;
    *line = (struct st_span){text->p, (size_t)(newline - text->p)};
    text->p += line->len + 1;
    text->len -= line->len + 1;
    return true;
}

static int parse_size(struct st_span line, uint64_t *out, struct st_err *e)
{
    uint64_t v = 0;
    /* 19 digits fit u64. */
    bool good = line.len > 0 && line.len <= 19 && (line.p[0] != '0' || line.len == 1);
    for (size_t i = 0; i < line.len && good; i++) {
        good = line.p[i] >= '0' && line.p[i] <= '9';
        v = v * 10 + (uint64_t)(line.p[i] - '0');
    }
    if (!good || v > ST_MERKLE_MAX_SIZE)
        return st_fail(e, ST_INPUT, "checkpoint: size: want a decimal number up to %" PRIu64, ST_MERKLE_MAX_SIZE);
    *out = v;
    return 0;
}

static int parse_root(struct st_span line, struct st_merkle_hash *out, struct st_err *e)
{
    struct st_buf raw = {0};
    int rc = 0;
    /* Length first: no work on long lines. */
    bool good = line.len == (ST_MERKLE_HASH + 2) / 3 * 4 && st_base64_decode((const char *)line.p, line.len, &raw) &&
                raw.len == ST_MERKLE_HASH;
    if (raw.failed)
        rc = st_fail(e, ST_MEMORY, "checkpoint: out of memory");
    else if (!good)
        rc = st_fail(e, ST_INPUT, "checkpoint: root: want base64 of %d bytes", ST_MERKLE_HASH);
    else
        memcpy(out->b, raw.p, ST_MERKLE_HASH);
    st_buf_free(&raw);
    return rc;
}

static bool lines_good(struct st_span text)
{
    struct st_span line;
    while (text.len > 0)
        if (!next_line(&text, &line) || line.len == 0)
            return false;
    return true;
}

int st_checkpoint_parse(struct st_span text, struct st_checkpoint *out, struct st_err *e)
{
    struct st_span origin, size, root;
    *out = (struct st_checkpoint){0};
    if (!next_line(&text, &origin) || !next_line(&text, &size) || !next_line(&text, &root))
        return st_fail(e, ST_INPUT, "checkpoint: want three lines: origin, size, root");
    if (origin.len == 0 || origin.len > ST_NOTE_MAX_NAME || memchr(origin.p, 0, origin.len))
        return st_fail(e, ST_INPUT, "checkpoint: origin: want 1 to %d bytes without NUL, got %zu", ST_NOTE_MAX_NAME,
                       origin.len);
    if (!lines_good(text))
        return st_fail(e, ST_INPUT, "checkpoint: an extension line is empty or has no end");
    int rc = parse_size(size, &out->size, e);
    if (!rc)
        rc = parse_root(root, &out->root, e);
    if (rc)
        return rc;
    memcpy(out->origin, origin.p, origin.len);
    out->extensions = text;
    return 0;
}

int st_checkpoint_write(const struct st_checkpoint *c, struct st_buf *out, struct st_err *e)
{
    if (c->origin[0] == 0 || strchr(c->origin, '\n') || c->size > ST_MERKLE_MAX_SIZE || !lines_good(c->extensions))
        return st_fail(e, ST_INPUT, "checkpoint: origin, size or extensions are not what a checkpoint can hold");
    st_buf_addf(out, "%s\n%" PRIu64 "\n", c->origin, c->size);
    st_base64_encode(c->root.b, ST_MERKLE_HASH, out);
    st_buf_add_str(out, "\n");
    st_buf_add(out, c->extensions.p, c->extensions.len);
    return out->failed ? st_fail(e, ST_MEMORY, "checkpoint: out of memory") : 0;
}

/* What a witness signs. */
static int message(struct st_span text, uint64_t time, struct st_buf *out, struct st_err *e)
{
    st_buf_addf(out, "cosignature/v1\ntime %" PRIu64 "\n", time);
    st_buf_add(out, text.p, text.len);
    return out->failed ? st_fail(e, ST_MEMORY, "cosignature: out of memory") : 0;
}

int st_cosignature_sign(struct st_span text, const char *name, const struct st_ed25519 *k, int64_t time,
                        struct st_buf *out, struct st_err *e)
{
    uint8_t public[ST_ED25519_PUBLIC], bytes[TIME_LEN + ST_ED25519_SIGNATURE];
    struct st_note_key key;
    struct st_checkpoint c;
    struct st_buf m = {0};
    if (time < 0)
        return st_fail(e, ST_USAGE, "cosignature: the time is before 1970");
    int rc = st_checkpoint_parse(text, &c, e);
    if (rc)
        return rc;
    st_ed25519_public(k, public);
    rc = st_note_key_make(name, ST_NOTE_COSIGNATURE, public, &key, e);
    if (!rc)
        rc = message(text, (uint64_t)time, &m, e);
    if (rc)
        goto out;
    for (size_t i = 0; i < TIME_LEN; i++)
        bytes[i] = (uint8_t)((uint64_t)time >> 8 * (TIME_LEN - 1 - i));
    rc = st_ed25519_sign(k, m.p, m.len, bytes + TIME_LEN, e);
    if (rc)
        goto out;
    st_note_add(&key, (struct st_span){bytes, sizeof bytes}, out);
    if (out->failed)
        rc = st_fail(e, ST_MEMORY, "cosignature: out of memory");
out:
    st_buf_free(&m);
    return rc;
}

static int verify_one(struct st_span text, const struct st_note_key *k, struct st_span bytes, int64_t *time,
                      struct st_err *e)
{
    struct st_buf m = {0};
    struct st_err why;
    uint64_t t = 0;
    *time = 0;
    if (bytes.len != TIME_LEN + ST_ED25519_SIGNATURE || bytes.p[0] & 0x80)
        return st_fail(e, ST_VERIFY, "checkpoint: the cosignature of %s is not of its form", k->name);
    for (size_t i = 0; i < TIME_LEN; i++)
        t = t << 8 | bytes.p[i];
    int rc = message(text, t, &m, e);
    if (!rc && st_ed25519_verify(k->key, m.p, m.len, bytes.p + TIME_LEN, &why) != 0)
        rc = st_fail(e, ST_VERIFY, "checkpoint: the cosignature of %s is not the key's", k->name);
    if (!rc)
        *time = (int64_t)t;
    st_buf_free(&m);
    return rc;
}

int st_cosignature_verify(const struct st_note *n, const struct st_note_key *k, int64_t *time, struct st_err *e)
{
    const struct st_note_signature *s;
    size_t at = 0;
    bool found = false;
    int64_t latest = 0, one;
    *time = 0;
    if (k->type != ST_NOTE_COSIGNATURE)
        return st_fail(e, ST_USAGE, "checkpoint: the key of %s is of signature type %u, want %d", k->name, k->type,
                       ST_NOTE_COSIGNATURE);
    for (; (s = st_note_next(n, k, &at)) != NULL; found = true) {
        int rc = verify_one(n->text, k, s->bytes, &one, e);
        if (rc)
            return rc;
        if (one > latest)
            latest = one;
    }
    if (!found)
        return st_fail(e, ST_VERIFY, "checkpoint: it is not cosigned by %s", k->name);
    *time = latest;
    return 0;
}

int st_tlog_keys_check(const struct st_tlog_keys *k, struct st_err *e)
{
    if (k->origin[0] == 0)
        return st_fail(e, ST_USAGE, "log: no origin");
    if (k->log.type != ST_NOTE_ED25519)
        return st_fail(e, ST_USAGE, "log %s: want a key of signature type %d", k->origin, ST_NOTE_ED25519);
    if (k->n_witness > ST_TLOG_MAX_WITNESSES || k->quorum > k->n_witness)
        return st_fail(e, ST_USAGE, "log %s: want at most %d witnesses and a quorum among them, got %zu and %zu",
                       k->origin, ST_TLOG_MAX_WITNESSES, k->n_witness, k->quorum);
    for (size_t i = 0; i < k->n_witness; i++) {
        const struct st_note_key *w = &k->witnesses[i];
        if (w->type != ST_NOTE_COSIGNATURE)
            return st_fail(e, ST_USAGE, "log %s: witness %s: want a key of signature type %d", k->origin, w->name,
                           ST_NOTE_COSIGNATURE);
        bool twice = memcmp(w->key, k->log.key, sizeof w->key) == 0;
        for (size_t j = 0; j < i && !twice; j++)
            twice = memcmp(w->key, k->witnesses[j].key, sizeof w->key) == 0;
        if (twice)
            return st_fail(e, ST_USAGE, "log %s: witness %s: its key has another role already", k->origin, w->name);
    }
    return 0;
}

static int check_quorum(const struct st_note *n, const struct st_tlog_keys *keys, int64_t now, struct st_witnessed *out,
                        struct st_err *e)
{
    int64_t times[ST_TLOG_MAX_WITNESSES], time; /* latest first */
    int64_t limit = now > INT64_MAX - ST_TLOG_CLOCK_SLACK_S ? INT64_MAX : now + ST_TLOG_CLOCK_SLACK_S;
    size_t n_time = 0, ahead = 0;
    for (size_t i = 0; i < keys->n_witness; i++) {
        size_t at = 0;
        if (!st_note_next(n, &keys->witnesses[i], &at))
            continue;
        int rc = st_cosignature_verify(n, &keys->witnesses[i], &time, e);
        if (rc)
            return rc;
        if (time > limit) {
            ahead++;
            continue;
        }
        size_t slot = n_time++;
        for (; slot > 0 && times[slot - 1] < time; slot--)
            times[slot] = times[slot - 1];
        times[slot] = time;
    }
    if (n_time < keys->quorum)
        return st_fail(e, ST_VERIFY, "checkpoint: cosigned by %zu of %zu witnesses, want %zu (%zu ahead of our clock)",
                       n_time, keys->n_witness, keys->quorum, ahead);
    out->n_witness = n_time;
    out->time = keys->quorum ? times[keys->quorum - 1] : 0;
    return 0;
}

int st_checkpoint_open(const void *p, size_t len, const struct st_tlog_keys *keys, int64_t now,
                       struct st_witnessed *out, struct st_err *e)
{
    struct st_note n;
    struct st_witnessed w = {0};
    *out = w;
    int rc = st_tlog_keys_check(keys, e);
    if (!rc)
        rc = st_note_parse(p, len, &n, e);
    if (rc)
        return rc;
    rc = st_note_verify(&n, &keys->log, e);
    if (!rc)
        rc = st_checkpoint_parse(n.text, &w.checkpoint, e);
    if (!rc && strcmp(w.checkpoint.origin, keys->origin) != 0)
        rc = st_fail(e, ST_VERIFY, "checkpoint: it is of %s, want %s", w.checkpoint.origin, keys->origin);
    if (!rc)
        rc = check_quorum(&n, keys, now, &w, e);
    if (!rc) {
        st_sha256(p, len, w.digest);
        *out = w;
    }
    st_note_wipe(&n);
    return rc;
}

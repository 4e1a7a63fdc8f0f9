#include "attest/event_log.h"

#include <stdlib.h>
#include <string.h>

/* ---- bytes to events ---- */

struct reader {
    const uint8_t *p, *end;
    bool failed;
};

static struct st_span take(struct reader *r, size_t n)
{
    if (r->failed || n > (size_t)(r->end - r->p)) {
        r->failed = true;
        return (struct st_span){NULL, 0};
    }
    r->p += n;
    return (struct st_span){r->p - n, n};
}

static uint32_t number(struct reader *r, size_t n)
{
    struct st_span s = take(r, n);
    uint32_t v = 0;
    for (size_t i = 0; i < s.len; i++)
        v |= (uint32_t)s.p[i] << 8 * i;
    return v;
}

static bool is_room(const struct reader *r)
{
    size_t n = (size_t)(r->end - r->p);
    return (*r->p == 0 || *r->p == 0xff) && (n == 1 || memcmp(r->p, r->p + 1, n - 1) == 0);
}

/* TCG_PCR_EVENT in the old form around TCG_EfiSpecIDEvent, which lists the banks; of PCR 0, in a TD's log of 1. */
static int read_head(struct reader *r, struct st_event_log *out, struct st_err *e)
{
    uint32_t pcr = number(r, 4), type = number(r, 4);
    struct st_span sha1 = take(r, 20);
    struct st_span data = take(r, number(r, 4));
    if (r->failed)
        return st_fail(e, ST_INPUT, "event log: want one that begins with 'Spec ID Event03'");
    struct reader h = {data.p, data.p + data.len, false};
    struct st_span name = take(&h, 16);
    take(&h, 8); /* platform class, version of the specification, size of a pointer */
    uint32_t n = number(&h, 4);
    if (h.failed || pcr > 1 || type != ST_EV_NO_ACTION || memcmp(name.p, "Spec ID Event03", 16) != 0)
        return st_fail(e, ST_INPUT, "event log: want one that begins with 'Spec ID Event03'");
    for (size_t i = 0; i < sha1.len; i++)
        if (sha1.p[i])
            return st_fail(e, ST_INPUT, "event log: its first event has a digest");
    if (n == 0 || n > ST_EVENT_LOG_MAX_BANKS)
        return st_fail(e, ST_INPUT, "event log: want 1..%d banks, got %u", ST_EVENT_LOG_MAX_BANKS, n);
    for (; out->n_bank < n; out->n_bank++) {
        unsigned alg = number(&h, 2);
        size_t len = number(&h, 2), known = st_tpm_hash_len(alg);
        for (size_t i = 0; i < out->n_bank; i++)
            h.failed = h.failed || out->banks[i].alg == alg;
        if (h.failed || len == 0 || len > 64 || (known && len != known))
            return st_fail(e, ST_INPUT, "event log: bank %zu: cut off, twice, or with a wrong length", out->n_bank);
        out->banks[out->n_bank].alg = alg;
        out->banks[out->n_bank].len = len;
    }
    take(&h, number(&h, 1)); /* the vendor's own */
    return h.failed || h.p != h.end ? st_fail(e, ST_INPUT, "event log: first event: wrong length") : 0;
}

static size_t bank_len(const struct st_event_log *log, unsigned alg)
{
    for (size_t i = 0; i < log->n_bank; i++)
        if (log->banks[i].alg == alg)
            return log->banks[i].len;
    return 0;
}

/* Any digests of different banks; which ones are needed is for the replay to say. */
static bool read_digests(struct reader *r, const struct st_event_log *log, struct st_span *out)
{
    uint32_t n = number(r, 4);
    unsigned seen[ST_EVENT_LOG_MAX_BANKS];
    const uint8_t *begin = r->p;
    if (n == 0 || n > log->n_bank)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        seen[i] = number(r, 2);
        size_t len = bank_len(log, seen[i]);
        for (uint32_t k = 0; k < i; k++)
            if (seen[k] == seen[i])
                return false;
        take(r, len);
        if (!len || r->failed)
            return false;
    }
    *out = (struct st_span){begin, (size_t)(r->p - begin)};
    return true;
}

static int read_event(struct reader *r, struct st_event_log *out, struct st_err *e)
{
    struct st_event ev = {.pcr = number(r, 4)};
    ev.type = number(r, 4);
    if (r->failed || (ev.pcr >= ST_PCR_COUNT && ev.type != ST_EV_NO_ACTION))
        return st_fail(e, ST_INPUT, "event log: event %zu: cut off, or of no PCR", out->n);
    if (!read_digests(r, out, &ev.digests))
        return st_fail(e, ST_INPUT, "event log: event %zu: want a digest for each bank that the log names", out->n);
    ev.data = take(r, number(r, 4));
    if (r->failed)
        return st_fail(e, ST_INPUT, "event log: event %zu: cut off in its data", out->n);
    if (out->n == ST_EVENT_LOG_MAX_EVENTS)
        return st_fail(e, ST_INPUT, "event log: more than %d events", ST_EVENT_LOG_MAX_EVENTS);
    if (out->n % 64 == 0) {
        struct st_event *grown = realloc(out->events, (out->n + 64) * sizeof *grown);
        if (!grown)
            return st_fail(e, ST_MEMORY, "event log: out of memory");
        out->events = grown;
    }
    out->events[out->n++] = ev;
    return 0;
}

int st_event_log_parse(const uint8_t *p, size_t len, struct st_event_log *out, struct st_err *e)
{
    struct reader r = {p, p + len, false};
    *out = (struct st_event_log){0};
    int rc = read_head(&r, out, e);
    while (!rc && r.p < r.end && !is_room(&r))
        rc = read_event(&r, out, e);
    if (rc)
        st_event_log_free(out);
    return rc;
}

void st_event_log_free(struct st_event_log *log)
{
    free(log->events);
    *log = (struct st_event_log){0};
}

/* ---- digests ---- */

/* NULL: the event has none for this bank. */
static const uint8_t *digest_of(const struct st_event_log *log, const struct st_event *ev, unsigned alg)
{
    const uint8_t *p = ev->digests.p, *end = p + ev->digests.len;
    while (p < end) {
        unsigned a = p[0] | (unsigned)p[1] << 8;
        if (a == alg)
            return p + 2;
        p += 2 + bank_len(log, a);
    }
    return NULL;
}

static bool is_hash(unsigned alg, const void *p, size_t len, const uint8_t *digest)
{
    uint8_t out[64];
    unsigned n = 0;
    return EVP_Digest(p, len, out, &n, EVP_get_digestbyname(st_tpm_hash_name(alg)), NULL) == 1 &&
           memcmp(out, digest, n) == 0;
}

bool st_event_variable(struct st_span data, struct st_span *name, struct st_span *contents)
{
    struct reader r = {data.p, data.p + data.len, false};
    take(&r, 16);
    uint32_t letters = number(&r, 4), high = number(&r, 4), len = number(&r, 4);
    high |= number(&r, 4);
    if (r.failed || high || letters > data.len)
        return false;
    *name = take(&r, 2 * (size_t)letters);
    *contents = take(&r, len);
    return !r.failed && r.p == r.end;
}

/* What GRUB measures of an event's text, as it wrote it there. */
static bool grub_text(struct st_span data, struct st_span *text)
{
    static const char *const prefix[] = {"grub_cmd: ", "kernel_cmdline: ", "module_cmdline: "};
    for (size_t i = 0; i < sizeof prefix / sizeof *prefix; i++) {
        size_t n = strlen(prefix[i]);
        if (data.len >= n && memcmp(data.p, prefix[i], n) == 0) {
            *text = (struct st_span){data.p + n, data.len - n};
            return true;
        }
    }
    return false;
}

bool st_event_measures(const struct st_event_log *log, const struct st_event *ev, unsigned alg, const void *p,
                       size_t len)
{
    const uint8_t *digest = digest_of(log, ev, alg);
    return digest && is_hash(alg, p, len, digest);
}

static bool digest_fits(const struct st_event *ev, unsigned alg, const uint8_t *digest)
{
    struct st_span name, part;
    switch (ev->type) {
    case ST_EV_SEPARATOR:
    case ST_EV_S_CRTM_VERSION:
    case ST_EV_EFI_ACTION:
    case ST_EV_EFI_GPT_EVENT:
    case ST_EV_EFI_VARIABLE_DRIVER_CONFIG:
    case ST_EV_EFI_VARIABLE_AUTHORITY:
    case ST_EV_EFI_VARIABLE_BOOT2:
        return is_hash(alg, ev->data.p, ev->data.len, digest);
    case ST_EV_EFI_VARIABLE_BOOT:
        return is_hash(alg, ev->data.p, ev->data.len, digest) ||
               (st_event_variable(ev->data, &name, &part) && is_hash(alg, part.p, part.len, digest));
    case ST_EV_IPL:
        if (!grub_text(ev->data, &part) || is_hash(alg, part.p, part.len, digest))
            return true;
        return part.len && part.p[part.len - 1] == 0 && is_hash(alg, part.p, part.len - 1, digest);
    default:
        return true;
    }
}

int st_event_log_check(const struct st_event_log *log, struct st_err *e)
{
    for (size_t i = 0; i < log->n; i++)
        for (size_t b = 0; b < log->n_bank; b++) {
            unsigned alg = log->banks[b].alg;
            const uint8_t *digest = digest_of(log, &log->events[i], alg);
            if (digest && st_tpm_hash_len(alg) && !digest_fits(&log->events[i], alg, digest))
                return st_fail(e, ST_VERIFY, "event %zu (PCR %u, type %08x): its digest is not that of its data", i,
                               log->events[i].pcr, log->events[i].type);
        }
    return 0;
}

/* ---- replay ---- */

/* Section 10.4.5.3: PCR 0 begins with the locality from which the platform was started. */
static void start_locality(const struct st_event *ev, struct st_pcrs *out, uint32_t touched)
{
    if (ev->pcr == 0 && !(touched & 1) && ev->data.len == 17 && memcmp(ev->data.p, "StartupLocality", 16) == 0)
        out->value[0][st_tpm_hash_len(out->alg) - 1] = ev->data.p[16];
}

int st_event_log_replay(const struct st_event_log *log, struct st_pcrs *out, uint32_t *touched, struct st_err *e)
{
    size_t len = st_tpm_hash_len(out->alg);
    const char *name = st_tpm_hash_name(out->alg);
    if (!name || bank_len(log, out->alg) != len)
        return st_fail(e, ST_VERIFY, "the log has no bank %s", st_pcr_bank_name(out->alg));
    memset(out->value, 0, sizeof out->value);
    for (int i = 17; i <= 22; i++) /* of a late launch: all ones until there is one */
        memset(out->value[i], 0xff, len);
    out->has = (1u << ST_PCR_COUNT) - 1;
    *touched = 0;
    for (size_t i = 0; i < log->n; i++) {
        const struct st_event *ev = &log->events[i];
        const uint8_t *digest = digest_of(log, ev, out->alg);
        uint8_t both[128];
        if (ev->type == ST_EV_NO_ACTION) {
            start_locality(ev, out, *touched);
            continue;
        }
        if (!digest)
            return st_fail(e, ST_VERIFY, "event %zu has no digest for bank %s", i, st_pcr_bank_name(out->alg));
        memcpy(both, out->value[ev->pcr], len);
        memcpy(both + len, digest, len);
        if (EVP_Digest(both, 2 * len, out->value[ev->pcr], NULL, EVP_get_digestbyname(name), NULL) != 1)
            return st_fail(e, ST_INTERNAL, "event log: OpenSSL cannot hash");
        *touched |= 1u << ev->pcr;
    }
    return 0;
}

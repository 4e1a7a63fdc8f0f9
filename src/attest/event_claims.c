/* What an event log says that a policy can ask for. */
#include "attest/event_log.h"
#include "crypto/digest.h"

#include <stdio.h>
#include <string.h>

#define PCR_SECURE_BOOT 7
#define PCR_GRUB 8
#define PCR_STUB 12
#define MAX_CMDLINE 4096

/* Something that must not be measured twice with different contents. */
struct single {
    struct st_span v;
    bool seen, differs;
};

static void see(struct single *s, struct st_span v)
{
    if (s->seen && (s->v.len != v.len || memcmp(s->v.p, v.p, v.len) != 0))
        s->differs = true;
    s->v = v;
    s->seen = true;
}

static bool is_single(const struct single *s)
{
    return s->seen && !s->differs;
}

/* ---- variables of secure boot ---- */

static const struct {
    const char *name, *claim;
    uint8_t guid[16];
} variables[] = {
    {"SecureBoot",
     "tpm.secure_boot",
     {0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}},
    {"PK",
     "tpm.efi_pk",
     {0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}},
    {"KEK",
     "tpm.efi_kek",
     {0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}},
    {"db",
     "tpm.efi_db",
     {0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}},
    {"dbx",
     "tpm.efi_dbx",
     {0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}},
};
#define N_VARIABLE (sizeof variables / sizeof *variables)

static bool is_utf16(struct st_span s, const char *ascii)
{
    if (s.len != 2 * strlen(ascii))
        return false;
    for (size_t i = 0; i < s.len; i += 2)
        if (s.p[i] != (uint8_t)ascii[i / 2] || s.p[i + 1])
            return false;
    return true;
}

/* Of whatever type: a log can call the firmware's own separator something else. */
static bool is_separator(const struct st_event_log *log, const struct st_event *ev, unsigned alg)
{
    static const char values[3][5] = {"\0\0\0\0", "\1\0\0\0", "\377\377\377\377"};
    for (size_t i = 0; i < 3; i++)
        if (st_event_measures(log, ev, alg, values[i], 4))
            return true;
    return false;
}

static void claim_variables(const struct st_event_log *log, unsigned alg, struct st_appraisal *out)
{
    struct single found[N_VARIABLE] = {0};
    bool ended = false;
    for (size_t i = 0; i < log->n && !ended; i++) {
        const struct st_event *ev = &log->events[i];
        struct st_span name, contents;
        if (ev->pcr != PCR_SECURE_BOOT || ev->type == ST_EV_NO_ACTION)
            continue;
        ended = is_separator(log, ev, alg);
        if (ev->type != ST_EV_EFI_VARIABLE_DRIVER_CONFIG || !st_event_variable(ev->data, &name, &contents))
            continue;
        for (size_t k = 0; k < N_VARIABLE; k++)
            if (memcmp(ev->data.p, variables[k].guid, 16) == 0 && is_utf16(name, variables[k].name))
                see(&found[k], contents);
    }
    for (size_t k = 0; k < N_VARIABLE && ended; k++) {
        uint8_t digest[32];
        if (!is_single(&found[k]))
            continue;
        st_sha256(found[k].v.p, found[k].v.len, digest);
        if (k)
            st_appraisal_hex(out, variables[k].claim, digest, sizeof digest);
        else if (found[0].v.len <= 1) /* no variable at all means off */
            st_appraisal_bool(out, variables[0].claim, found[0].v.len == 1 && found[0].v.p[0] == 1);
    }
}

/* ---- the kernel's command line ---- */

/* Printable ASCII up to a NUL at the end, from bytes or from UTF-16, which has a zero behind each. */
static bool plain_text(struct st_span s, size_t step, char *out)
{
    size_t n = s.len / step;
    if (s.len % step || n > MAX_CMDLINE)
        return false;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = s.p[i * step];
        bool last = i + 1 == n;
        if ((step == 2 && s.p[i * step + 1]) || ((c < 0x20 || c > 0x7e) && !(last && c == 0)))
            return false;
        out[i] = (char)c;
    }
    out[n] = 0;
    return true;
}

/* "word=VALUE" at the beginning or behind a space, a quote or a comma; two different ones are none. */
static void claim_word(const char *line, const char *word, struct st_appraisal *out)
{
    struct single found = {0};
    size_t n = strlen(word);
    for (const char *at = line; (at = strstr(at, word)); at += n)
        if (at[n] == '=' && (at == line || strchr(" \",", at[-1])))
            see(&found, (struct st_span){(const uint8_t *)at + n + 1, strcspn(at + n + 1, " \",")});
    if (!is_single(&found) || found.v.len > 256)
        return;
    char name[64], value[257];
    memcpy(value, found.v.p, found.v.len);
    value[found.v.len] = 0;
    snprintf(name, sizeof name, "tpm.verity.%s_unsigned", word);
    st_appraisal_text(out, name, value);
}

static void claim_cmdline(const struct st_event_log *log, unsigned alg, uint32_t quoted, struct st_appraisal *out)
{
    static const char *const words[] = {"roothash", "usrhash", "root_hexdigest"};
    static const char grub[] = "kernel_cmdline: ";
    const size_t n = sizeof grub - 1;
    struct single found = {0};
    bool wide = false;
    char line[MAX_CMDLINE + 1];
    for (size_t i = 0; i < log->n; i++) {
        const struct st_event *ev = &log->events[i];
        if (ev->type != ST_EV_IPL || !(quoted >> ev->pcr & 1))
            continue;
        if (ev->pcr == PCR_GRUB && ev->data.len > n && memcmp(ev->data.p, grub, n) == 0)
            see(&found, (struct st_span){ev->data.p + n, ev->data.len - n});
        else if (ev->pcr == PCR_STUB && st_event_measures(log, ev, alg, ev->data.p, ev->data.len)) {
            see(&found, ev->data);
            wide = true;
        }
    }
    if (!is_single(&found) || !plain_text(found.v, wide ? 2 : 1, line))
        return;
    st_appraisal_text(out, "tpm.kernel_cmdline_unsigned", line);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        claim_word(line, words[i], out);
}

void st_event_log_claim(const struct st_event_log *log, unsigned alg, uint32_t quoted, struct st_appraisal *out)
{
    if (quoted >> PCR_SECURE_BOOT & 1)
        claim_variables(log, alg, out);
    claim_cmdline(log, alg, quoted, out);
}

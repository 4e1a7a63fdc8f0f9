/* The event log of a boot: what was measured into which PCR. Hostile input: unsigned, it counts only where replaying it
 * gives PCRs that a TPM quoted (or an RTMR that a TD's quote holds).
 *
 * Source: TCG, PC Client Platform Firmware Profile, 1.05, section 10: crypto-agile log, all numbers little-endian.
 *
 * The digest of an event is that of its own data for these types, and they are refused where it is not:
 *   EV_SEPARATOR, EV_S_CRTM_VERSION, EV_EFI_ACTION, EV_EFI_GPT_EVENT, EV_EFI_VARIABLE_DRIVER_CONFIG,
 *   EV_EFI_VARIABLE_AUTHORITY, EV_EFI_VARIABLE_BOOT2; EV_EFI_VARIABLE_BOOT (of the data, or of the variable's contents
 *   in it: both are in use); EV_IPL of the boot loader GRUB (of the text behind "grub_cmd: ", "kernel_cmdline: " or
 *   "module_cmdline: ").
 * For all others the digest is of something that the log does not hold (firmware, programs, tables, files) or is the
 * platform's own affair: EV_POST_CODE(2), EV_NONHOST_*, EV_S_CRTM_CONTENTS, EV_CPU_MICROCODE,
 * EV_PLATFORM_CONFIG_FLAGS, EV_TABLE_OF_DEVICES, EV_COMPACT_HASH, EV_EVENT_TAG, EV_ACTION, other EV_IPL,
 * EV_EFI_BOOT_SERVICES_*, EV_EFI_RUNTIME_SERVICES_DRIVER, EV_EFI_PLATFORM_FIRMWARE_BLOB(2), EV_EFI_HANDOFF_TABLES(2),
 * EV_EFI_HCRTM_EVENT, EV_EFI_SPDM_*. Their data is a remark that nobody vouches for, and nothing is read from it.
 * EV_NO_ACTION extends nothing. */
#ifndef ST_ATTEST_EVENT_LOG_H
#define ST_ATTEST_EVENT_LOG_H

#include "attest/appraisal.h"
#include "attest/tpm_quote.h"

#define ST_EVENT_LOG_MAX_BANKS 8
#define ST_EVENT_LOG_MAX_EVENTS 65536

#define ST_EV_NO_ACTION 0x00000003u
#define ST_EV_SEPARATOR 0x00000004u
#define ST_EV_S_CRTM_VERSION 0x00000008u
#define ST_EV_IPL 0x0000000du
#define ST_EV_EFI_VARIABLE_DRIVER_CONFIG 0x80000001u
#define ST_EV_EFI_VARIABLE_BOOT 0x80000002u
#define ST_EV_EFI_GPT_EVENT 0x80000006u
#define ST_EV_EFI_ACTION 0x80000007u
#define ST_EV_EFI_VARIABLE_BOOT2 0x8000000cu
#define ST_EV_EFI_VARIABLE_AUTHORITY 0x800000e0u

struct st_event {
    uint32_t pcr, type;
    struct st_span digests; /* u16 algorithm and digest, one behind the other */
    struct st_span data;
};
struct st_event_log {
    struct st_event *events; /* owned; without the first, which describes the log */
    size_t n;
    struct {
        unsigned alg;
        size_t len;
    } banks[ST_EVENT_LOG_MAX_BANKS];
    size_t n_bank;
};
/* Bytes of 0 or 0xff behind the last event are room that was not used. Keeps pointers into p. INPUT names the event by
 * its number. */
int st_event_log_parse(const uint8_t *p, size_t len, struct st_event_log *out, struct st_err *e) ST_MUST_CHECK;
void st_event_log_free(struct st_event_log *log);

/* Every digest that is one of data is (see above), in every bank. VERIFY names the event. */
int st_event_log_check(const struct st_event_log *log, struct st_err *e) ST_MUST_CHECK;
/* All PCRs as they are after these events, in bank out->alg; *touched: those that any event extends. VERIFY: an event
 * has no digest for this bank. */
int st_event_log_replay(const struct st_event_log *log, struct st_pcrs *out, uint32_t *touched,
                        struct st_err *e) ST_MUST_CHECK;

/* The event's digest in bank alg is that of p[len], whatever its type says. */
bool st_event_measures(const struct st_event_log *log, const struct st_event *ev, unsigned alg, const void *p,
                       size_t len);
/* UEFI_VARIABLE_DATA: GUID [16], u64 letters of the name, u64 bytes, the name in UTF-16, the contents. False when it is
 * anything else. */
bool st_event_variable(struct st_span data, struct st_span *name, struct st_span *contents);

/* Claims (event_claims.c) from events that st_event_log_check() passed, in PCRs of the set `quoted` of bank alg, whose
 * replay equals the quote:
 *   tpm.secure_boot BOOL; tpm.efi_pk, tpm.efi_kek, tpm.efi_db, tpm.efi_dbx HEX, SHA-256 of the variables (PCR 7, before
 *   the separator, which is known by its digest: only firmware writes there);
 *   tpm.kernel_cmdline_unsigned TEXT (GRUB: PCR 8; systemd-stub: PCR 12), and of its words roothash, usrhash and
 *   root_hexdigest (dm-verity) tpm.verity.WORD_unsigned.
 * The latter say that such a line was measured, not that it was the kernel's: types and the words in front of a text
 * are no part of a digest, and a system that was started with another line can give that one another name and measure a
 * good one behind it. What proves the line is the value: pin tpm.pcr.8 or tpm.pcr.12.
 * What is measured twice with different contents is not claimed at all. */
void st_event_log_claim(const struct st_event_log *log, unsigned alg, uint32_t quoted, struct st_appraisal *out);

#endif

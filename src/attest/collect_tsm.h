/* Reports of the kernel's configfs-tsm (Linux 6.7 and later, Documentation/ABI/testing/configfs-tsm): a directory is
 * made, data written to its `inblob`, the report read from `outblob`, and what else there is from `auxblob`.
 * `generation` counts writes: when it moved by anything but our own, somebody else wrote and the report may be his; it
 * is asked for again. The directory is removed in any case. Everything read is bounded. */
#ifndef ST_ATTEST_COLLECT_TSM_H
#define ST_ATTEST_COLLECT_TSM_H

#include "attest/collector.h"

#define ST_TSM_DIR "/sys/kernel/config/tsm/report"
#define ST_TSM_MAX ((size_t)64 << 10) /* bytes of a report, or of what goes with it */

/* UNSUPPORTED: no such directory, or the report would be of another kind than `provider` ("tdx_guest", "sev_guest"). */
int st_tsm_probe(const char *dir, const char *provider, struct st_err *e) ST_MUST_CHECK;
/* data [len <= 64], padded with zeros; appends report and auxblob (may be NULL; nothing when there is none). */
int st_tsm_report(const char *dir, const char *provider, const uint8_t *data, size_t len, struct st_buf *report,
                  struct st_buf *aux, struct st_err *e) ST_MUST_CHECK;

/* The certificates that a host hands to an SNP guest (GHCB specification 2.0, 4.1.8.1: rows of GUID, offset and length,
 * ended by zeros, then the data): each goes to `found`; what they are is told from their content. INPUT: malformed. */
int st_snp_cert_table(const uint8_t *p, size_t len,
                      int (*found)(void *ctx, const uint8_t *cert, size_t n, struct st_err *e), void *ctx,
                      struct st_err *e) ST_MUST_CHECK;

#endif

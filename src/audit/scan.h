/* Looks for known bytes in the memory of a process: every mapping of /proc/PID/smaps is read through /proc/PID/mem.
 * What is found in areas that the kernel leaves out of dumps (flag dd: base/locked.h, base/secret.h) is counted apart.
 *
 * The patterns themselves are kept XORed with a byte, so that a process that scans itself does not find its own list;
 * whoever makes the list must do so in another process. */
#ifndef ST_AUDIT_SCAN_H
#define ST_AUDIT_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { ST_SCAN_LEN = 32, ST_SCAN_MAX = 4096, ST_SCAN_XOR = 0x5a, ST_SCAN_SLOTS = 1 << 14 };

struct st_scan_patterns {
    size_t n;
    uint8_t p[ST_SCAN_MAX][ST_SCAN_LEN];        /* each byte ^ ST_SCAN_XOR */
    uint16_t slot[ST_SCAN_SLOTS];               /* by the first four bytes; number + 1, 0 = free */
    bool open[ST_SCAN_MAX], apart[ST_SCAN_MAX]; /* found in ordinary memory; in areas left out of dumps */
};

struct st_scan_result {
    size_t n_open, n_apart;              /* patterns found in ordinary memory; in areas left out of dumps */
    uint64_t scanned, unreadable, apart; /* bytes */
    char where[160];                     /* the first mapping of ordinary memory that holds one */
};

/* p is plain; false: the list is full. */
bool st_scan_add(struct st_scan_patterns *s, const uint8_t *p);
/* Marks in `found`; true when one is there. */
bool st_scan_bytes(const struct st_scan_patterns *s, const uint8_t *p, size_t len, bool *found);
/* pid: of this process or another. Ends early once all are found in ordinary memory. -1 with errno when its memory
 * cannot be opened or read at all. */
int st_scan_process(pid_t pid, struct st_scan_patterns *s, struct st_scan_result *out);
/* A core file or another, as one area. -1 with errno. */
int st_scan_file(const char *path, struct st_scan_patterns *s, struct st_scan_result *out);

#endif

/* peer_scan PID FILE: looks for the 32-byte patterns of FILE, each byte XORed with 0x5a, in the memory of a process
 * (audit/scan.h). Prints one JSON object; exit status 1 when the memory cannot be read. For
 * tests/interop/test_sealed_host.py.
 */
#include "audit/scan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    static struct st_scan_patterns s;
    struct st_scan_result r;
    uint8_t p[ST_SCAN_LEN];
    FILE *f = argc == 3 ? fopen(argv[2], "rb") : NULL;
    if (!f)
        return 2;
    while (fread(p, 1, sizeof p, f) == sizeof p) {
        for (int i = 0; i < ST_SCAN_LEN; i++)
            p[i] ^= ST_SCAN_XOR;
        st_scan_add(&s, p);
    }
    fclose(f);
    if (st_scan_process((pid_t)atoi(argv[1]), &s, &r)) {
        printf("{\"error\":\"%s\"}\n", strerror(errno));
        return 1;
    }
    printf("{\"patterns\":%zu,\"open\":%zu,\"apart\":%zu,\"scanned\":%llu,\"unreadable\":%llu,\"dont_dump\":%llu,"
           "\"where\":\"%s\"}\n",
           s.n, r.n_open, r.n_apart, (unsigned long long)r.scanned, (unsigned long long)r.unreadable,
           (unsigned long long)r.apart, r.where);
    return 0;
}

/* peer_scan PID FILE: looks for the 32-byte patterns of FILE, each byte XORed with 0x5a, in the memory of a process
 * (scan.h). Prints one JSON object; exit status 1 when the memory cannot be read. For
 * tests/interop/test_sealed_host.py.
 */
#include "scan.h"

int main(int argc, char **argv)
{
    static struct scan_patterns s;
    struct scan_result r;
    uint8_t p[SCAN_LEN];
    FILE *f = argc == 3 ? fopen(argv[2], "rb") : NULL;
    if (!f)
        return 2;
    while (fread(p, 1, sizeof p, f) == sizeof p) {
        for (int i = 0; i < SCAN_LEN; i++)
            p[i] ^= SCAN_XOR;
        scan_add(&s, p);
    }
    fclose(f);
    if (scan_process((pid_t)atoi(argv[1]), &s, &r)) {
        printf("{\"error\":\"%s\"}\n", strerror(errno));
        return 1;
    }
    printf("{\"patterns\":%zu,\"open\":%zu,\"apart\":%zu,\"scanned\":%llu,\"unreadable\":%llu,\"dont_dump\":%llu,"
           "\"where\":\"%s\"}\n",
           s.n, r.n_open, r.n_apart, (unsigned long long)r.scanned, (unsigned long long)r.unreadable,
           (unsigned long long)r.apart, r.where);
    return 0;
}

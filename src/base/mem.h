/* Memory of the machine: how much there is, and large zeroed areas that cost nothing until they are touched. */
#ifndef ST_BASE_MEM_H
#define ST_BASE_MEM_H

#include "base/err.h"

#include <stddef.h>

/* Bytes that can still be used without swapping (MemAvailable of /proc/meminfo, or less when the process's limit on
 * address space is lower); SIZE_MAX when the system does not say. */
size_t st_mem_available(void);

/* Highest resident size of this program so far (VmHWM of /proc; getrusage would count the program that started it as
 * well); 0 when the system does not say. */
size_t st_mem_peak(void);

/* A zeroed area of n * size bytes whose pages come into being when they are first written. Page-aligned.
 * MEMORY names `what`. len keeps the length for st_area_free. */
struct st_area {
    void *p;
    size_t len;
};
int st_area_new(struct st_area *a, size_t n, size_t size, const char *what, struct st_err *e) ST_MUST_CHECK;
void st_area_free(struct st_area *a);
/* Asks for pages of 2 MiB, where the system has them, before the area is first written: for areas that are used as a
 * whole and read in long pieces. A matter of speed. */
void st_area_huge(const struct st_area *a);

/* Brings memory into the caches of this processor by reading of every line. (Prefetch instructions are dropped when
 * more of them come than the processor has places for, after a few lines.) */
void st_warm(const void *p, size_t len);

/* "12.3 MiB" into out (also returned), for messages. */
#define ST_MEM_TEXT 24
const char *st_mem_text(size_t bytes, char out[ST_MEM_TEXT]);

#endif

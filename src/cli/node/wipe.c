/* Every block that this program frees is overwritten first. Prompts and replies pass through libraries (libcurl,
 * libevent, jansson), which do not do so themselves; with these definitions, which take the place of the C library's,
 * nothing of a request outlives it in freed memory. Built-in sanitizers bring an allocator of their own.
 * Limit: stacks, registers and the kernel's socket buffers. */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#if defined(__GLIBC__) && !defined(SANITIZED)
void *__libc_malloc(size_t n);
void __libc_free(void *p);

void free(void *p)
{
    const int err = errno;
    if (p)
        explicit_bzero(p, malloc_usable_size(p));
    __libc_free(p);
    errno = err;
}

/* Never in place: the C library would free the old block as it is. */
void *realloc(void *p, size_t n)
{
    if (!p)
        return __libc_malloc(n);
    if (n == 0) {
        free(p);
        return NULL;
    }
    const size_t had = malloc_usable_size(p);
    if (n <= had && n > had / 2)
        return p;
    void *q = __libc_malloc(n);
    if (!q)
        return NULL;
    memcpy(q, p, had < n ? had : n);
    free(p);
    return q;
}
#endif

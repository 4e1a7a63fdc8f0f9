#include "protect/masked/scratch.h"

#include <openssl/crypto.h>
#include <sys/mman.h>

int st_scratch_new(struct st_area *a, size_t len, struct st_err *e)
{
    if (st_area_new(a, len, 1, "secrets of pads", e))
        return e->code;
    (void)madvise(a->p, a->len, MADV_DONTDUMP);
    (void)madvise(a->p, a->len, MADV_WIPEONFORK);
    (void)mlock(a->p, a->len);
    return 0;
}

void st_scratch_free(struct st_area *a)
{
    if (a->p)
        OPENSSL_cleanse(a->p, a->len);
    st_area_free(a);
}

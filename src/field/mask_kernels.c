#include "field/mask_kernels.h"
#include "tensor/kernels.h"

const struct st_mask_kernels *st_mask_kernels(void)
{
#if defined(__x86_64__)
    if (st_cpu_has_avx512())
        return &st_mask_avx512;
    if (st_cpu_has_avx2())
        return &st_mask_avx2;
#endif
    return &st_mask_ref;
}

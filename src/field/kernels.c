#include "field/kernels.h"
#include "tensor/kernels.h"

const struct st_field_kernels *st_field_kernels(void)
{
#if defined(__x86_64__)
    if (st_cpu_has_avx512())
        return &st_field_avx512;
    if (st_cpu_has_avx2())
        return &st_field_avx2;
#endif
    return &st_field_ref;
}

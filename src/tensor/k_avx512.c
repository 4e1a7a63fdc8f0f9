#include "tensor/kernels.h"

const struct st_kernels st_kernels_avx512 = {.isa = "avx512"};

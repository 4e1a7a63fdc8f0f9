#include "tensor/kernels.h"

static void dot(const struct st_limb_dot *t)
{
    for (uint32_t i = 0; i < t->n_s; i++)
        for (uint32_t j = 0; j < t->n_u; j++) {
            const int8_t *s = t->s + i * t->lds;
            const uint8_t *u = t->u + j * t->ldu;
            int32_t sum = 0;
            for (uint32_t k = 0; k < t->n_k; k++)
                sum += s[k] * u[k];
            t->sum[i * ST_LIMB_U + j] += sum;
        }
}

const struct st_limb_kernels st_limb_ref = {.dot = dot};

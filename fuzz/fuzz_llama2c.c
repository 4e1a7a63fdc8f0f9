/* Any bytes as a llama2.c file: refused, or every tensor lies inside the bytes. */
#include "model/ckpt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_tensors l = {0};
    struct st_config c;
    struct st_err e;
    if (st_llama2c_parse(data, size, "fuzz", &c, &l, &e) == 0) {
        volatile uint8_t sum = 0;
        for (size_t i = 0; i < l.n; i++)
            for (size_t j = 0; j < l.at[i].bytes; j++)
                sum = (uint8_t)(sum + ((const uint8_t *)l.at[i].data)[j]);
    }
    st_tensors_free(&l);
    return 0;
}

/* Any bytes as model.safetensors.index.json: refused, or only plain file names come out. */
#include "model/ckpt.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_ckpt_index x;
    struct st_tensors none = {0};
    struct st_err e;
    if (st_ckpt_index_parse(data, size, "fuzz", &x, &e))
        return 0;
    for (size_t i = 0; i < x.n_file; i++) {
        if (strchr(x.files[i], '/') || strstr(x.files[i], ".."))
            abort();
        if (st_ckpt_index_check(&x, &none, 0, x.files[i], "fuzz", &e) == 0)
            abort(); /* the map names at least one tensor of each file, and there is none */
    }
    st_ckpt_index_free(&x);
    return 0;
}

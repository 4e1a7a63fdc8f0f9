#include "model/digest.h"
#include "model/kit.h"

#include <string.h>

int st_model_digest(const char *path, bool progress, uint8_t out[32], struct st_err *e)
{
    struct st_kit kit;
    if (!st_kit_is(path))
        return st_model_measure(path, progress, out, e);
    if (st_kit_read(path, &kit, e))
        return e->code;
    memcpy(out, kit.digest, sizeof kit.digest);
    return 0;
}

#include "model/digest.h"
#include "model/container.h"
#include "model/kit.h"

#include <string.h>

static int digest_container(const char *path, uint8_t out[32], struct st_err *e)
{
    struct st_container *c;
    struct st_container_about about;
    if (st_container_open(path, &c, e))
        return e->code;
    st_container_about(c, &about);
    memcpy(out, about.digest, sizeof about.digest);
    st_container_close(c);
    return 0;
}

int st_model_digest(const char *path, bool progress, uint8_t out[32], struct st_err *e)
{
    struct st_kit kit;
    if (st_container_is(path))
        return digest_container(path, out, e);
    if (!st_kit_is(path))
        return st_model_measure(path, progress, out, e);
    if (st_kit_read(path, &kit, e))
        return e->code;
    memcpy(out, kit.digest, sizeof kit.digest);
    return 0;
}

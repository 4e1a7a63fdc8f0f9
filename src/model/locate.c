#include "model/locate.h"

#include <stdio.h>
#include <string.h>

const char *st_locate_tokenizer_in(const struct st_texts *t)
{
    static const char *const inside[] = {"tokenizer.json", "tokenizer.model", "tokenizer.bin"};
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
        if (st_texts_has(t, inside[i]))
            return inside[i];
    return NULL;
}

int st_locate_tokenizer(const char *model_path, char out[ST_PATH_MAX], struct st_err *e)
{
    static const char *const beside[] = {"tokenizer.bin", "tok512.bin"};
    if (strlen(model_path) >= ST_PATH_MAX - 32)
        return st_fail(e, ST_USAGE, "MODEL: the path is longer than %d bytes", ST_PATH_MAX - 32);
    if (st_path_is_dir(model_path)) {
        const char *name = st_locate_tokenizer_in(&(struct st_texts){.path = model_path});
        snprintf(out, ST_PATH_MAX, "%s/%s", model_path, name ? name : "");
        return name ? 0 : st_fail(e, ST_IO, "%s: " ST_LOCATE_NONE, model_path);
    }
    if (st_container_is(model_path)) {
        snprintf(out, ST_PATH_MAX, "%s", model_path);
        return 0;
    }
    const char *slash = strrchr(model_path, '/');
    int dir = slash ? (int)(slash - model_path + 1) : 0;
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
        snprintf(out, ST_PATH_MAX, "%.*s%s", dir, model_path, beside[i]);
        if (st_path_exists(out))
            return 0;
    }
    return st_fail(e, ST_USAGE, "%s: no tokenizer.bin or tok512.bin beside it; name its tokenizer", model_path);
}

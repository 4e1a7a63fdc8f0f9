#include "model/locate.h"

#include <stdio.h>
#include <string.h>

int st_locate_tokenizer(const char *model_path, char out[ST_PATH_MAX], struct st_err *e)
{
    static const char *const inside[] = {"tokenizer.json", "tokenizer.model", "tokenizer.bin"};
    static const char *const beside[] = {"tokenizer.bin", "tok512.bin"};
    if (strlen(model_path) >= ST_PATH_MAX - 32)
        return st_fail(e, ST_USAGE, "MODEL: the path is longer than %d bytes", ST_PATH_MAX - 32);
    if (st_path_is_dir(model_path)) {
        for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
            snprintf(out, ST_PATH_MAX, "%s/%s", model_path, inside[i]);
            if (st_path_exists(out))
                return 0;
        }
        return st_fail(e, ST_IO, "%s: no tokenizer.json, tokenizer.model or tokenizer.bin", model_path);
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

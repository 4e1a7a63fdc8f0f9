#include "model/arch.h"

#include <stdio.h>
#include <string.h>

#define ST_ARCH(symbol) extern const struct st_arch symbol;
#include "model/archs.def"
#undef ST_ARCH

static const struct st_arch *const archs[] = {
#define ST_ARCH(symbol) &symbol,
#include "model/archs.def"
#undef ST_ARCH
};

#define N_ARCH (sizeof archs / sizeof archs[0])

int st_arch_find(const char *name, const struct st_arch **out, struct st_err *e)
{
    char known[256] = "";
    size_t len = 0;
    for (size_t i = 0; i < N_ARCH; i++) {
        if (strcmp(archs[i]->name, name) == 0) {
            *out = archs[i];
            return 0;
        }
        int n = snprintf(known + len, sizeof known - len, "%s%s", i ? ", " : "", archs[i]->name);
        len = len + (size_t)n < sizeof known ? len + (size_t)n : sizeof known - 1;
    }
    return st_fail(e, ST_UNSUPPORTED, "architecture '%.64s' is not supported; supported: %s", name, known);
}

int st_arch_qwen_window(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    bool use = false;
    int64_t window = 4096, from = 28; /* defaults of transformers */
    const json_t *types = json_object_get(json, "layer_types");
    int rc = st_json_bool(json, where, "use_sliding_window", &use, e);
    if (!rc)
        rc = st_json_int(json, where, "sliding_window", 1, UINT32_MAX, &window, e);
    if (!rc)
        rc = st_json_int(json, where, "max_window_layers", 0, UINT32_MAX, &from, e);
    if (rc)
        return rc;
    if (types && json_is_null(types))
        types = NULL;
    if (types && (!json_is_array(types) || json_array_size(types) != c->n_layer))
        return st_fail(e, ST_INPUT, "%s: layer_types: want a list of num_hidden_layers = %u names", where, c->n_layer);

    /* An explicit null means no window, whatever the other fields say. */
    const json_t *given = json_object_get(json, "sliding_window");
    bool has_window = use && !(given && json_is_null(given));
    uint32_t n_sliding = 0;
    for (uint32_t l = 0; l < c->n_layer; l++) {
        bool sliding = has_window && (int64_t)l >= from;
        if (types) {
            const char *name = json_string_value(json_array_get(types, l));
            sliding = name && strcmp(name, "sliding_attention") == 0;
            if (!sliding && !(name && strcmp(name, "full_attention") == 0))
                return st_fail(
                    e, ST_UNSUPPORTED,
                    "%s: layer_types: '%.40s' is not supported; supported: full_attention, sliding_attention", where,
                    name ? name : "(not a string)");
        }
        /* The reference gives a sliding layer without a window full attention. */
        n_sliding += sliding && has_window;
    }
    if (n_sliding && n_sliding != c->n_layer)
        return st_fail(e, ST_UNSUPPORTED,
                       "%s: use_sliding_window: %u of %u layers have a sliding window; only all or none is supported",
                       where, n_sliding, c->n_layer);
    c->sliding_window = n_sliding ? (uint32_t)window : 0;
    return 0;
}

#include "model/adapter_config.h"
#include "text/json.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NAMES 65536u    /* of one list */
#define MAX_PATTERN 4096u   /* bytes of a regex */
#define MATCH_LIMIT 100000u /* steps of one match: milliseconds */
#define MAX_ALPHA 1e9

/* What selects modules: a list of name endings, or a regex; neither = nothing given. */
struct selector {
    const json_t *names;
    pcre2_code *regex;
};

/* rank_pattern or alpha_pattern: the first that fits decides. */
struct pattern {
    pcre2_code *regex;
    double value;
};
struct patterns {
    struct pattern *p;
    size_t n;
};

struct st_adapter_config {
    json_t *json; /* owns the lists */
    char *where;
    struct selector targets, excluded, parameters;
    struct patterns ranks, alphas;
    const json_t *layers; /* layers_to_transform: an integer or a list; NULL = all */
    bool no_layer;        /* layers_pattern names layers that these models do not have */
    int64_t rank;
    double alpha;
    bool rslora;
    pcre2_match_data *match;
    pcre2_match_context *context;
};

/* They say where the adapter came from or how it was trained; after training they change nothing. */
static const char *const no_effect[] = {"task_type",  "auto_mapping",      "peft_version",   "base_model_name_or_path",
                                        "revision",   "inference_mode",    "lora_dropout",   "megatron_core",
                                        "eva_config", "qalora_group_size", "runtime_config", NULL};
static const char *const read_here[] = {"peft_type",
                                        "r",
                                        "lora_alpha",
                                        "target_modules",
                                        "exclude_modules",
                                        "use_rslora",
                                        "rank_pattern",
                                        "alpha_pattern",
                                        "layers_pattern",
                                        "target_parameters",
                                        "bias",
                                        "layers_to_transform",
                                        "init_lora_weights",
                                        NULL};

static bool listed(const char *const *list, const char *name)
{
    for (; *list; list++)
        if (strcmp(*list, name) == 0)
            return true;
    return false;
}

static bool is_neutral(const json_t *v)
{
    return json_is_null(v) || json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

static int refuse_fields(const struct st_adapter_config *c, struct st_err *e)
{
    const char *name;
    json_t *v;
    json_object_foreach(c->json, name, v)
    {
        if (!listed(no_effect, name) && !listed(read_here, name) && !is_neutral(v))
            return st_fail(e, ST_UNSUPPORTED, "%s: %.64s: is not supported; want it null, false, empty or left out",
                           c->where, name);
    }
    return 0;
}

/* Initialisations that change the weights of the base: what was trained fits a base that is not the one on disk. */
static int check_init(const struct st_adapter_config *c, struct st_err *e)
{
    static const char *const fine[] = {"gaussian", "eva", "orthogonal", NULL};
    const json_t *v = json_object_get(c->json, "init_lora_weights");
    const char *word = json_string_value(v);
    if (!v || json_is_null(v) || json_is_boolean(v) || (word && listed(fine, word)))
        return 0;
    return st_fail(e, ST_UNSUPPORTED,
                   "%s: init_lora_weights: '%.32s' changes the base; convert the adapter for the unchanged base when "
                   "saving it (path_initial_model_for_weight_conversion)",
                   c->where, word ? word : "?");
}

static int compile(const struct st_adapter_config *c, const char *field, const char *pattern, size_t len,
                   pcre2_code **out, struct st_err *e)
{
    int code;
    PCRE2_SIZE at;
    if (len > MAX_PATTERN)
        return st_fail(e, ST_INPUT, "%s: %s: a pattern of %zu bytes; at most %u are accepted", c->where, field, len,
                       MAX_PATTERN);
    *out = pcre2_compile((PCRE2_SPTR)pattern, len, PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C, &code,
                         &at, NULL);
    return *out ? 0 : st_fail(e, ST_INPUT, "%s: %s: this regex cannot be read", c->where, field);
}

/* A list of names, or a regex. */
static int read_selector(const struct st_adapter_config *c, const char *field, struct selector *s, struct st_err *e)
{
    const json_t *v = json_object_get(c->json, field);
    if (!v || json_is_null(v))
        return 0;
    if (json_is_string(v))
        return compile(c, field, json_string_value(v), json_string_length(v), &s->regex, e);
    bool ok = json_is_array(v) && json_array_size(v) <= MAX_NAMES;
    for (size_t i = 0; ok && i < json_array_size(v); i++)
        ok = json_is_string(json_array_get(v, i));
    if (!ok)
        return st_fail(e, ST_INPUT, "%s: %s: want a list of at most %u names, or a regex", c->where, field, MAX_NAMES);
    if (json_array_size(v))
        s->names = v;
    return 0;
}

/* An object of numbers by pattern; peft matches the end of a module's name against (.*\.)?(PATTERN). */
static int read_patterns(const struct st_adapter_config *c, const char *field, double min, double max, bool whole,
                         struct patterns *out, struct st_err *e)
{
    const json_t *o = json_object_get(c->json, field);
    const char *key;
    json_t *v;
    if (!o || json_is_null(o))
        return 0;
    if (!json_is_object(o) || json_object_size(o) > MAX_NAMES)
        return st_fail(e, ST_INPUT, "%s: %s: want an object of at most %u numbers", c->where, field, MAX_NAMES);
    if (st_alloc(&out->p, json_object_size(o), sizeof *out->p, field, e))
        return e->code;
    json_object_foreach((json_t *)o, key, v)
    {
        double value = json_number_value(v);
        struct st_buf text = {0};
        if (whole ? !json_is_integer(v) : !json_is_number(v))
            value = max + 1;
        if (!(value >= min && value <= max))
            return st_fail(e, ST_INPUT, "%s: %s: %.64s: want a%s number in %g..%g", c->where, field, key,
                           whole ? " whole" : "", min, max);
        st_buf_addf(&text, "(.*\\.)?(%s)", key);
        int rc = text.failed ? st_fail(e, ST_MEMORY, "%s: %s: no memory for its patterns", c->where, field)
                             : compile(c, field, text.p, text.len, &out->p[out->n].regex, e);
        st_buf_free(&text);
        if (rc)
            return rc;
        out->p[out->n++].value = value;
    }
    return 0;
}

static bool is_layer(const json_t *v)
{
    return json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) < INT32_MAX;
}

/* layers_to_transform, and the word that stands before the number of a layer in names. */
static int read_layers(struct st_adapter_config *c, struct st_err *e)
{
    const json_t *v = json_object_get(c->json, "layers_to_transform"),
                 *word = json_object_get(c->json, "layers_pattern");
    bool ok = !v || json_is_null(v) || is_layer(v) || (json_is_array(v) && json_array_size(v) <= MAX_NAMES);
    for (size_t i = 0; ok && i < json_array_size(v); i++)
        ok = is_layer(json_array_get(v, i));
    if (!ok)
        return st_fail(e, ST_INPUT, "%s: layers_to_transform: want the number of a layer, or a list of them", c->where);
    if (is_layer(v) || json_array_size(v))
        c->layers = v;
    if (!word || is_neutral(word) || (json_is_string(word) && json_string_length(word) == 0))
        return 0;
    c->no_layer = true;
    if (json_is_string(word))
        c->no_layer = strcmp(json_string_value(word), "layers") != 0;
    for (size_t i = 0; json_is_array(word) && i < json_array_size(word); i++) {
        const char *one = json_string_value(json_array_get(word, i));
        if (one && strcmp(one, "layers") == 0)
            c->no_layer = false;
    }
    if (!json_is_string(word) && !json_is_array(word))
        return st_fail(e, ST_INPUT, "%s: layers_pattern: want a name or a list of names", c->where);
    return 0;
}

static int read_fields(struct st_adapter_config *c, struct st_err *e)
{
    const char *type = NULL, *bias = "none";
    if (st_json_need(c->json, c->where, "peft_type", e) || st_json_str(c->json, c->where, "peft_type", &type, e) ||
        st_json_str(c->json, c->where, "bias", &bias, e))
        return e->code;
    if (strcmp(type, "LORA") != 0)
        return st_fail(e, ST_UNSUPPORTED, "%s: peft_type: '%.32s' is not supported; supported: LORA", c->where, type);
    if (strcmp(bias, "none") != 0)
        return st_fail(e, ST_UNSUPPORTED, "%s: bias: '%.32s' is not supported; supported: none", c->where, bias);
    c->rank = c->alpha = 8; /* as peft */
    if (refuse_fields(c, e) || check_init(c, e) ||
        st_json_int(c->json, c->where, "r", 1, ST_ADAPTER_MAX_RANK, &c->rank, e) ||
        st_json_real(c->json, c->where, "lora_alpha", -MAX_ALPHA, MAX_ALPHA, &c->alpha, e) ||
        st_json_bool(c->json, c->where, "use_rslora", &c->rslora, e) ||
        read_selector(c, "target_modules", &c->targets, e) || read_selector(c, "exclude_modules", &c->excluded, e) ||
        read_selector(c, "target_parameters", &c->parameters, e) ||
        read_patterns(c, "rank_pattern", 1, ST_ADAPTER_MAX_RANK, true, &c->ranks, e) ||
        read_patterns(c, "alpha_pattern", -MAX_ALPHA, MAX_ALPHA, false, &c->alphas, e) || read_layers(c, e))
        return e->code;
    if (c->parameters.regex)
        return st_fail(e, ST_INPUT, "%s: target_parameters: want a list of names", c->where);
    if (!c->targets.names && !c->targets.regex && !c->parameters.names)
        return st_fail(e, ST_INPUT, "%s: target_modules: want a list of names, or a regex", c->where);
    return 0;
}

int st_adapter_config_parse(const void *p, size_t len, const char *where, struct st_adapter_config **out,
                            struct st_err *e)
{
    struct st_adapter_config *c;
    *out = NULL;
    if (st_alloc(&c, 1, sizeof *c, "adapter", e))
        return e->code;
    c->where = strdup(where);
    c->match = pcre2_match_data_create(1, NULL);
    c->context = pcre2_match_context_create(NULL);
    int rc = c->where && c->match && c->context ? st_json_parse(p, len, where, &c->json, e)
                                                : st_fail(e, ST_MEMORY, "%s: no memory to read it", where);
    if (!rc) {
        pcre2_set_match_limit(c->context, MATCH_LIMIT);
        rc = json_is_object(c->json) ? read_fields(c, e) : st_fail(e, ST_INPUT, "%s: want an object", where);
    }
    if (rc)
        st_adapter_config_free(c);
    else
        *out = c;
    return rc;
}

static void free_patterns(struct patterns *p)
{
    for (size_t i = 0; i < p->n; i++)
        pcre2_code_free(p->p[i].regex);
    free(p->p);
}

void st_adapter_config_free(struct st_adapter_config *c)
{
    if (!c)
        return;
    pcre2_code_free(c->targets.regex);
    pcre2_code_free(c->excluded.regex);
    pcre2_code_free(c->parameters.regex);
    free_patterns(&c->ranks);
    free_patterns(&c->alphas);
    pcre2_match_data_free(c->match);
    pcre2_match_context_free(c->context);
    json_decref(c->json);
    free(c->where);
    free(c);
}

static int matches(const struct st_adapter_config *c, const char *field, const pcre2_code *regex, const char *module,
                   bool *out, struct st_err *e)
{
    int rc = pcre2_match(regex, (PCRE2_SPTR)module, strlen(module), 0, 0, c->match, c->context);
    *out = rc >= 0;
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return 0;
    return st_fail(e, ST_INPUT, "%s: %s: matching its regex with %.120s comes to no end", c->where, field, module);
}

/* "q_proj" ends "model.layers.0.self_attn.q_proj". */
static bool ends(const char *module, const char *name, size_t len)
{
    size_t n = strlen(module);
    return len <= n && memcmp(module + n - len, name, len) == 0 && (len == n || module[n - len - 1] == '.');
}

static bool in_list(const json_t *names, const char *name)
{
    for (size_t i = 0; i < json_array_size(names); i++) {
        const json_t *one = json_array_get(names, i);
        if (ends(name, json_string_value(one), json_string_length(one)))
            return true;
    }
    return false;
}

bool st_adapter_config_parameter(const struct st_adapter_config *c, const char *name)
{
    return in_list(c->parameters.names, name);
}

static int selects(const struct st_adapter_config *c, const char *field, const struct selector *s, const char *module,
                   bool *out, struct st_err *e)
{
    *out = false;
    if (s->regex)
        return matches(c, field, s->regex, module, out, e);
    *out = in_list(s->names, module);
    return 0;
}

static bool in_layers(const struct st_adapter_config *c, int layer)
{
    if (layer < 0 || c->no_layer)
        return false;
    if (json_is_integer(c->layers))
        return json_integer_value(c->layers) == layer;
    for (size_t i = 0; i < json_array_size(c->layers); i++)
        if (json_integer_value(json_array_get(c->layers, i)) == layer)
            return true;
    return false;
}

int st_adapter_config_targets(const struct st_adapter_config *c, const char *module, int layer, bool *out,
                              struct st_err *e)
{
    bool no = false;
    *out = false;
    if (selects(c, "exclude_modules", &c->excluded, module, &no, e) || no)
        return no ? 0 : e->code;
    if (selects(c, "target_modules", &c->targets, module, out, e))
        return e->code;
    /* Layers narrow lists only, not a regex. */
    if (*out && c->targets.names && c->layers)
        *out = in_layers(c, layer);
    return 0;
}

static int find(const struct st_adapter_config *c, const char *field, const struct patterns *p, const char *module,
                double *value, struct st_err *e)
{
    for (size_t i = 0; i < p->n; i++) {
        bool yes;
        if (matches(c, field, p->p[i].regex, module, &yes, e))
            return e->code;
        if (yes) {
            *value = p->p[i].value;
            return 0;
        }
    }
    return 0;
}

int st_adapter_config_rank(const struct st_adapter_config *c, const char *module, uint32_t *rank, float *scale,
                           struct st_err *e)
{
    double r = (double)c->rank, alpha = c->alpha;
    if (find(c, "rank_pattern", &c->ranks, module, &r, e) || find(c, "alpha_pattern", &c->alphas, module, &alpha, e))
        return e->code;
    *rank = (uint32_t)r;
    *scale = (float)(alpha / (c->rslora ? sqrt(r) : r));
    return 0;
}

#include "audit/gate.h"

#include "text/json.h"

#include <stdio.h>
#include <string.h>

static int take_word(const json_t *o, const char *where, const char *key, char *out, size_t cap, struct st_err *e)
{
    const char *s = NULL;
    if (st_json_str(o, where, key, &s, e))
        return e->code;
    if (s && strlen(s) >= cap)
        return st_fail(e, ST_INPUT, "%s: %s: want at most %zu bytes", where, key, cap - 1);
    snprintf(out, cap, "%s", s ? s : "");
    return 0;
}

static int parse_limit(const json_t *o, const char *where, struct st_gate_limit *l, struct st_err *e)
{
    static const char *const names[] = {"attack", "variant", "max", "comment", NULL};
    *l = (struct st_gate_limit){.max = 0};
    int rc = json_is_object(o) ? st_json_only(o, where, names, e) : st_fail(e, ST_INPUT, "%s: want an object", where);
    if (!rc)
        rc = st_json_need(o, where, "attack", e);
    if (!rc)
        rc = st_json_need(o, where, "max", e);
    if (!rc)
        rc = take_word(o, where, "attack", l->attack, sizeof l->attack, e);
    if (!rc)
        rc = take_word(o, where, "variant", l->variant, sizeof l->variant, e);
    return rc ? rc : st_json_real(o, where, "max", 0, 1, &l->max, e);
}

static int parse_list(const json_t *top, const char *where, struct st_gate *out, struct st_err *e)
{
    const json_t *list = json_object_get(top, "limits");
    if (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > ST_GATE_MAX)
        return st_fail(e, ST_INPUT, "%s: limits: want an array of 1 to %d objects", where, ST_GATE_MAX);
    int rc = 0;
    for (size_t i = 0; !rc && i < json_array_size(list); i++) {
        char at[160];
        snprintf(at, sizeof at, "%.100s: limits[%zu]", where, i);
        rc = parse_limit(json_array_get(list, i), at, &out->limits[i], e);
        out->n = i + 1;
    }
    return rc;
}

int st_gate_parse(const void *p, size_t len, const char *where, struct st_gate *out, struct st_err *e)
{
    static const char *const names[] = {"version", "limits", "comment", NULL};
    json_t *o;
    int64_t version = 0;
    out->n = 0;
    if (st_json_parse(p, len, where, &o, e))
        return e->code;
    int rc = json_is_object(o) ? st_json_only(o, where, names, e) : st_fail(e, ST_INPUT, "%s: want an object", where);
    if (!rc)
        rc = st_json_need(o, where, "version", e);
    if (!rc)
        rc = st_json_int(o, where, "version", 0, INT64_MAX, &version, e);
    if (!rc && version != 1)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: version: want 1", where);
    if (!rc)
        rc = parse_list(o, where, out, e);
    json_decref(o);
    if (rc)
        out->n = 0;
    return rc;
}

static bool meets(const struct st_gate_limit *l, const struct st_row *r)
{
    size_t n = strlen(l->variant);
    if (strcmp(l->attack, "*") != 0 && strcmp(l->attack, r->attack) != 0)
        return false;
    return strncmp(l->variant, r->variant, n) == 0 && (!n || !r->variant[n] || r->variant[n] == ',');
}

int st_gate_judge(const struct st_gate *g, const struct st_rows *rows, struct st_err *e)
{
    char names[380] = "";
    size_t n_over = 0;
    for (size_t i = 0; i < g->n; i++) {
        const struct st_gate_limit *l = &g->limits[i];
        size_t n_met = 0;
        for (size_t k = 0; k < rows->n; k++) {
            const struct st_row *r = &rows->at[k];
            if (!meets(l, r))
                continue;
            n_met++;
            if (r->low <= l->max)
                continue;
            size_t at = strlen(names);
            if (at + 100 < sizeof names)
                snprintf(names + at, sizeof names - at, "%s%s (%.60s) %.3g, want at most %.3g", n_over ? "; " : "",
                         r->attack, r->variant, r->score, l->max);
            n_over++;
        }
        if (!n_met)
            return st_fail(e, ST_POLICY, "gate: limits[%zu]: no row of %s %s was measured", i, l->attack, l->variant);
    }
    return n_over ? st_fail(e, ST_POLICY, "gate: %zu row%s over the limit: %s", n_over, n_over == 1 ? "" : "s", names)
                  : 0;
}

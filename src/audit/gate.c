#include "audit/gate.h"

#include "text/json.h"

#include <inttypes.h>
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
    static const char *const names[] = {"attack", "variant", "max", "min_n", "comment", NULL};
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
    if (!rc)
        rc = st_json_int(o, where, "min_n", 1, INT64_MAX, &l->min_n, e);
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

static bool of_attack(const struct st_gate_limit *l, const char *attack)
{
    return strcmp(l->attack, "*") == 0 || strcmp(l->attack, attack) == 0;
}

/* Up to the end of `whole`, or a comma in it. */
static bool begins(const char *whole, const char *part)
{
    size_t n = strlen(part);
    return strncmp(whole, part, n) == 0 && (!n || !whole[n] || whole[n] == ',');
}

/* Whether rows that the limit is about could be missing: the variants of a target begin with its label. */
static bool misses(const struct st_gate_limit *l, const struct st_not_run *x)
{
    return x->code != ST_UNSUPPORTED && of_attack(l, x->attack) &&
           (begins(x->label, l->variant) || begins(l->variant, x->label));
}

/* Names of the rows that fail, as far as there is room. */
struct failed {
    size_t n;
    char names[380];
};

static void judge_row(const struct st_gate_limit *l, const struct st_row *r, struct failed *out)
{
    char why[64];
    if (r->low > l->max)
        snprintf(why, sizeof why, "%.3g, want at most %.3g", r->score, l->max);
    else if (r->n < (uint64_t)l->min_n)
        snprintf(why, sizeof why, "of %" PRIu64 ", want of %" PRId64 " at least", r->n, l->min_n);
    else
        return;
    size_t at = strlen(out->names);
    if (at + 100 < sizeof out->names)
        snprintf(out->names + at, sizeof out->names - at, "%s%s (%.60s) %s", out->n ? "; " : "", r->attack, r->variant,
                 why);
    out->n++;
}

static int judge_limit(const struct st_gate *g, size_t i, const struct st_findings *f, struct failed *out,
                       struct st_err *e)
{
    const struct st_gate_limit *l = &g->limits[i];
    size_t n_met = 0;
    for (size_t k = 0; k < f->n_not_run; k++)
        if (misses(l, &f->not_run[k]))
            return st_fail(e, ST_POLICY, "gate: limits[%zu]: %s%s%.60s could not be run: %.200s", i,
                           f->not_run[k].attack, *f->not_run[k].label ? ", " : "", f->not_run[k].label,
                           f->not_run[k].why);
    for (size_t k = 0; k < f->rows.n; k++) {
        const struct st_row *r = &f->rows.at[k];
        if (!of_attack(l, r->attack) || !begins(r->variant, l->variant))
            continue;
        n_met++;
        judge_row(l, r, out);
    }
    return n_met ? 0
                 : st_fail(e, ST_POLICY, "gate: limits[%zu]: no row of %s %s was measured", i, l->attack, l->variant);
}

int st_gate_judge(const struct st_gate *g, const struct st_findings *f, struct st_err *e)
{
    struct failed over = {.n = 0};
    for (size_t i = 0; i < g->n; i++)
        if (judge_limit(g, i, f, &over, e))
            return e->code;
    return over.n
               ? st_fail(e, ST_POLICY, "gate: %zu row%s over the limit: %s", over.n, over.n == 1 ? "" : "s", over.names)
               : 0;
}

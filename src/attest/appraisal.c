#include "attest/appraisal.h"
#include "crypto/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void st_appraisal_wipe(struct st_appraisal *a)
{
    for (size_t i = 0; i < a->n_claim; i++)
        free(a->claims[i].text);
    free(a->claims);
    free(a->checks);
    *a = (struct st_appraisal){0};
}

/* Room for one more of `size` bytes, zeroed; NULL sets failed. */
static void *grow(struct st_appraisal *a, void **list, size_t *n, size_t size)
{
    void *p = *list;
    if (*n == ST_APPRAISAL_MAX)
        a->failed = true;
    else if (*n % 64 == 0 && !(p = realloc(*list, (*n + 64) * size)))
        a->failed = true;
    if (a->failed)
        return NULL;
    *list = p;
    void *slot = (char *)p + *n * size;
    memset(slot, 0, size);
    ++*n;
    return slot;
}

static void plain(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

void st_check_detail(struct st_check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->detail, sizeof c->detail, fmt, ap);
    va_end(ap);
    plain(c->detail);
}

struct st_check *st_appraisal_check(struct st_appraisal *a, const char *name, const char *fmt, ...)
{
    static _Thread_local struct st_check lost; /* what is written here is never believed: failed is set */
    va_list ap;
    struct st_check *c = grow(a, (void **)&a->checks, &a->n_check, sizeof *a->checks);
    if (!c) {
        lost = (struct st_check){0};
        c = &lost;
    }
    snprintf(c->name, sizeof c->name, "%s", name);
    va_start(ap, fmt);
    vsnprintf(c->detail, sizeof c->detail, fmt, ap);
    va_end(ap);
    plain(c->detail);
    return c;
}

static struct st_claim *claim(struct st_appraisal *a, const char *name, enum st_claim_type type)
{
    struct st_claim *c = grow(a, (void **)&a->claims, &a->n_claim, sizeof *a->claims);
    if (c) {
        snprintf(c->name, sizeof c->name, "%s", name);
        c->type = type;
    }
    return c;
}

/* len bytes of text space for the claim just made. */
static char *text_of(struct st_appraisal *a, struct st_claim *c, size_t len)
{
    c->text = malloc(len);
    if (!c->text) {
        a->failed = true;
        a->n_claim--;
    }
    return c->text;
}

void st_appraisal_text(struct st_appraisal *a, const char *name, const char *text)
{
    struct st_claim *c = claim(a, name, ST_CLAIM_TEXT);
    size_t len = strlen(text) + 1;
    if (c && text_of(a, c, len)) {
        memcpy(c->text, text, len);
        plain(c->text);
    }
}

void st_appraisal_hex(struct st_appraisal *a, const char *name, const void *p, size_t len)
{
    struct st_claim *c = claim(a, name, ST_CLAIM_HEX);
    if (c && text_of(a, c, 2 * len + 1))
        st_hex(p, len, c->text);
}

static void number(struct st_appraisal *a, const char *name, enum st_claim_type type, uint64_t v)
{
    struct st_claim *c = claim(a, name, type);
    if (c)
        c->number = v;
}

void st_appraisal_number(struct st_appraisal *a, const char *name, uint64_t v)
{
    number(a, name, ST_CLAIM_NUMBER, v);
}

void st_appraisal_bool(struct st_appraisal *a, const char *name, bool v)
{
    number(a, name, ST_CLAIM_BOOL, v);
}

void st_appraisal_time(struct st_appraisal *a, const char *name, int64_t unix_time)
{
    number(a, name, ST_CLAIM_TIME, (uint64_t)unix_time);
}

const struct st_check *st_appraisal_find_check(const struct st_appraisal *a, const char *name)
{
    for (size_t i = 0; i < a->n_check; i++)
        if (strcmp(a->checks[i].name, name) == 0)
            return &a->checks[i];
    return NULL;
}

const struct st_claim *st_appraisal_find_claim(const struct st_appraisal *a, const char *name)
{
    for (size_t i = 0; i < a->n_claim; i++)
        if (strcmp(a->claims[i].name, name) == 0)
            return &a->claims[i];
    return NULL;
}

#include "audit/records.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const onsets[] = {"b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "st"};
static const char *const vowels[] = {"a", "e", "i", "o", "u"};
static const char *const codas[] = {"", "", "n", "r", "l", "s"};
static const char *const ways[] = {"Street", "Road", "Lane", "Square"};
static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};

#define PICK(rng, list) list[st_rng_next(rng) % (sizeof list / sizeof *list)]

static unsigned number(struct st_rng *rng, unsigned lo, unsigned hi)
{
    return lo + (unsigned)(st_rng_next(rng) % (hi - lo + 1));
}

/* A word of two or three syllables with a capital. */
static void name(struct st_rng *rng, char out[16])
{
    unsigned n = number(rng, 2, 3);
    *out = 0;
    for (unsigned i = 0; i < n; i++) {
        size_t at = strlen(out);
        const char *onset = PICK(rng, onsets), *vowel = PICK(rng, vowels), *coda = PICK(rng, codas);
        snprintf(out + at, 16 - at, "%s%s%s", onset, vowel, i + 1 == n ? coda : "");
    }
    *out = (char)(*out - 'a' + 'A');
}

static void put(struct st_letter *l, const char *s)
{
    size_t at = strlen(l->text);
    snprintf(l->text + at, sizeof l->text - at, "%s", s);
}

static void __attribute__((format(printf, 2, 3))) item(struct st_letter *l, const char *fmt, ...)
{
    char s[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s, sizeof s, fmt, ap);
    va_end(ap);
    size_t at = strlen(l->text);
    put(l, s);
    l->items[l->n_item].lo = at;
    l->items[l->n_item++].hi = strlen(l->text);
}

void st_letter_make(struct st_rng *rng, struct st_letter *out)
{
    char given[16], family[16], friend[16], town[16];
    *out = (struct st_letter){.n_item = 0};
    name(rng, given);
    name(rng, family);
    name(rng, friend);
    name(rng, town);
    put(out, "Hello, my name is ");
    item(out, "%s %s", given, family);
    put(out, ". I was born on ");
    unsigned day = number(rng, 1, 28), year = number(rng, 1940, 2009);
    item(out, "%s %u, %u", PICK(rng, months), day, year);
    put(out, " and I live at ");
    unsigned house = number(rng, 1, 199);
    item(out, "%u %s %s", house, town, PICK(rng, ways));
    put(out, ". Please call my friend ");
    item(out, "%s", friend);
    put(out, " at ");
    unsigned area = number(rng, 200, 999), line = number(rng, 0, 9999);
    item(out, "%u-555-%04u", area, line);
    put(out, " or write to ");
    char first = (char)(*given - 'A' + 'a'), second = (char)(*family - 'A' + 'a');
    item(out, "%c%s.%c%s@example.com", first, given + 1, second, family + 1);
    put(out, ". My account number is ");
    unsigned upper = number(rng, 1000, 9999), lower = number(rng, 1000, 9999);
    item(out, "%u %u", upper, lower);
    put(out, ".");
}

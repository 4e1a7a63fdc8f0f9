/* JSON on jansson, for bytes from outside: size, depth and duplicate keys are checked by the parser, and every getter
 * names the field in its error ("config.json: hidden_size: want an integer in 1..1048576, got a string").
 * `where` is the file or request the object came from. Objects are borrowed unless said otherwise. */
#ifndef ST_TEXT_JSON_H
#define ST_TEXT_JSON_H

#include "base/buf.h"

#include <jansson.h>

/* Parses exactly one value; *out is owned (json_decref). INPUT with line and column; never echoes the text. */
int st_json_parse(const void *p, size_t len, const char *where, json_t **out, struct st_err *e) ST_MUST_CHECK;
int st_json_read_file(const char *path, size_t max, json_t **out, struct st_err *e) ST_MUST_CHECK;

/* Field getters. An absent or null field leaves *out as it is and returns 0; `st_json_need` makes it an error. */
int st_json_int(const json_t *o, const char *where, const char *key, int64_t min, int64_t max, int64_t *out,
                struct st_err *e) ST_MUST_CHECK;
int st_json_real(const json_t *o, const char *where, const char *key, double min, double max, double *out,
                 struct st_err *e) ST_MUST_CHECK;
int st_json_bool(const json_t *o, const char *where, const char *key, bool *out, struct st_err *e) ST_MUST_CHECK;
int st_json_str(const json_t *o, const char *where, const char *key, const char **out, struct st_err *e) ST_MUST_CHECK;
int st_json_need(const json_t *o, const char *where, const char *key, struct st_err *e) ST_MUST_CHECK;
/* The bytes of a field that must be there, appended to out. */
int st_json_base64(const json_t *o, const char *where, const char *key, struct st_buf *out,
                   struct st_err *e) ST_MUST_CHECK;
/* Exactly len bytes of base64 in a field that must be there. */
int st_json_base64_exact(const json_t *o, const char *where, const char *key, void *out, size_t len,
                         struct st_err *e) ST_MUST_CHECK;
/* INPUT unless o is an object that has no fields but these, a list ended by NULL. */
int st_json_only(const json_t *o, const char *where, const char *const *names, struct st_err *e) ST_MUST_CHECK;

/* A string of the bytes in base64, owned; NULL without memory. */
json_t *st_json_bytes(const void *p, size_t len);
/* Appends the compact text of v to b. */
void st_json_dump(const json_t *v, struct st_buf *b);
/* Appends s[len] as a quoted JSON string; invalid UTF-8 becomes U+FFFD. */
void st_json_quote(struct st_buf *b, const char *s, size_t len);

#endif

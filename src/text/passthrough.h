/* The text form of token ids: one word per id, for servers that take and give text only. The tokenizer of an obfuscated
 * checkpoint consists of these words, so the server's own tokenizer turns them back into the same ids; they say nothing
 * but the id.
 *
 * A word is two characters: the CJK ideograph U+4E00 + id / 512, then the Hangul syllable U+AC00 + id % 512. Both take
 * three bytes of UTF-8, so every word has six. Words follow one another without a separator; no character can stand in
 * both places, so a text can be cut in one way only. It also means that a whole word is all that the pair merging of
 * llama.cpp can build. Unicode normalisation (NFC, NFKC), lower-casing and trimming change none of the characters.
 *     id 0 = U+4E00 U+AC00, id 511 = U+4E00 U+ADFF, id 512 = U+4E01 U+AC00, id 2^22 - 1 = U+6DFF U+ADFF */
#ifndef ST_TEXT_PASSTHROUGH_H
#define ST_TEXT_PASSTHROUGH_H

#include <stddef.h>
#include <stdint.h>

#define ST_PASSTHROUGH_LEN 6             /* bytes of a word */
#define ST_PASSTHROUGH_MAX_ID (1u << 22) /* ids below this have a word */

/* Appends no NUL. id < ST_PASSTHROUGH_MAX_ID. */
void st_passthrough_word(uint32_t id, char out[ST_PASSTHROUGH_LEN]);
/* The word at the start of p[len]: its length (ST_PASSTHROUGH_LEN) and *id; 0 when p[0..len) is the beginning of a word
 * whose rest has not come yet (also len 0); -1 when it is none. Hostile input. */
int st_passthrough_next(const char *p, size_t len, uint32_t *id);

#endif

/* Chat templates: messages to text, with the ranges that the user wrote marked, so that special tokens written in a
 * message stay text. */
#ifndef ST_MODEL_CHAT_H
#define ST_MODEL_CHAT_H

#include "model/tokenizer.h"

enum st_chat_role { ST_CHAT_SYSTEM, ST_CHAT_USER, ST_CHAT_ASSISTANT };

struct st_chat_msg {
    enum st_chat_role role;
    const char *text;
    size_t len;
};

/* One file-static row per template:
 *   llama-2; llama-3, llama-3.1 (its system block with dates)
 *   chatml, and those of its kind with a default system message or reasoning: qwen2, qwen2.5, qwen3, qwen3-thinking,
 * smollm2 mistral (v0.1), mistral-v0.2 (spaces around [INST]), mistral-v0.3 (system text before the last user message)
 *   deepseek-v2, deepseek-v3 (not R1 and V3.1, which treat thoughts in ways of their own)
 *   plain (story models: BOS, then the texts one under the other)
 * Jinja is not run: a template that differs from these in other ways than its marks is taken for the one it resembles.
 */
struct st_chat_template;

/* By name; UNSUPPORTED lists the known ones. */
int st_chat_find(const char *name, const struct st_chat_template **out, struct st_err *e) ST_MUST_CHECK;
/* Chosen from the checkpoint: chat_template in tokenizer_config.json (or chat_template.jinja) is recognised by its
 * characteristic marks; no template at all: by the special tokens of the vocabulary, else `plain`. A template that is
 * present but not recognised is UNSUPPORTED and asks for --chat-template. */
int st_chat_detect(const char *path, const struct st_tokenizer *t, const struct st_chat_template **out,
                   struct st_err *e) ST_MUST_CHECK;
struct st_texts; /* model/texts.h */
int st_chat_detect_in(const struct st_texts *texts, const struct st_tokenizer *t, const struct st_chat_template **out,
                      struct st_err *e) ST_MUST_CHECK;
const char *st_chat_name(const struct st_chat_template *t);
/* Appends the ids of the whole conversation up to where the assistant's answer begins. INPUT when the roles do not
 * alternate as the template wants. */
int st_chat_encode(const struct st_chat_template *t, const struct st_tokenizer *tok, const struct st_chat_msg *msgs,
                   size_t n, struct st_ids *out, struct st_err *e) ST_MUST_CHECK;
/* Ids that end an assistant's answer besides the model's eos (e.g. <|eot_id|>, <|im_end|>); returns how many (<= cap).
 */
size_t st_chat_stops(const struct st_chat_template *t, const struct st_tokenizer *tok, uint32_t *out, size_t cap);

#endif

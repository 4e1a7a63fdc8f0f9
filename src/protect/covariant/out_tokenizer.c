#include "protect/covariant/out_tokenizer.h"
#include "text/passthrough.h"

static int write_words(const struct st_cov_out *o, uint32_t n_vocab, struct st_err *e)
{
    struct st_buf b = {0};
    st_buf_add_str(&b, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [],\n"
                       " \"normalizer\": null,\n"
                       " \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": "
                       "\"[\\u4e00-\\u6dff][\\uac00-\\uadff]\"}, \"behavior\": \"Isolated\", \"invert\": false},\n"
                       " \"post_processor\": null, \"decoder\": {\"type\": \"Fuse\"},\n"
                       " \"model\": {\"type\": \"WordLevel\", \"unk_token\": \"unk\", \"vocab\": {");
    for (uint32_t id = 0; id < n_vocab; id++) {
        char word[ST_PASSTHROUGH_LEN];
        st_passthrough_word(id, word);
        st_buf_addf(&b, "%s\"%.*s\": %u", id ? ",\n" : "\n", ST_PASSTHROUGH_LEN, word, id);
    }
    st_buf_add_str(&b, "}}}\n");
    int rc = b.failed ? st_fail(e, ST_MEMORY, "tokenizer.json: out of memory")
                      : st_cov_out_file(o, "tokenizer.json", b.p, b.len, e);
    st_buf_free(&b);
    return rc;
}

int st_cov_write_tokenizer(const struct st_cov_out *o, const struct st_config *c, struct st_err *e)
{
    struct st_buf b = {0};
    int rc = write_words(o, c->n_vocab, e);
    /* The class of no model in particular: those of models bring their own rules and tokens. */
    st_buf_addf(&b,
                "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"model_max_length\": %u,\n"
                "  \"clean_up_tokenization_spaces\": false\n}\n",
                c->n_ctx);
    if (!rc && b.failed)
        rc = st_fail(e, ST_MEMORY, "tokenizer_config.json: out of memory");
    if (!rc)
        rc = st_cov_out_file(o, "tokenizer_config.json", b.p, b.len, e);
    st_buf_free(&b);
    return rc;
}

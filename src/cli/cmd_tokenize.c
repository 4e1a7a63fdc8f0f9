/* sotto tokenize: text to token ids and back, one text or many. */
#include "cli/cli.h"
#include "model/tokenizer.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_FILE (1u << 30)

struct tokenize_opts {
    const char *file, *batch, *decode, *decode_batch;
    bool show, special, bos, skip_special;
};

enum {
    KEY_BATCH = ST_KEY(1),
    KEY_DECODE_BATCH,
    KEY_SHOW,
    KEY_SPECIAL,
    KEY_BOS,
    KEY_SKIP_SPECIAL,
};

static const struct argp_option options[] = {
    {"file", 'f', "FILE", 0, "Read the text from FILE instead of the command line", 0},
    {"show", KEY_SHOW, NULL, 0, "One line per token: id and text", 0},
    {"special", KEY_SPECIAL, NULL, 0, "Special tokens written out in the text become their ids", 0},
    {"bos", KEY_BOS, NULL, 0, "Add what the tokenizer puts around a text (usually BOS in front)", 0},
    {"decode", 'd', "IDS", 0, "Print the text of these ids (1,2,3) instead", 0},
    {"skip-special", KEY_SKIP_SPECIAL, NULL, 0, "When decoding, leave special tokens out", 0},
    {"batch", KEY_BATCH, "FILE", 0, "Many texts, each ended by a NUL byte: one JSON list of ids per line", 0},
    {"decode-batch", KEY_DECODE_BATCH, "FILE", 0, "Many JSON lists of ids, one per line: one JSON string per line", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct tokenize_opts *o = opts;
    (void)e;
    switch (key) {
    case 'f':
        o->file = arg;
        break;
    case 'd':
        o->decode = arg;
        break;
    case KEY_BATCH:
        o->batch = arg;
        break;
    case KEY_DECODE_BATCH:
        o->decode_batch = arg;
        break;
    case KEY_SHOW:
        o->show = true;
        break;
    case KEY_SPECIAL:
        o->special = true;
        break;
    case KEY_BOS:
        o->bos = true;
        break;
    case KEY_SKIP_SPECIAL:
        o->skip_special = true;
        break;
    }
    return 0;
}

static void print_ids(const struct st_ids *ids)
{
    putchar('[');
    for (size_t i = 0; i < ids->len; i++)
        printf("%s%u", i ? "," : "", ids->p[i]);
    putchar(']');
}

/* One JSON string on standard output. */
static int print_string(const char *p, size_t len, struct st_err *e)
{
    struct st_buf b = {0};
    st_json_quote(&b, p ? p : "", len);
    if (!b.failed)
        fwrite(b.p, 1, b.len, stdout);
    int rc = b.failed ? st_fail(e, ST_MEMORY, "no memory to print a text of %zu bytes", len) : 0;
    st_buf_free(&b);
    return rc;
}

static int encode(const struct st_tokenizer *t, const struct tokenize_opts *o, const char *text, size_t len,
                  struct st_ids *ids, struct st_err *e)
{
    struct st_encode_opts eo = {.add_special = o->bos, .parse_special = o->special};
    ids->len = 0;
    return st_tokenizer_encode(t, text, len, &eo, ids, e);
}

static int encode_one(const struct st_cli *cli, const struct tokenize_opts *o, const struct st_tokenizer *t,
                      const char *text, size_t len, struct st_err *e)
{
    struct st_ids ids = {0};
    int rc = encode(t, o, text, len, &ids, e);
    if (!rc && o->show)
        for (size_t i = 0; !rc && i < ids.len; i++) {
            struct st_span p = st_tokenizer_piece(t, ids.p[i]);
            printf("%u\t", ids.p[i]);
            rc = print_string((const char *)p.p, p.len, e);
            putchar('\n');
        }
    else if (!rc) {
        if (cli->json)
            printf("{\"n\":%zu,\"ids\":", ids.len);
        print_ids(&ids);
        puts(cli->json ? "}" : "");
    }
    st_ids_free(&ids);
    return rc;
}

static int encode_batch(const struct tokenize_opts *o, const struct st_tokenizer *t, const struct st_map *m,
                        struct st_err *e)
{
    struct st_ids ids = {0};
    int rc = 0;
    for (size_t i = 0, end, n = 1; !rc && i < m->len; i = end + 1, n++) {
        const uint8_t *nul = memchr(m->p + i, 0, m->len - i);
        end = nul ? (size_t)(nul - m->p) : m->len;
        rc = encode(t, o, (const char *)m->p + i, end - i, &ids, e);
        if (rc)
            st_err_prefix(e, "text %zu", n);
        else {
            print_ids(&ids);
            putchar('\n');
        }
    }
    st_ids_free(&ids);
    return rc;
}

static bool is_separator(char c)
{
    return c == ',' || c == ' ' || c == '[' || c == ']' || c == '\t' || c == '\r';
}

/* Ids apart by commas or spaces, in brackets or not. */
static int parse_ids(const char *p, size_t len, struct st_ids *ids, struct st_err *e)
{
    ids->len = 0;
    for (size_t i = 0; i < len;) {
        if (is_separator(p[i])) {
            i++;
            continue;
        }
        uint64_t v = 0;
        for (; i < len && p[i] >= '0' && p[i] <= '9' && v <= UINT32_MAX; i++)
            v = v * 10 + (uint64_t)(p[i] - '0');
        if (v > UINT32_MAX || (i < len && !is_separator(p[i])))
            return st_fail(e, ST_INPUT, "want token ids like 1,2,3");
        st_ids_add(ids, (uint32_t)v);
    }
    return ids->failed ? st_fail(e, ST_MEMORY, "no memory for the ids") : 0;
}

/* Decodes one list; every id must be one of the vocabulary. */
static int decode(const struct st_tokenizer *t, const struct tokenize_opts *o, const char *list, size_t len,
                  struct st_ids *ids, struct st_buf *out, struct st_err *e)
{
    st_buf_clear(out);
    int rc = parse_ids(list, len, ids, e);
    for (size_t i = 0; !rc && i < ids->len; i++)
        if (ids->p[i] >= st_tokenizer_vocab(t))
            rc = st_fail(e, ST_INPUT, "id %u is outside the vocabulary of %zu", ids->p[i], st_tokenizer_vocab(t));
    return rc ? rc : st_tokenizer_decode(t, ids->p, ids->len, o->skip_special, out, e);
}

static int decode_one(const struct st_cli *cli, const struct tokenize_opts *o, const struct st_tokenizer *t,
                      struct st_err *e)
{
    struct st_ids ids = {0};
    struct st_buf text = {0};
    int rc = decode(t, o, o->decode, strlen(o->decode), &ids, &text, e);
    if (!rc && cli->json) {
        fputs("{\"text\":", stdout);
        rc = print_string(text.p, text.len, e);
        puts("}");
    } else if (!rc) {
        fwrite(text.p ? text.p : "", 1, text.len, stdout);
        putchar('\n');
    }
    st_ids_free(&ids);
    st_buf_free(&text);
    return rc;
}

static int decode_batch(const struct tokenize_opts *o, const struct st_tokenizer *t, const struct st_map *m,
                        struct st_err *e)
{
    struct st_ids ids = {0};
    struct st_buf text = {0};
    int rc = 0;
    for (size_t i = 0, end, n = 1; !rc && i < m->len; i = end + 1, n++) {
        const uint8_t *nl = memchr(m->p + i, '\n', m->len - i);
        end = nl ? (size_t)(nl - m->p) : m->len;
        rc = decode(t, o, (const char *)m->p + i, end - i, &ids, &text, e);
        if (!rc)
            rc = print_string(text.p, text.len, e);
        if (rc)
            st_err_prefix(e, "line %zu", n);
        else
            putchar('\n');
    }
    st_ids_free(&ids);
    st_buf_free(&text);
    return rc;
}

static int from_file(const struct st_cli *cli, const struct tokenize_opts *o, const struct st_tokenizer *t,
                     struct st_err *e)
{
    struct st_map m;
    const char *path = o->file ? o->file : o->batch ? o->batch : o->decode_batch;
    int rc = st_map_open(path, &m, e);
    if (rc)
        return rc;
    if (m.len > MAX_FILE)
        rc = st_fail(e, ST_INPUT, "%s: %zu bytes; at most %u are accepted", path, m.len, MAX_FILE);
    else if (o->file)
        rc = encode_one(cli, o, t, m.p ? (const char *)m.p : "", m.len, e);
    else
        rc = o->batch ? encode_batch(o, t, &m, e) : decode_batch(o, t, &m, e);
    st_map_close(&m);
    return rc;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct tokenize_opts *o = opts;
    struct st_tokenizer *t;
    int n = (o->file != NULL) + (o->batch != NULL) + (o->decode != NULL) + (o->decode_batch != NULL) + cli->n_args - 1;
    if (n != 1)
        return st_fail(e, ST_USAGE, "tokenize: want one of TEXT, --file, --batch, --decode and --decode-batch");
    int rc = st_tokenizer_open(cli->args[0], &t, e);
    if (rc)
        return rc;
    if (o->decode)
        rc = decode_one(cli, o, t, e);
    else if (cli->n_args == 2)
        rc = encode_one(cli, o, t, cli->args[1], strlen(cli->args[1]), e);
    else
        rc = from_file(cli, o, t, e);
    st_tokenizer_free(t);
    return rc;
}

const struct st_cmd st_cmd_tokenize = {
    .name = "tokenize",
    .summary = "Turn text into token ids, and back",
    .args_doc = "MODEL [TEXT]",
    .min_args = 1,
    .max_args = 2,
    .doc = "Prints the token ids of a text, or the text of token ids. MODEL is a model directory or a tokenizer file "
           "(tokenizer.json, a tiktoken rank file, llama2.c's tokenizer.bin).",
    .examples = "  sotto tokenize models/demo 'Once upon a time'\n"
                "  sotto tokenize models/demo --file story.txt --show\n"
                "  sotto tokenize models/demo --decode 12,7,301",
    .shared = ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct tokenize_opts),
    .set = set,
    .run = run,
};

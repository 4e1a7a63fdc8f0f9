/* Repetition in messages of ids. A substitution keeps what is equal equal: the ids that every prompt begins and ends
 * with are the chat template's, which is public, so they are pairs of plain and cipher ids for other attacks; a prompt
 * that is asked twice is seen to be; the next turn of a conversation begins with the turn before. Homophones blur
 * equality, but a place of the template then still holds only a few ids, which are thereby homophones of one token, and
 * the places of rare tokens stay equal. And ids are as many as tokens, whatever they are.
 *
 * The messages are made of the audit's text: conversations of two turns in the model's chat template, each first turn
 * asked twice, in an order that tells nothing. Source: ours; homophone collapse by repetition: docs/covariant.md. */
#include "audit/atk_repetition.h"
#include "audit/heard.h"
#include "audit/metrics.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "model/chat.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TALKS 40      /* conversations */
#define WORDS 24      /* tokens of a message */
#define ALIKE 0.25    /* share of equal places of two messages that are one, under homophones; unlike ones: below .1 */
#define FRAME_LEAST 8 /* messages that a template is looked for in */

/* ---- arithmetic ---- */

static size_t start_of(const struct st_texts_ids *t, size_t d)
{
    return d ? t->ends[d - 1] : 0;
}

static size_t len_of(const struct st_texts_ids *t, size_t d)
{
    return t->ends[d] - start_of(t, d);
}

/* Different ids of one place, at most kinds + 1 are counted; kinds + 1 also when a message has ended. */
static uint32_t kinds_at(const struct st_texts_ids *t, bool at_end, size_t place, uint32_t kinds, uint32_t *seen)
{
    uint32_t n = 0;
    for (size_t d = 0; d < t->n; d++) {
        if (place >= len_of(t, d))
            return kinds + 1;
        uint32_t id = t->ids[at_end ? t->ends[d] - 1 - place : start_of(t, d) + place], k = 0;
        while (k < n && seen[k] != id)
            k++;
        if (k == n && n == kinds)
            return kinds + 1;
        if (k == n)
            seen[n++] = id;
    }
    return n;
}

int st_repeat_frame(const struct st_texts_ids *t, bool at_end, uint32_t kinds, size_t *n, struct st_err *e)
{
    uint32_t *seen;
    *n = 0;
    if (t->n < FRAME_LEAST)
        return 0;
    int rc = st_alloc(&seen, kinds, sizeof *seen, "template", e);
    if (rc)
        return rc;
    while (kinds_at(t, at_end, *n, kinds, seen) <= kinds)
        ++*n;
    free(seen);
    return 0;
}

double st_repeat_share(const struct st_texts_ids *t, size_t a, size_t b, size_t skip)
{
    size_t n = len_of(t, a), same = 0;
    if (len_of(t, b) < n || n <= skip)
        return 0;
    for (size_t i = skip; i < n; i++)
        same += t->ids[start_of(t, a) + i] == t->ids[start_of(t, b) + i];
    return (double)same / (double)(n - skip);
}

void st_repeat_equal(const struct st_texts_ids *t, size_t skip, double least, size_t *out)
{
    for (size_t a = 0; a < t->n; a++) {
        double most = 0;
        out[a] = t->n;
        for (size_t b = 0; b < t->n; b++) {
            double share = a != b && len_of(t, a) == len_of(t, b) ? st_repeat_share(t, a, b, skip) : 0;
            if (share >= least && share > most) {
                most = share;
                out[a] = b;
            }
        }
    }
}

void st_repeat_before(const struct st_texts_ids *t, size_t skip, double least, size_t *out)
{
    for (size_t a = 0; a < t->n; a++) {
        size_t longest = 0;
        out[a] = t->n;
        for (size_t b = 0; b < t->n; b++)
            if (len_of(t, b) < len_of(t, a) && len_of(t, b) > longest && st_repeat_share(t, b, a, skip) >= least) {
                longest = len_of(t, b);
                out[a] = b;
            }
    }
}

/* ---- conversations ---- */

/* talk: which conversation; turn 0 stands twice. */
struct message {
    uint32_t talk, turn;
};

struct traffic {
    const struct st_chat_template *chat;
    struct st_ids ids;
    size_t *ends;
    struct message *of;
    size_t n;
};

static void traffic_free(struct traffic *t)
{
    st_ids_free(&t->ids);
    free(t->ends);
    free(t->of);
}

/* WORDS tokens of the text from token `at` on, as text. */
static int piece(const struct st_audit *a, size_t at, struct st_buf *out, struct st_err *e)
{
    st_buf_clear(out);
    int rc = st_tokenizer_decode(a->target->tokenizer, a->target->text.ids + at, WORDS, true, out, e);
    return !rc && out->failed ? st_fail(e, ST_MEMORY, "no memory for messages") : rc;
}

/* The prompt of one turn: question, or question, answer and next question. */
static int add_message(const struct st_audit *a, struct traffic *t, struct message m, struct st_err *e)
{
    static const enum st_chat_role roles[] = {ST_CHAT_USER, ST_CHAT_ASSISTANT, ST_CHAT_USER};
    struct st_chat_msg said[3];
    struct st_buf words[3] = {{0}};
    size_t n = m.turn ? 3 : 1;
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        rc = piece(a, ((size_t)m.talk * 3 + i) * WORDS, &words[i], e);
        said[i] = (struct st_chat_msg){roles[i], words[i].p ? words[i].p : "", words[i].len};
    }
    if (!rc)
        rc = st_chat_encode(t->chat, a->target->tokenizer, said, n, &t->ids, e);
    for (size_t i = 0; i < 3; i++)
        st_buf_free(&words[i]);
    if (!rc && t->ids.failed)
        rc = st_fail(e, ST_MEMORY, "no memory for messages");
    t->of[t->n] = m;
    t->ends[t->n++] = t->ids.len;
    return rc;
}

static int make_traffic(const struct st_audit *a, struct traffic *t, struct st_err *e)
{
    struct message order[3 * TALKS];
    size_t n_talk = st_texts_len(&a->target->text) / (3 * WORDS), n;
    struct st_rng rng;
    if (n_talk > TALKS)
        n_talk = TALKS;
    if (n_talk < FRAME_LEAST)
        return st_fail(e, ST_UNSUPPORTED, "needs a text of %d tokens at least", FRAME_LEAST * 3 * WORDS);
    n = 3 * n_talk;
    for (size_t i = 0; i < n; i++)
        order[i] = (struct message){(uint32_t)(i / 3), i % 3 == 2};
    st_rng_seed(&rng, a->seed);
    for (size_t i = n; i > 1; i--) {
        size_t j = st_rng_next(&rng) % i;
        struct message x = order[i - 1];
        order[i - 1] = order[j];
        order[j] = x;
    }
    int rc = st_chat_detect(a->target->base->path, a->target->tokenizer, &t->chat, e);
    if (!rc)
        rc = st_alloc(&t->ends, n, sizeof *t->ends, "messages", e);
    if (!rc)
        rc = st_alloc(&t->of, n, sizeof *t->of, "messages", e);
    for (size_t i = 0; !rc && i < n; i++)
        rc = add_message(a, t, order[i], e);
    return rc;
}

/* ---- rows ---- */

/* The template's public ids: what two prompts that differ from their first to their last character have in common. */
static int public_frame(const struct st_audit *a, const struct traffic *t, bool at_end, struct st_ids *out,
                        struct st_err *e)
{
    static const char *const words[] = {"Seven", "quick?"};
    struct st_ids p[2] = {{0}};
    int rc = 0;
    for (int i = 0; !rc && i < 2; i++) {
        const struct st_chat_msg m = {ST_CHAT_USER, words[i], strlen(words[i])};
        rc = st_chat_encode(t->chat, a->target->tokenizer, &m, 1, &p[i], e);
    }
    for (size_t i = 0; !rc && i < p[0].len && i < p[1].len; i++) {
        uint32_t x = p[0].p[at_end ? p[0].len - 1 - i : i], y = p[1].p[at_end ? p[1].len - 1 - i : i];
        if (x != y)
            break;
        st_ids_add(out, x);
    }
    if (!rc && (out->failed || p[0].failed || p[1].failed))
        rc = st_fail(e, ST_MEMORY, "no memory for a template");
    st_ids_free(&p[0]);
    st_ids_free(&p[1]);
    return rc;
}

/* Places of the frame that were found, each naming all ids seen there: guess [n_id]. */
static int name_frame(const struct st_audit *a, const struct traffic *t, const struct st_heard *h, bool at_end,
                      uint32_t *guess, bool *known, struct st_err *e)
{
    struct st_ids frame = {0};
    size_t n;
    int rc = public_frame(a, t, at_end, &frame, e);
    if (!rc)
        rc = st_repeat_frame(&h->sent, at_end, a->target->pair.homophones + 1, &n, e);
    for (size_t k = 0; !rc && k < frame.len; k++) {
        known[frame.p[k]] = true;
        for (size_t d = 0; k < n && d < h->sent.n; d++)
            guess[h->sent.ids[at_end ? h->sent.ends[d] - 1 - k : start_of(&h->sent, d) + k]] = frame.p[k];
    }
    st_ids_free(&frame);
    return rc;
}

static int add(struct st_row *row, const char *variant, const char *metric, struct st_rows *rows, struct st_err *e)
{
    row->metric = metric;
    row->unprotected = 1;
    row->in_clear = true;
    row->cost = NAN;
    snprintf(row->variant, sizeof row->variant, "%s", variant);
    return st_rows_add(rows, row, e);
}

static int report_frame(const struct st_audit *a, const struct traffic *t, const struct st_heard *h,
                        struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.chance = 1.0 / h->n_plain};
    uint32_t *guess = NULL;
    bool *known = NULL;
    int rc = st_alloc(&guess, h->n_id, sizeof *guess, "template", e);
    if (!rc)
        rc = st_alloc(&known, h->n_plain + 1, sizeof *known, "template", e);
    for (uint32_t i = 0; !rc && i < h->n_id; i++)
        guess[i] = h->n_plain;
    if (!rc)
        rc = name_frame(a, t, h, false, guess, known, e);
    if (!rc)
        rc = name_frame(a, t, h, true, guess, known, e);
    if (!rc) {
        st_score_types(&row, guess, h->truth, h->n_id, h->n_plain, known);
        snprintf(row.note, sizeof row.note, "chat template %s; each is a pair for attacks with known pairs",
                 st_chat_name(t->chat));
        rc = add(&row, "template", "share of the chat template's ids that are named right", rows, e);
    }
    free(guess);
    free(known);
    return rc;
}

/* Right when what is linked belongs together; messages that have nobody to be linked to are left out. */
static int report_links(const struct traffic *t, const struct st_heard *h, size_t skip, double least, bool turns,
                        struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.chance = 1.0 / (double)(t->n - 1)};
    size_t *link;
    uint64_t n = 0, hits = 0;
    int rc = st_alloc(&link, t->n, sizeof *link, "messages", e);
    if (rc)
        return rc;
    (turns ? st_repeat_before : st_repeat_equal)(&h->sent, skip, least, link);
    for (size_t i = 0; i < t->n; i++) {
        if (t->of[i].turn != turns)
            continue;
        n++;
        hits += link[i] < t->n && t->of[link[i]].talk == t->of[i].talk;
    }
    free(link);
    st_row_share(&row, hits, n);
    return turns ? add(&row, "turns of one conversation", "share of later turns linked to an earlier one", rows, e)
                 : add(&row, "equal prompts", "share of prompts asked twice that are linked", rows, e);
}

/* A known prompt is named by its length when no other is as long. */
static int report_length(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_texts_ids *t = &a->target->text;
    struct st_row row = {.chance = 1.0 / (double)t->n};
    size_t longest = 0, *as_long = NULL;
    double *tells = NULL;
    for (size_t i = 0; i < t->n; i++)
        longest = len_of(t, i) > longest ? len_of(t, i) : longest;
    int rc = st_alloc(&as_long, longest + 1, sizeof *as_long, "lengths", e);
    if (!rc)
        rc = st_alloc(&tells, t->n, sizeof *tells, "lengths", e);
    if (!rc) {
        for (size_t i = 0; i < t->n; i++)
            as_long[len_of(t, i)]++;
        for (size_t i = 0; i < t->n; i++)
            tells[i] = 1 / (double)as_long[len_of(t, i)];
        st_row_mean(&row, tells, t->n, a->seed);
        rc = add(&row, "length", "chance to name the prompt, of those known, by its length", rows, e);
    }
    free(as_long);
    free(tells);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    struct traffic t = {0};
    struct st_heard h = {0};
    size_t skip = 0;
    int rc = st_heard_check(a, e);
    if (!rc)
        rc = make_traffic(a, &t, e);
    const struct st_texts_ids text = {.ids = t.ids.p, .ends = t.ends, .n = t.n};
    if (!rc)
        rc = st_heard_new(&text, p->truth, p->seen->config.n_vocab, p->base->config.n_vocab, SIZE_MAX, a->seed, &h, e);
    if (rc == ST_INPUT) /* the template asks for tokens that the model does not have: there are no such messages */
        rc = e->code = ST_UNSUPPORTED;
    if (!rc)
        rc = report_frame(a, &t, &h, rows, e);
    if (!rc)
        rc = st_repeat_frame(&h.sent, false, p->homophones + 1, &skip, e);
    double least = p->homophones ? ALIKE : 1;
    if (!rc)
        rc = report_links(&t, &h, skip, least, false, rows, e);
    if (!rc)
        rc = report_links(&t, &h, skip, least, true, rows, e);
    if (!rc)
        rc = report_length(a, rows, e);
    st_heard_free(&h);
    traffic_free(&t);
    return rc;
}

const struct st_attack st_atk_repetition = {
    .name = "repetition",
    .title = "What repeats in messages",
    .metric = "share of the chat template's ids named, of prompts linked",
    .source = "ours",
    .traffic = true, /* the template is public: that its ids are known says nothing of what is written */
    .adversary = ST_ADVERSARY_OBSERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};

/* Any bytes as a container's list of recipients: refused, or every one of them is described, and none of those that are
 * cheap to try opens by a passphrase that nobody gave it. */
#include "protect/sealed/recipient.h"

#include <stdlib.h>
#include <string.h>

/* A wrap may ask for a GiB and 16 passes, which the bounds allow and fuzzing cannot wait for. */
static bool is_cheap(const json_t *entry)
{
    json_int_t passes = json_integer_value(json_object_get(entry, "passes"));
    json_int_t memory = json_integer_value(json_object_get(entry, "memory_kib"));
    json_int_t lanes = json_integer_value(json_object_get(entry, "lanes"));
    return passes <= 2 && memory <= 64 && lanes <= 2;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t id[16] = {1};
    const struct st_recipient_kind *passphrase;
    struct st_secret word, out;
    struct st_unlock u = {.passphrase = &word};
    struct st_err e = {0};
    struct st_buf b = {0};
    json_t *list = NULL;
    if (st_recipients_parse((struct st_span){data, size}, "fuzz", &list, &e))
        return 0;
    if (st_recipient_find("passphrase", &passphrase, &e) || st_secret_init(&word, 4, &e))
        abort();
    memcpy(word.p, "word", 4);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        const char *kind = json_string_value(json_object_get(entry, "kind"));
        st_recipient_describe(entry, &b);
        if (strcmp(kind, "passphrase") == 0 && is_cheap(entry) && passphrase->unwrap(&u, id, 1, entry, &out, &e) == 0)
            abort();
    }
    st_secret_wipe(&word);
    st_buf_free(&b);
    json_decref(list);
    return 0;
}

/* sotto seal recipients FILE: who may open a container, and another list of them. */
#include "base/log.h"
#include "cli/key_open.h"
#include "cli/seal.h"

#include <string.h>

static void add_text(struct st_buf *b, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        st_buf_addf(b, "%zu  ", i + 1);
        st_recipient_describe(json_array_get(list, i), b);
        st_buf_add_str(b, "\n");
    }
}

static void add_json(struct st_buf *b, const char *path, const json_t *list)
{
    struct st_buf words = {0};
    st_buf_add_str(b, "{\"container\": ");
    st_json_quote(b, path, strlen(path));
    st_buf_add_str(b, ", \"recipients\": [");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *kind = json_string_value(json_object_get(json_array_get(list, i), "kind"));
        st_buf_clear(&words);
        st_recipient_describe(json_array_get(list, i), &words);
        st_buf_addf(b, "%s{\"number\": %zu, \"kind\": ", i ? ", " : "", i + 1);
        st_json_quote(b, kind, strlen(kind));
        st_buf_add_str(b, ", \"description\": ");
        st_json_quote(b, words.p ? words.p : "", words.len);
        st_buf_add_str(b, "}");
    }
    st_buf_add_str(b, "]}\n");
    st_buf_free(&words);
}

static int show(const struct st_cli *cli, const char *path, struct st_err *e)
{
    struct st_container *c;
    struct st_buf b = {0};
    json_t *list = NULL;
    int rc = st_container_open(path, &c, e);
    if (rc)
        return rc;
    rc = st_recipients_parse(st_container_recipients(c), path, &list, e);
    if (!rc && cli->json)
        add_json(&b, path, list);
    else if (!rc)
        add_text(&b, list);
    if (!rc && b.failed)
        rc = st_fail(e, ST_MEMORY, "no memory for the report");
    if (!rc)
        fputs(b.p, stdout);
    json_decref(list);
    st_buf_free(&b);
    st_container_close(c);
    return rc;
}

static int change(const struct st_cli *cli, const struct st_seal_cmd *o, const char *path, struct st_err *e)
{
    struct st_secret passphrase = {0}, seed = {0};
    struct st_container *c = NULL;
    st_secret_process();
    int rc = st_container_open(path, &c, e);
    if (!rc)
        rc = st_key_passphrase(cli, true, &passphrase, e);
    if (!rc)
        rc = st_seal_seed(o, false, &seed, e);
    if (!rc) {
        const struct st_seal_change sc = {.add = o->recipients,
                                          .n_add = o->n_recipient,
                                          .drop = o->drop,
                                          .n_drop = o->n_drop,
                                          .out = o->out,
                                          .seed = &seed,
                                          .passphrase = passphrase.p ? &passphrase : NULL,
                                          .tcti = st_key_tcti(cli),
                                          .tpm_roots = o->tpm_roots};
        rc = st_seal_change(c, &sc, e);
    }
    if (!rc && o->n_drop)
        st_log(ST_LOG_WARN,
               "%s: whoever could open the old file can still open every copy of it; to revoke, seal again "
               "under a new --version",
               path);
    st_secret_wipe(&passphrase);
    st_secret_wipe(&seed);
    st_container_close(c);
    return rc;
}

int st_seal_recipients(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e)
{
    const char *path = cli->args[1];
    if (!o->n_recipient && !o->n_drop) {
        if (o->out || o->sign_key)
            return st_fail(e, ST_USAGE, "seal recipients: %s goes with --add and --remove",
                           o->out ? "--out" : "--sign-key");
        return show(cli, path, e);
    }
    int rc = change(cli, o, path, e);
    return rc ? rc : show(cli, o->out ? o->out : path, e);
}

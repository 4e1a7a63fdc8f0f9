#include "cli/listen.h"
#include "cli/open.h"
#include "text/json.h"

#include <string.h>

static void print_indented(const char *lines)
{
    for (size_t n; (n = strcspn(lines, "\n")); lines += n + (lines[n] == '\n'))
        printf("  %.*s\n", (int)n, lines);
}

static void on_listen(void *arg, const char *url, int port)
{
    const struct st_banner *b = arg;
    struct st_buf more = {0};
    if (b->open)
        st_open_put_details(b->open, b->cli->json, &more);
    if (b->cli->json) {
        struct st_buf name = {0};
        st_json_quote(&name, b->model, strlen(b->model));
        printf("{\"url\":\"%s\",\"port\":%d,\"model\":%s,\"protection\":\"%s\",\"scheme\":\"%s\","
               "\"verified\":\"%s\"%s}\n",
               url, port, name.p ? name.p : "null", b->protection, b->scheme, b->verified, more.p ? more.p : "");
        st_buf_free(&name);
    } else if (!b->cli->quiet) {
        printf("sotto %s: %s on %s\n  protection: %s%s%s\n", b->command, b->model, url, b->protection,
               strcmp(b->scheme, "none") ? ", scheme " : "", strcmp(b->scheme, "none") ? b->scheme : "");
        if (b->input)
            printf("  %s\n", b->input);
        if (b->note)
            printf("  %s\n", b->note);
        print_indented(more.p ? more.p : "");
        if (b->warning)
            printf("  warning: %s\n", b->warning);
        printf("\nexport OPENAI_BASE_URL=%s/v1\nexport OPENAI_API_KEY=%s\n", url,
               b->cli->listen.api_key_file ? "<a key of the file>" : "any");
    }
    fflush(stdout);
    st_buf_free(&more);
}

static int settle(void *arg, struct st_err *e)
{
    const struct st_banner *b = arg;
    return b->open ? st_open_settle(b->open, e) : 0;
}

static void put_status(void *arg, struct st_buf *out)
{
    const struct st_banner *b = arg;
    if (b->open)
        st_open_put_details(b->open, true, out);
}

void st_listen_opts(const struct st_cli *cli, int default_port, struct st_banner *b, struct st_server_opts *out)
{
    const struct st_cli_listen *l = &cli->listen;
    *out = (struct st_server_opts){.host = l->host,
                                   .port = l->port >= 0 ? l->port : default_port,
                                   .api_key_file = l->api_key_file,
                                   .tls_cert = l->tls_cert,
                                   .tls_key = l->tls_key,
                                   .allowed_hosts = l->hosts,
                                   .n_allowed_host = l->n_host,
                                   .limits = {.max_body = l->max_body,
                                              .max_conn = l->max_conn,
                                              .max_client = l->max_client,
                                              .grace_s = l->grace_s},
                                   .settle = settle,
                                   .status = put_status,
                                   .on_listen = on_listen,
                                   .arg = b};
}

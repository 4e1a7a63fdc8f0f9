#include "cli/listen.h"
#include "text/json.h"

#include <string.h>

static void on_listen(void *arg, const char *url, int port)
{
    const struct st_banner *b = arg;
    if (b->cli->json) {
        struct st_buf name = {0};
        st_json_quote(&name, b->model, strlen(b->model));
        printf("{\"url\":\"%s\",\"port\":%d,\"model\":%s,\"protection\":\"%s\",\"scheme\":\"%s\","
               "\"verified\":\"%s\"}\n",
               url, port, name.p ? name.p : "null", b->protection, b->scheme, b->verified);
        st_buf_free(&name);
    } else if (!b->cli->quiet) {
        printf("sotto %s: %s on %s\n  protection: %s%s%s\n", b->command, b->model, url, b->protection,
               strcmp(b->scheme, "none") ? ", scheme " : "", strcmp(b->scheme, "none") ? b->scheme : "");
        if (b->input)
            printf("  %s\n", b->input);
        if (b->note)
            printf("  %s\n", b->note);
        if (b->warning)
            printf("  warning: %s\n", b->warning);
        printf("\nexport OPENAI_BASE_URL=%s/v1\nexport OPENAI_API_KEY=%s\n", url,
               b->cli->listen.api_key_file ? "<a key of the file>" : "any");
    }
    fflush(stdout);
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
                                   .on_listen = on_listen,
                                   .arg = b};
}

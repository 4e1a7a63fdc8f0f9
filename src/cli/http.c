#include "cli/http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct st_http *h = arg;
    size_t len = size * n;
    if (h->body.len + len > ST_HTTP_MAX_BODY)
        return 0; /* makes libcurl stop */
    st_buf_add(&h->body, p, len);
    if (h->on_data)
        h->on_data(h->arg, p, len);
    return h->body.failed ? 0 : len;
}

/* Copies the value of header `name` if the line is that one; printable characters only, and no spaces around it. */
static void take(const char *line, size_t len, const char *name, char *out, size_t cap)
{
    size_t n = strlen(name), k = 0;
    if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
        return;
    for (size_t i = n + 1; i < len && k < cap - 1; i++)
        if (isgraph((unsigned char)line[i]) || (line[i] == ' ' && k))
            out[k++] = line[i];
    while (k && out[k - 1] == ' ')
        k--;
    out[k] = 0;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct st_http *h = arg;
    take(p, size * n, "Sotto-Protection", h->protection, sizeof h->protection);
    take(p, size * n, "Sotto-Scheme", h->scheme, sizeof h->scheme);
    take(p, size * n, "Sotto-Verified", h->verified, sizeof h->verified);
    return size * n;
}

/* The key of the environment belongs to the endpoint of the environment. Whoever listens on a default port, or has the
 * user name a URL, must not get what may be the key of another service. */
static const char *key_for(const char *url)
{
    const char *key = getenv("OPENAI_API_KEY"), *base = getenv("OPENAI_BASE_URL");
    const char *authority = base ? strstr(base, "://") : NULL;
    if (!key || !*key || !authority)
        return NULL;
    size_t n = (size_t)(authority - base) + 3;
    n += strcspn(base + n, "/?#");
    return strncasecmp(url, base, n) == 0 && (!url[n] || strchr("/?#", url[n])) ? key : NULL;
}

int st_http_run(struct st_http *h, struct st_err *e)
{
    static bool ready;
    if (!ready)
        ready = curl_global_init(CURL_GLOBAL_DEFAULT) == 0;
    CURL *c = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    const char *key = key_for(h->url);
    if (key) {
        struct st_buf auth = {0};
        st_buf_addf(&auth, "Authorization: Bearer %s", key);
        headers = curl_slist_append(headers, auth.p ? auth.p : "");
        st_buf_wipe(&auth);
    }
    int rc = 0;
    if (!c || !headers) {
        rc = st_fail(e, ST_MEMORY, "no memory for an HTTP request");
        goto out;
    }
    curl_easy_setopt(c, CURLOPT_URL, h->url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, h);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, h);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)(h->timeout_s * 1e3));
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    /* A loopback address never goes through HTTP_PROXY. */
    curl_easy_setopt(c, CURLOPT_NOPROXY, "127.0.0.1,localhost,::1");
    if (h->post)
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, h->post);
    CURLcode code = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &h->status);
    if (code != CURLE_OK)
        rc = st_fail(e, ST_IO, "%s: %s", h->url, curl_easy_strerror(code));
out:
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
    return rc;
}

void st_http_wipe(struct st_http *h)
{
    st_buf_wipe(&h->body);
}

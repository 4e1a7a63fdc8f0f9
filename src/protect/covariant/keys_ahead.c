#include "protect/covariant/keys_ahead.h"

static void *draw(void *arg)
{
    struct st_cov_keys_ahead *a = arg;
    a->err.code = 0;
    (void)!st_cov_layer_keys_init(&a->keys, &a->draw, a->layer, &a->err);
    return NULL;
}

static void begin(struct st_cov_keys_ahead *a, const struct st_cov_draw *d, int layer)
{
    a->draw = *d;
    a->layer = layer;
    /* Without a thread the layer is drawn when it is asked for. */
    a->running = pthread_create(&a->thread, NULL, draw, a) == 0;
}

void st_cov_keys_ahead_stop(struct st_cov_keys_ahead *a)
{
    if (!a->running)
        return;
    pthread_join(a->thread, NULL);
    a->running = false;
    st_cov_layer_keys_wipe(&a->keys);
}

int st_cov_keys_ahead_take(struct st_cov_keys_ahead *a, const struct st_cov_draw *d, int layer,
                           struct st_cov_layer_keys *k, struct st_err *e)
{
    int rc;
    if (a->running && a->layer == layer) {
        pthread_join(a->thread, NULL);
        a->running = false;
        *k = a->keys;
        *e = a->err;
        rc = e->code;
    } else {
        st_cov_keys_ahead_stop(a);
        rc = st_cov_layer_keys_init(k, d, layer, e);
    }
    if (!rc && (uint32_t)layer + 1 < d->model->config.n_layer)
        begin(a, d, layer + 1);
    return rc;
}

#include "service/background.h"
#include "base/buf.h"
#include "base/priority.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct st_background {
    struct st_background_opts o;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t asked;
    bool started, want, end; /* under the lock */
    bool busy;               /* event loop's */
    int fd;                  /* eventfd: work is done */
    struct event *event;
};

static void *thread_main(void *arg)
{
    struct st_background *b = arg;
    const uint64_t one = 1;
    st_priority_background();
    pthread_mutex_lock(&b->lock);
    while (!b->end) {
        if (!b->want) {
            pthread_cond_wait(&b->asked, &b->lock);
            continue;
        }
        b->want = false;
        pthread_mutex_unlock(&b->lock);
        b->o.work(b->o.arg);
        while (write(b->fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_mutex_lock(&b->lock);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
    struct st_background *b = arg;
    uint64_t n;
    (void)what;
    if (read(fd, &n, sizeof n) != sizeof n)
        return;
    b->busy = false;
    b->o.done(b->o.arg);
}

int st_background_new(struct event_base *base, const struct st_background_opts *o, struct st_background **out,
                      struct st_err *e)
{
    struct st_background *b = NULL;
    sigset_t all, old;
    *out = NULL;
    if (st_alloc(&b, 1, sizeof *b, "a thread", e))
        return e->code;
    b->o = *o;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->asked, NULL);
    b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    b->event = b->fd >= 0 ? event_new(base, b->fd, EV_READ | EV_PERSIST, on_done, b) : NULL;
    if (!b->event || event_add(b->event, NULL) != 0) {
        st_background_free(b);
        return st_fail(e, ST_IO, "event loop: %s", strerror(errno));
    }
    /* Signals belong to the event loop's thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&b->thread, NULL, thread_main, b);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    b->started = err == 0;
    if (err) {
        st_background_free(b);
        return st_fail(e, ST_IO, "thread: %s", strerror(err));
    }
    *out = b;
    return 0;
}

bool st_background_run(struct st_background *b)
{
    if (b->busy)
        return false;
    b->busy = true;
    pthread_mutex_lock(&b->lock);
    b->want = true;
    pthread_cond_signal(&b->asked);
    pthread_mutex_unlock(&b->lock);
    return true;
}

bool st_background_busy(const struct st_background *b)
{
    return b->busy;
}

void st_background_free(struct st_background *b)
{
    if (!b)
        return;
    if (b->started) {
        pthread_mutex_lock(&b->lock);
        b->end = true;
        pthread_cond_signal(&b->asked);
        pthread_mutex_unlock(&b->lock);
        pthread_join(b->thread, NULL);
    }
    if (b->event)
        event_free(b->event);
    if (b->fd >= 0)
        close(b->fd);
    pthread_cond_destroy(&b->asked);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

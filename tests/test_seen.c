/* Rows of a recording as attacks read them: of a file that another process still writes, no more than there is room
 * for, and each whole. Run under ASan it shows what is written beyond the room, under TSan what is shared. */
#include "audit/seen.h"
#include "base/file.h"
#include "record_bytes.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { WIDTH = 8, ROWS = 3, READS = 300, AHEAD = 8 };

static char path[64];
static atomic_bool enough;
static atomic_int n_read;
static struct st_buf entries[2]; /* of the text, and of what was asked behind it */

/* Both kinds, one after the other, whole entries; some more for each time that it is read. */
static void *grow(void *arg)
{
    int fd = *(const int *)arg;
    for (int i = 0; !atomic_load(&enough);) {
        const struct st_buf *b = &entries[i % 2];
        if (i > AHEAD * (atomic_load(&n_read) + 1))
            sched_yield();
        else if (write(fd, b->p, b->len) == (ssize_t)b->len)
            i++;
        else
            break;
    }
    return NULL;
}

static void a_recording_that_grows_while_it_is_read_gives_no_more_rows_than_there_is_room_for(void **state)
{
    struct st_err e;
    struct st_buf head = {0};
    pthread_t writer;
    size_t grew = 0, last = 0;
    (void)state;
    put_entry(&entries[0], 1, 0, "q,k,v", ROWS, WIDTH);
    put_entry(&entries[1], ST_SEEN_ASKED, 0, "q,k,v", ROWS, WIDTH);
    memset(entries[0].p + 48, 0, 8); /* time: the same for all, so that it never falls */
    memset(entries[1].p + 48, 0, 8);
    put_file_head(&head);
    st_buf_add(&head, entries[0].p, entries[0].len);
    snprintf(path, sizeof path, "/tmp/sotto-test-seen-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, head.p, head.len), head.len);
    assert_int_equal(pthread_create(&writer, NULL, grow, &fd), 0);
    for (int i = 0; i < READS || grew < 2; i++) {
        struct st_seen s;
        atomic_fetch_add(&n_read, 1);
        int rc = st_seen_read(path, 0, SIZE_MAX, (uint64_t)1 << 30, &s, &e);
        if (rc == ST_INPUT && strstr(e.msg, "cut short")) /* an entry of which a part is there */
            continue;
        assert_ok(rc, &e);
        assert_int_equal(s.d, WIDTH);
        assert_true(s.n >= ROWS && s.n >= last && s.n % ROWS == 0 && s.n_asked % ROWS == 0);
        grew += s.n > last;
        last = s.n;
        st_seen_free(&s);
    }
    atomic_store(&enough, true);
    assert_int_equal(pthread_join(writer, NULL), 0);
    close(fd);
    unlink(path);
    st_buf_free(&head);
    st_buf_free(&entries[0]);
    st_buf_free(&entries[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_recording_that_grows_while_it_is_read_gives_no_more_rows_than_there_is_room_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

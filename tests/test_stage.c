/* What brings a result to disk and gives back its pages changes no byte, does nothing where a file cannot do that, and
 * keeps no failure to itself. */
#include "base/stage.h"
#include "expect.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { BYTES = 3 << 20, ODD = 1234 };

static void settled_bytes_are_those_that_were_written(void **state)
{
    (void)state;
    struct st_err e;
    char path[] = "/tmp/sotto-test-XXXXXX";
    int fd = mkstemp(path), other;
    uint8_t *wrote = malloc(BYTES), *got = malloc(BYTES);
    assert_true(fd >= 0 && wrote && got);
    for (size_t i = 0; i < BYTES; i++)
        wrote[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_ok(st_stage_file(path, BYTES, &other, &e), &e);
    /* Ranges that share a page: one is settled while the other is still written. */
    assert_int_equal(st_stage_write(other, 0, wrote, ODD), 0);
    st_stage_push(other, 0, ODD);
    assert_int_equal(st_stage_write(other, ODD, wrote + ODD, BYTES - ODD), 0);
    assert_int_equal(st_stage_settle(other, 0, ODD), 0);
    assert_int_equal(st_stage_settle(other, ODD, BYTES - ODD), 0);
    assert_int_equal(pread(fd, got, BYTES, 0), BYTES);
    assert_memory_equal(got, wrote, BYTES);
    close(other);
    close(fd);
    unlink(path);
    free(wrote);
    free(got);
}

static void what_has_no_pages_to_settle_is_left_alone(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    st_stage_push(ends[1], 0, BYTES);
    assert_int_equal(st_stage_settle(ends[1], 0, BYTES), 0);
    close(ends[0]);
    close(ends[1]);
}

static void a_file_that_cannot_be_settled_is_an_error(void **state)
{
    (void)state;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(st_stage_settle(fd, 0, BYTES), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settled_bytes_are_those_that_were_written),
        cmocka_unit_test(what_has_no_pages_to_settle_is_left_alone),
        cmocka_unit_test(a_file_that_cannot_be_settled_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Whose turn it is (base/priority.h), as the kernel tells it of each thread. */
#include "expect.h"

#include "base/priority.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t turn, deadline, period;
};

/* size 0: the kernel does not say. */
static struct attr mine(void)
{
    struct attr a = {0};
    return syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) == 0 ? a : (struct attr){0};
}

/* Each case in a thread of its own: what it asks for cannot be taken back. Nothing is asserted there. */
struct thread {
    void (*before)(void), (*asks)(void);
    struct thread *child; /* started in the end */
    struct attr was, is;
};

static int in_thread(struct thread *t);

static void *run(void *arg)
{
    struct thread *t = arg;
    if (t->before)
        t->before();
    t->was = mine();
    if (t->asks)
        t->asks();
    t->is = mine();
    if (t->child && in_thread(t->child))
        t->child->is.size = 0;
    return NULL;
}

static int in_thread(struct thread *t)
{
    pthread_t id;
    int rc = pthread_create(&id, NULL, run, t);
    return rc ? rc : pthread_join(id, NULL);
}

static void run_all(struct thread *t)
{
    assert_int_equal(in_thread(t), 0);
    for (; t; t = t->child)
        assert_true(t->was.size && t->is.size);
}

static void background_work_gives_way_and_no_other_thread_does(void **state)
{
    (void)state;
    struct attr before = mine();
    struct thread t = {.asks = st_priority_background};
    run_all(&t);
    assert_int_equal(t.is.policy, SCHED_BATCH);
    assert_true(t.is.nice >= t.was.nice + 10 || t.is.nice == 19);
    struct attr after = mine();
    assert_int_equal(after.policy, before.policy);
    assert_int_equal(after.nice, before.nice);
}

/* Kernels before 6.12 know no turns of a thread's own and say 0. */
static void who_answers_has_shorter_turns_than_who_works_behind(void **state)
{
    (void)state;
    struct thread answers = {.asks = st_priority_answer}, works = {.asks = st_priority_background};
    run_all(&answers);
    run_all(&works);
    assert_int_equal(answers.is.policy, SCHED_OTHER);
    assert_int_equal(answers.is.nice, answers.was.nice);
    if (answers.was.turn) {
        assert_true(answers.is.turn < answers.was.turn);
        assert_true(works.is.turn > answers.was.turn);
    } else
        assert_int_equal(answers.is.turn, 0);
}

static void work_that_an_answering_thread_starts_can_give_way(void **state)
{
    (void)state;
    struct thread works = {.asks = st_priority_background}, answers = {.asks = st_priority_answer, .child = &works};
    run_all(&answers);
    assert_int_equal(works.was.turn, answers.is.turn);
    assert_int_equal(works.is.policy, SCHED_BATCH);
    assert_true(!answers.is.turn || works.is.turn > answers.is.turn);
}

static void be_very_nice(void)
{
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), 15);
}

static void a_nice_program_stays_nice(void **state)
{
    (void)state;
    struct thread answers = {.before = be_very_nice, .asks = st_priority_answer},
                  works = {.before = be_very_nice, .asks = st_priority_background};
    run_all(&answers);
    run_all(&works);
    assert_int_equal(answers.is.nice, 15);
    assert_int_equal(works.is.nice, 19);
}

static void be_idle(void)
{
    (void)sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
}

static void a_policy_that_somebody_chose_stands(void **state)
{
    (void)state;
    void (*const asks[])(void) = {st_priority_answer, st_priority_background};
    for (size_t i = 0; i < 2; i++) {
        struct thread t = {.before = be_idle, .asks = asks[i]};
        run_all(&t);
        assert_int_equal(t.is.policy, SCHED_IDLE);
        assert_int_equal(t.is.nice, t.was.nice);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(background_work_gives_way_and_no_other_thread_does),
        cmocka_unit_test(who_answers_has_shorter_turns_than_who_works_behind),
        cmocka_unit_test(work_that_an_answering_thread_starts_can_give_way),
        cmocka_unit_test(a_nice_program_stays_nice),
        cmocka_unit_test(a_policy_that_somebody_chose_stands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

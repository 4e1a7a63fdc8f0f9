/* What a process says of the machine around it, on made-up ones; and that hardening holds. */
#include "expect.h"

#include "base/file.h"
#include "service/host.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char root[64];

static void put(const char *path, const char *text)
{
    char full[512];
    struct st_err e = {0};
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(full, 0700);
        *p = '/';
    }
    if (text)
        assert_ok(st_file_write(full, text, strlen(text), 0600, true, &e), &e);
    else
        assert_int_equal(mkdir(full, 0700), 0);
}

static int set_up(void **state)
{
    (void)state;
    strcpy(root, "/tmp/sotto_host_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
    char cmd[128];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf %s", root);
    return system(cmd);
}

static struct st_host look(void)
{
    struct st_host h;
    st_host_look(root, &h);
    return h;
}

static void a_plain_machine_keeps_nothing_from_its_owner(void **state)
{
    (void)state;
    struct st_host h = look();
    assert_int_equal(h.tee, ST_TEE_NONE);
    assert_false(h.evidence);
    assert_non_null(strstr(st_host_case(&h), "not from its owner"));
    assert_int_equal(h.swaps, -1);
    assert_int_equal(h.ptrace_scope, -1);
    assert_false(h.tpm);
}

static void each_environment_is_known_by_its_files(void **state)
{
    (void)state;
    put("/dev/sev-guest", "");
    struct st_host h = look();
    assert_int_equal(h.tee, ST_TEE_SNP);
    assert_true(h.evidence);
    put("/dev/tdx_guest", "");
    h = look();
    assert_int_equal(h.tee, ST_TEE_TDX);
    put("/dev/attestation/attestation_type", "none");
    h = look();
    assert_int_equal(h.tee, ST_TEE_SGX);
    assert_false(h.evidence);
    put("/dev/attestation/attestation_type", "dcap");
    h = look();
    assert_true(h.evidence);
    /* What a machine says of itself is never more than that. */
    assert_non_null(strstr(st_host_case(&h), "says"));
    assert_non_null(strstr(st_host_case(&h), "as far as"));
}

static void swap_yama_and_tpm_are_found(void **state)
{
    (void)state;
    put("/proc/swaps", "Filename\tType\n/swapfile file 1 0 -2\n");
    put("/proc/sys/kernel/yama/ptrace_scope", "2\n");
    put("/dev/tpmrm0", "");
    struct st_host h = look();
    assert_int_equal(h.swaps, 1);
    assert_int_equal(h.ptrace_scope, 2);
    assert_true(h.tpm);
}

static void all_of_it_is_told_as_json(void **state)
{
    struct st_buf b = {0};
    struct st_err e = {0};
    json_t *j = NULL;
    (void)state;
    struct st_host h;
    st_host_look("", &h);
    st_host_json(&h, &b);
    assert_ok(st_json_parse(b.p, b.len, "host", &j, &e), &e);
    assert_true(json_is_string(json_object_get(j, "tee")));
    assert_int_equal(json_integer_value(json_object_get(j, "landlock")), h.landlock);
    json_decref(j);
    st_buf_free(&b);
}

/* In a child: it cannot be taken back. */
static void a_process_that_is_traced_already_takes_no_key(void **state)
{
    int status;
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        struct st_err e = {0};
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
            _exit(77);
        _exit(st_host_harden(&e) == ST_POLICY && strstr(e.msg, "traced") ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("skips: nothing may be traced here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_hardened_process_leaves_no_core_and_is_read_by_nobody(void **state)
{
    int status;
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        struct st_err e = {0};
        struct rlimit core;
        struct st_host before, after;
        (void)prctl(PR_SET_DUMPABLE, 1);
        st_host_look("", &before);
        if (st_host_harden(&e) || getrlimit(RLIMIT_CORE, &core) || core.rlim_max)
            _exit(1);
        st_host_look("", &after);
        _exit(before.dumpable && !after.dumpable && !after.core && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_plain_machine_keeps_nothing_from_its_owner, set_up, tear_down),
        cmocka_unit_test_setup_teardown(each_environment_is_known_by_its_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(swap_yama_and_tpm_are_found, set_up, tear_down),
        cmocka_unit_test(all_of_it_is_told_as_json),
        cmocka_unit_test(a_process_that_is_traced_already_takes_no_key),
        cmocka_unit_test(a_hardened_process_leaves_no_core_and_is_read_by_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

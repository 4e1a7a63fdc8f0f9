#!/bin/sh
# make check: everything that looks at the code rather than at one behaviour. Each step prints one line; the last line is
# `N passed, N failed`. SOTTO_FUZZ_SECONDS (default 5) per fuzz target.
set -u
cd "$(dirname "$0")/.."
export SOTTO_SHARED="${SOTTO_SHARED:-$PWD/../shared}"
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
log=build/check.log
mkdir -p build
passed=0
failed=0

step() { # step NAME COMMAND...
    name=$1
    shift
    start=$(date +%s)
    if "$@" >$log 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name ($(($(date +%s) - start)) s)"
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
        tail -n 60 $log | sed 's/^/    /'
    fi
}

preset() { cmake --preset "$1" && cmake --build --preset "$1"; }
sources() { git ls-files 'src/*.[ch]' 'include/*.h' 'tests/*.[ch]' 'fuzz/*.[ch]' 'bench/*.[ch]'; }
format() { sources | xargs clang-format-14 --dry-run -Werror; }
analyse() {
    git ls-files 'src/*.c' | grep -Ev 'avx(2|512)\.c$' | xargs cppcheck -q -j"$(nproc)" --enable=warning,performance,portability \
        --std=c11 --library=posix --library=gnu --error-exitcode=1 --suppressions-list=scripts/cppcheck.txt \
        --suppress=missingIncludeSystem --suppress=unknownMacro -D_GNU_SOURCE -D__x86_64__ -I src -I include
}
threaded='tensor engine server upstream api covariant cov_verify pads shm link worker worker_life worker_client node node_engine issuer sealed_store store_engine
    worker_proof masked_preparer audit_frame seen'
# shellcheck disable=SC2046,SC2086
tsan() { cmake --preset tsan && cmake --build --preset tsan --target sotto-cli sotto-worker sotto-node $(printf 'test_%s ' $threaded); }

step "layers" scripts/layers.py
step "format (clang-format-14)" format
step "gcc, warnings are errors" preset release
step "clang, warnings are errors" preset clang
step "symbols" scripts/symbols.sh build
step "static analysis (cppcheck)" analyse
step "build under ASan and UBSan" preset asan
step "C tests under ASan and UBSan" scripts/test.py build/asan --no-interop
step "build under TSan" tsan
step "threaded C tests under TSan" scripts/test.py build/tsan --no-interop --only "test_($(echo "$threaded" | xargs | tr ' ' '|'))\$"
step "build fuzz targets" preset fuzz
git ls-files 'fuzz/fuzz_*.c' | xargs -n 1 basename -s .c | xargs -P "$(nproc)" -n 1 scripts/fuzz.sh | tee build/fuzz.log
passed=$((passed + $(grep -c '^ok' build/fuzz.log)))
failed=$((failed + $(grep -c '^FAILED' build/fuzz.log)))
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]

#!/bin/sh
# Installs what a target needs and this machine lacks: scripts/deps.sh [build|test|bench|check]...
# Each row is a probe and the Debian package that satisfies it. Nothing is touched when all probes succeed.
set -eu

rows() {
    case $1 in
    build) cat <<'END'
cmd:cc gcc
cmd:cmake cmake
cmd:ninja ninja-build
cmd:pkg-config pkg-config
lib:libcrypto libssl-dev
lib:jansson libjansson-dev
lib:libpcre2-8 libpcre2-dev
lib:libutf8proc libutf8proc-dev
lib:libxml-2.0 libxml2-dev
lib:libevent_openssl libevent-dev
lib:libcurl libcurl4-openssl-dev
lib:openblas libopenblas-dev
lib:lapacke liblapacke-dev
lib:libargon2 libargon2-dev
lib:sqlite3 libsqlite3-dev
lib:libpq libpq-dev
lib:libseccomp libseccomp-dev
lib:tss2-esys libtss2-dev
inc:stdlib.h libc6-dev
END
        ;;
    test) cat <<'END'
lib:cmocka libcmocka-dev
cmd:python3 python3
cmd:swtpm swtpm
cmd:tpm2_import tpm2-tools
cmd:pg_ctlcluster postgresql
py:ensurepip python3-venv
END
        ;;
    bench) cat <<'END'
cmd:c++ g++
END
        ;;
    check) cat <<'END'
cmd:clang-14 clang-14
cmd:llvm-symbolizer-14 llvm-14
cmd:clang-format-14 clang-format-14
cmd:cppcheck cppcheck
END
        ;;
    *)
        echo "deps.sh: want build, test, bench or check, got '$1'" >&2
        exit 2
        ;;
    esac
}

present() {
    case $1 in
    cmd:*) command -v "${1#cmd:}" >/dev/null 2>&1 ;;
    lib:*) pkg-config --exists "${1#lib:}" 2>/dev/null ;;
    inc:*) echo "#include <${1#inc:}>" | cc -E - >/dev/null 2>&1 ;;
    py:*) python3 -c "import ${1#py:}" 2>/dev/null ;;
    esac
}

missing=$(for set in "${@:-build}"; do
    rows "$set" | while read -r probe package; do
        present "$probe" || echo "$package"
    done
done | sort -u | tr '\n' ' ')
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "sotto needs these packages (names as in Debian 12); this system has no apt-get, please install them:" >&2
    for package in $missing; do echo "    $package" >&2; done
    exit 4
fi
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null 2>&1; then
    sudo=sudo
else
    echo "sotto needs packages that only root can install; please run as root: apt-get install $missing" >&2
    exit 4
fi
echo "installing by apt-get: $missing"
export DEBIAN_FRONTEND=noninteractive
# The package lists are fetched only when a name is not known or no longer downloads.
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 || {
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

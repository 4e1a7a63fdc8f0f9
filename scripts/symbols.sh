#!/bin/sh
# Exported names: every global symbol of libsotto.a begins with st_ or sotto_, so that it links beside anything.
set -eu
lib=$1/libsotto.a
bad=$(nm -g --defined-only "$lib" 2>/dev/null | awk 'NF == 3 && $3 !~ /^(st_|sotto_|__odr_asan|__sanitizer|__start_|__stop_)/ {print $3}' | sort -u)
[ -z "$bad" ] || {
    echo "global names without prefix in $lib:" $bad
    exit 1
}
echo "symbols: ok"

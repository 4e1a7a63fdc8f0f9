#!/bin/sh
# Names, by nm, of the build folder $1:
# every global symbol of libsotto.a begins with st_ or sotto_, so that it links beside anything;
# sotto-worker holds code of the files below and of no other: no protection, no integrity check, no sampler of secrets, no
# engine, no client, no key. What it may hold is named, so that a new file is kept out until somebody decides.
set -eu
build=$1
may='base/|text/|tensor/|model/|crypto/digest|net/'
may="$may|field/(backend|k_field|kernels|lwe|ntt|product)"
may="$may|service/(prepare|worker|worker_(listen|memory|metrics|peer|queue))\.c"
may_not='net/(http_client|link)'

bad=$(nm -g --defined-only "$build/libsotto.a" 2>/dev/null |
    awk 'NF == 3 && $3 !~ /^(st_|sotto_|__odr_asan|__sanitizer|__start_|__stop_)/ {print $3}' | sort -u)
[ -z "$bad" ] || {
    echo "global names without prefix in $build/libsotto.a:" $bad
    exit 1
}

# "symbol file" of everything in the library, against what the program has.
objects=$build/CMakeFiles/sotto.dir/src
held=$(mktemp)
trap 'rm -f "$held"' EXIT
nm --defined-only "$build/bin/sotto-worker" | awk '{print $NF}' | sort -u >"$held"
[ "$(grep -c '^st_worker_run$' "$held")" = 1 ] || {
    echo "$build/bin/sotto-worker: no symbols to look at"
    exit 1
}
bad=$(find "$objects" -name '*.o' | while read -r o; do
    file=${o#"$objects"/}
    if ! echo "$file" | grep -Eq "^($may)" || echo "$file" | grep -Eq "^($may_not)"; then
        nm -g --defined-only "$o" 2>/dev/null | awk -v f="$file" 'NF == 3 && $3 ~ /^st_/ {print $3, f}'
    fi
done | sort | join - "$held")
[ -z "$bad" ] || {
    echo "sotto-worker holds what it must not:"
    echo "$bad"
    exit 1
}
echo "symbols: ok"

#!/bin/sh
# Names, by nm, of the build folder $1:
# every global symbol of libsotto.a begins with st_ or sotto_, so that it links beside anything;
# sotto-worker holds code of the files below and of no other: no protection, no integrity check, no sampler of secrets, no
# engine, no client; what proves and judges evidence (--private-weights, --preparer), and no other key than simulated
# evidence's; of signatures it verifies those of evidence and of a sealed container's publisher;
# sotto-node holds the keys of its own role, collectors, the sealed channel and HTTP both ways, and no other: no verifier,
# no policy, no engine, no model but its digest, no protection, no token, no log. What a program may hold is named, so that
# a new file is kept out until somebody decides; the node loads no library for numbers either.
set -eu
build=$1

bad=$(nm -g --defined-only "$build/libsotto.a" 2>/dev/null |
    awk 'NF == 3 && $3 !~ /^(st_|sotto_|__odr_asan|__sanitizer|__start_|__stop_)/ {print $3}' | sort -u)
[ -z "$bad" ] || {
    echo "global names without prefix in $build/libsotto.a:" $bad
    exit 1
}

# "symbol file" of everything in the library that is not on a program's list, against what the program has.
# check PROGRAM SYMBOL-THAT-MUST-BE-THERE MAY MAY-NOT
objects=$build/CMakeFiles/sotto.dir/src
held=$(mktemp)
trap 'rm -f "$held"' EXIT
check() {
    nm --defined-only "$build/bin/$1" | awk '{print $NF}' | sort -u >"$held"
    [ "$(grep -c "^$2\$" "$held")" = 1 ] || {
        echo "$build/bin/$1: no symbols to look at"
        exit 1
    }
    bad=$(find "$objects" -name '*.o' | while read -r o; do
        file=${o#"$objects"/}
        if ! echo "$file" | grep -Eq "^($3)" || echo "$file" | grep -Eq "^($4)"; then
            nm -g --defined-only "$o" 2>/dev/null | awk -v f="$file" 'NF == 3 && $3 ~ /^st_/ {print $3, f}'
        fi
    done | sort | join - "$held")
    [ -z "$bad" ] || {
        echo "$1 holds what it must not:"
        echo "$bad"
        exit 1
    }
}

may='base/|text/|tensor/|model/|crypto/(digest|ed25519_verify)\.c|net/'
may="$may|field/(backend|k_field|kernels|lwe|ntt|product)"
may="$may|attest/|crypto/(ed25519|hkdf|hpke|sequence|x509)\.c"
may="$may|service/(background|prepare|proof|worker|worker_(listen|memory|metrics|peer|proof|queue))\.c"
check sotto-worker st_worker_run "$may" 'net/(http_client|link)'

may='base/|text/|crypto/(digest|ed25519|ed25519_verify|hkdf|hpke|sequence)\.c|model/measure\.c'
may="$may|attest/(binding|collect_[a-z]+|collector|endorse|evidence|tpm_(device|link))\.c"
may="$may|channel/(bhttp|chunks|keyring|ohttp|receipt|reply)\.c|net/(http_[a-z]+|listen|tls)\.c"
may="$may|service/(background|role|node|node_[a-z]+)\.c"
check sotto-node st_node_run "$may" 'base/none'
bad=$(readelf -d "$build/bin/sotto-node" | grep NEEDED | grep -E 'blas|lapack|dnnl|gomp|xml|pcre|utf8proc|sqlite|pq\.' || true)
[ -z "$bad" ] || {
    echo "sotto-node loads what it does not need:"
    echo "$bad"
    exit 1
}
echo "symbols: ok"

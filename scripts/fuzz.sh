#!/bin/sh
# scripts/fuzz.sh TARGET: one fuzz target (after `cmake --build --preset fuzz`) on its corpus, for SOTTO_FUZZ_SECONDS (default 5);
# prints one line, or what it found.
cd "$(dirname "$0")/.." || exit 1
corpus=fuzz/corpus/${1#fuzz_}
work=$(mktemp -d)
[ -d "$corpus" ] || corpus=
# shellcheck disable=SC2086
if "build/fuzz/bin/$1" -max_total_time="${SOTTO_FUZZ_SECONDS:-5}" -timeout=20 -rss_limit_mb=4096 -artifact_prefix="$work/" "$work" $corpus \
    >"$work/log" 2>&1; then
    echo "ok      fuzz $1"
else
    found=$(tail -n 60 "$work/log" | sed 's/^/    /')
    printf 'FAILED  fuzz %s\n%s\n' "$1" "$found"
fi
rm -rf "$work"

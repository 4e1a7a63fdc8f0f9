#!/bin/sh
# Regenerates docs/leakage.md and its charts from audits of the presets that we ship: `make leakage` (takes a while).
# Models: the demo model; stories260K where SOTTO_SHARED has it; a larger seeded one (SOTTO_LEAKAGE_MODEL, a directory).
set -eu
sotto=${1:-build/bin/sotto}
out=docs/leakage
mkdir -p "$out"

audit() { # NAME MODEL [TOKENIZER]
    name=$1 model=$2
    shift 2
    "$sotto" audit demo --model "$model" "$@" --markdown "$out/$name.md" --quiet >/dev/null
}

audit demo models/demo
data=${SOTTO_SHARED:-}/data/models
if [ -f "$data/stories260K.bin" ]; then
    audit stories260k "$data/stories260K.bin" --tokenizer "$data/tok512.bin"
else
    echo "stories260K: skipped, SOTTO_SHARED does not have it" >&2
fi
if [ -n "${SOTTO_LEAKAGE_MODEL:-}" ]; then
    audit seeded "$SOTTO_LEAKAGE_MODEL"
fi

{
    echo "# What leaks: measured"
    echo
    echo "Made by \`make leakage\`; methods, metrics and how to read a row: [audit.md](audit.md). Scores are shares of 0 to 1,"
    echo "higher is better for the attacker."
    echo
    for f in demo stories260k seeded; do
        # Paths of the machine that made it do not belong here; charts lie beside the sections.
        [ -f "$out/$f.md" ] && sed -e "s|\]($f.md.svg)|](leakage/$f.md.svg)|" -e 's|--model [^ ]*/|--model |' \
            -e 's|--tokenizer [^ ]*/|--tokenizer |' -e 's|/[^ :]*/sotto-demo-[^ /:]*/||g' "$out/$f.md"
    done
} >docs/leakage.md
rm -f "$out"/*.md

#!/bin/sh
# What attacks get from the presets that we ship: docs/leakage.md, its charts, and the table in README.md, all from audits
# (`make leakage`; about ten minutes of processor time). Models: the demo model; a larger one with seeded random weights,
# which scripts/seeded_model.py makes; stories260K where SOTTO_SHARED has it. With names, only those are made again.
set -eu
sotto=${1:-build/bin/sotto}
[ $# -eq 0 ] || shift
names=${*:-demo stories260k seeded}
out=docs/leakage work=build/leakage data=${SOTTO_SHARED:-}/data/models
mkdir -p "$out" "$work/made"

# What stands or falls with a model's size and weights; the other attacks say the same of every model.
by_weights=vma-row-sort,vma-columns,gate-ia,attn-ia,nearest,known-pairs,ima-ridge,function,key-rotation,unit-directions
by_weights=$by_weights,null-space,learned-basis,zero-query,pad-reuse,vocabulary,uniformity,sealed-weights

audit() { # NAME, then what is audited and with which texts
    name=$1
    shift
    rm -f "$work/made/$name" "$work/made/$name".*
    echo "$name: sotto audit $*" >&2
    "$sotto" audit "$@" --markdown "$work/made/$name" --quiet >"$work/$name.log"
}

# Stories that the demo model tells, for a model that says nothing of sense.
stories() { # FROM TO
    i=$1
    while [ "$i" -le "$2" ]; do
        "$sotto" complete models/demo -p "Once upon a time" -n 250 --temp 1 --seed "$i" --quiet
        echo "<|endoftext|>"
        i=$((i + 1))
    done
}

for name in $names; do
    case $name in
    demo)
        audit demo demo
        ;;
    stories260k)
        if [ -f "$data/stories260K.bin" ]; then
            audit stories260k demo --model "$data/stories260K.bin" --tokenizer "$data/tok512.bin"
        else
            echo "stories260k: skipped, SOTTO_SHARED does not have it; what docs/leakage.md says of it is lost" >&2
        fi
        ;;
    seeded)
        scripts/seeded_model.py "$work/seeded"
        stories 1 40 >"$work/text.txt"
        stories 41 80 >"$work/prior.txt"
        audit seeded demo --model "$work/seeded" --text "$work/text.txt" --prior "$work/prior.txt" --attacks "$by_weights"
        ;;
    *)
        echo "leakage.sh: no model $name (demo, stories260k, seeded)" >&2
        exit 2
        ;;
    esac
done

# Paths of the machine that made it do not belong in a document; charts lie beside the sections.
for name in $names; do
    [ -f "$work/made/$name" ] || continue
    sed -e "s|]($name|](leakage/$name|" -e "s|$data/||g" -e 's|/[^ :]*/sotto-demo-[^ /:]*/||g' \
        -e 's|^## \(.*\)\.bin$|## \1|' "$work/made/$name" >"$work/$name.md"
    rm -f "$out/$name".*svg
    mv "$work/made/$name".*svg "$out"
    rm "$work/made/$name"
done
{
    cat <<'END'
# What leaks: measured

Made by `make leakage` (scripts/leakage.sh). Methods, what each adversary knows, metrics: [audit.md](audit.md). A row is the strongest attack
of one adversary on one preset; *guessing* is what somebody gets who saw nothing, *without protection* what the same attack gets when
nothing is hidden. Lengths and times stand apart from content: masks, keys and seals do not hide them. These are the attacks that we
know; where one says *nothing measurable*, a better one may come. *seeded* has random weights: its `vocabulary` rows and its perplexities
say nothing ([audit.md](audit.md#models-of-random-weights)).

END
    for name in demo stories260k seeded; do
        [ ! -f "$work/$name.md" ] || cat "$work/$name.md"
    done
} >docs/leakage.md

# README quotes what is known of content on the demo model.
[ -f "$work/demo.md" ] || exit 0
awk -v table="$work/demo.md" '
    /^<!-- leakage -->$/ {
        print
        while ((getline line < table) > 0)
            if (line ~ /^\|/) {
                if (line ~ /lengths and times|schemes of others/)
                    continue
                n = split(line, cell, " \\| ")
                if (line ~ /^\|---/)
                    print "|---|---|---|---|---|---|---|"
                else if (n == 8)
                    printf "%s | %s | %s | %s | %s | %s | %s |\n", cell[1], cell[2], cell[3], cell[4], cell[5], cell[6], cell[7]
            } else if (line ~ /^!/)
                break
        skip = 1
    }
    /^<!-- end of leakage -->$/ { skip = 0 }
    !skip { print }
    ' README.md >"$work/README.md"
cmp -s "$work/README.md" README.md || cp "$work/README.md" README.md

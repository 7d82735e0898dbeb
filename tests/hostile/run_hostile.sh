#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Hostile images against the program itself: `info` and `check` must end in
# time, in bounded memory and by themselves (no signal), whatever they say.
# What the images must do to a reader is the matter of hostile_qcow2.
set -u

top_builddir=${top_builddir:-.}
IMGFUSE=${IMGFUSE:-$top_builddir/imgfuse}
MAKER=${MAKER:-$top_builddir/tests/hostile/hostile_qcow2}

[ -x "$IMGFUSE" ] || { echo "no program at $IMGFUSE"; exit 77; }
command -v prlimit >/dev/null || { echo "no prlimit"; exit 77; }
# AddressSanitizer's shadow memory alone is above any limit.
memory=--data=268435456
grep -q __asan_init "$IMGFUSE" && memory=

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$MAKER" --write "$dir" || exit 1

wrong=0
run=0
for image in "$dir"/*.qcow2; do
    name=${image##*/}
    for command in "info --output=json" "check --output=json -f qcow2"; do
        # shellcheck disable=SC2086
        timeout -k 2 30 prlimit $memory --core=0 \
            "$IMGFUSE" $command "$image" >"$dir/out" 2>"$dir/err"
        code=$?
        run=$((run + 1))
        if [ $code -ge 124 ]; then
            echo "not ok - $name: $command ended with $code"
            wrong=$((wrong + 1))
        elif [ $code -eq 1 ] && [ "$(wc -l <"$dir/err")" -ne 1 ]; then
            echo "not ok - $name: $command: not one line of error"
            cat "$dir/err"
            wrong=$((wrong + 1))
        fi
    done
done
echo "$run runs, $wrong wrong"
[ $wrong -eq 0 ]

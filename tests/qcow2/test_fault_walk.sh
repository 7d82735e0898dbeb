#!/bin/sh
# SPDX-License-Identifier: MIT
#
# every request of a workload fails once, and no image is worse for it
#
# usage: test_fault_walk.sh [PROGRAM] [--full]
# Without --full one index in three is tried. Skipped (77) without qemu-img.

walk=${top_builddir:-.}/tests/qcow2/fault_walk
stride=3
for word; do
    case $word in
    --full) stride=1 ;;
    *)      walk=$word ;;
    esac
done

command -v qemu-img > /dev/null || { echo "no qemu-img: skipped"; exit 77; }
walk=$(realpath "$walk") || exit 2
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 2

# As long as the template, and full of the byte that fault_walk.c knows.
head -c 2M /dev/zero | tr '\0' '\265' > base.raw
qemu-img create -q -f qcow2 -o cluster_size=512 -b base.raw -F raw t.qcow2 ||
    exit 2

# walkers ERRNO...: two processes for each, on indices of their own
pids=
for errno in 5 28; do
    for first in 0 $((stride)); do
        timeout 250 "$walk" --template "$dir/t.qcow2" --errno $errno \
            --first $first --stride $((stride * 2)) > walk.$errno.$first 2>&1 &
        pids="$pids $!"
    done
done
status=0
for pid in $pids; do
    wait "$pid" || status=1
done
cat walk.*
exit $status

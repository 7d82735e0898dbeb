#!/bin/bash
# SPDX-License-Identifier: MIT
#
# random creating, writing, going back and removing of internal snapshots,
# judged by models: raw files with what each snapshot must show
#
# usage: test_snapshots.sh [SEED [STEPS]]
# Each tenth step qemu-img checks the image and reads every snapshot. Skipped
# (77) without qemu-img. Works in a folder of its own under TMPDIR.

RANDOM=${1:-1}
steps=${2:-500}
imgfuse=$(realpath "${IMGFUSE:-${top_builddir:-.}/imgfuse}") || exit 2
ops=$(realpath "${top_builddir:-.}/tests/qcow2/qcow2_ops") || exit 2

command -v qemu-img > /dev/null || { echo "no qemu-img: skipped"; exit 77; }
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 2

# die TEXT: the end, with what led to it
die()
{
    echo "FAIL $1"
    tail -20 steps.log
    exit 1
}

# judge: no errors, and every content is its model's
judge()
{
    qemu-img check -q t.qcow2 > check.log 2>&1 ||
        { head -5 check.log; die "qemu-img check, step $step"; }
    qemu-img compare -q -f qcow2 -F raw t.qcow2 model.raw ||
        die "current state, step $step"
    for name in "${names[@]}"; do
        qemu-img convert -l "$name" -O raw t.qcow2 out.raw &&
            cmp -s out.raw "$name.model" ||
            die "snapshot $name, step $step"
    done
    listed=$("$imgfuse" snapshot -l t.qcow2 | sed '1,2d' | awk '{print $2}')
    [ "$listed" = "$(printf '%s\n' "${names[@]}")" ] ||
        die "list of snapshots, step $step"
}

# write_some: a few operations, compressed ones as well
write_some()
{
    timeout 60 "$ops" --image t.qcow2 --model model.raw --seed "$RANDOM" \
        --ops $((RANDOM % 30 + 1)) --jobs 4 --threads 2 --max-kib 128 \
        --kinds rwwwcczudf 2> ops.log || { cat ops.log; die "write"; }
}

# take_any: $name and $at of one of the snapshots
take_any()
{
    at=$((RANDOM % ${#names[@]}))
    name=${names[at]}
}

# run_steps OPTIONS COUNT: on a fresh image
run_steps()
{
    rm -f -- *.model model.raw t.qcow2 steps.log
    names=()
    qemu-img create -q -f qcow2 -o "$1" t.qcow2 3M || exit 2
    truncate -s 3M model.raw
    for ((step = 1; step <= $2; step++)); do
        what=$((RANDOM % 8))
        [ "${#names[@]}" -eq 0 ] && what=$((what % 4))
        [ "${#names[@]}" -gt 8 ] && what=7
        case $what in
        0 | 1)
            name=s$step
            "$imgfuse" snapshot -c "$name" t.qcow2 || die "create $name"
            cp --sparse=always model.raw "$name.model"
            names+=("$name")
            ;;
        2 | 3 | 4)
            name=
            write_some
            ;;
        5 | 6)
            take_any
            "$imgfuse" snapshot -a "$name" t.qcow2 || die "go to $name"
            cp --sparse=always "$name.model" model.raw
            ;;
        7)
            take_any
            "$imgfuse" snapshot -d "$name" t.qcow2 || die "remove $name"
            rm "$name.model"
            names=("${names[@]:0:at}" "${names[@]:at + 1}")
            ;;
        esac
        echo "$step: $what $name" >> steps.log
        [ $((step % 10)) -eq 0 ] && judge
    done
    judge
}

run_steps cluster_size=4k "$steps"
run_steps cluster_size=512 60
run_steps cluster_size=64k,compat=0.10 60
run_steps cluster_size=64k,refcount_bits=64 60

# Clear words for what cannot be.
run_steps cluster_size=64k 0
"$imgfuse" snapshot -c one t.qcow2 || die "create one"
for line in "-c one:exists already" "-d two:no snapshot 'two'" \
    "-a two:no snapshot 'two'"; do
    # shellcheck disable=SC2086 # an option and its argument
    "$imgfuse" snapshot ${line%%:*} t.qcow2 2> error.log &&
        die "${line%%:*} succeeded"
    grep -q -- "${line#*:}" error.log || { cat error.log; die "message"; }
done
run_steps refcount_bits=1 0
write_some
"$imgfuse" snapshot -c one t.qcow2 2> error.log && die "1-bit refcounts"
grep -q "no room" error.log || { cat error.log; die "message of 1 bit"; }
judge
echo "all equal"

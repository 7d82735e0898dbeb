#!/bin/bash
# SPDX-License-Identifier: MIT
#
# dirty bitmaps by two programs: bits that qemu-img or qemu-io made are those
# that imgfuse reads, and the other way
#
# usage: test_bitmaps.sh [SEED [STEPS]]
# Random actions are done on two images, on one by imgfuse alone, on the other
# by QEMU's tools alone, and on a third by either; the bitmaps of all must be
# equal, as an NBD server shows them. Skipped (77) without the tools. Works in
# a folder of its own under TMPDIR.

RANDOM=${1:-1}
steps=${2:-12}
imgfuse=$(realpath "${IMGFUSE:-${top_builddir:-.}/imgfuse}") || exit 2
poke=$(realpath "${top_builddir:-.}/tests/qcow2/poke") || exit 2

for tool in qemu-img qemu-io qemu-nbd nbdinfo; do
    command -v $tool > /dev/null || { echo "no $tool: skipped"; exit 77; }
done
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

# maps IMAGE: dirty extents of all bitmaps, by name
maps()
{
    names=$(qemu-img info -U "$1" | awk '$1 == "name:" { print $2 }' | sort)
    [ -n "$names" ] || return
    rm -f nbd.socket
    # shellcheck disable=SC2046 # a word each
    timeout 30 qemu-nbd -r -t -e 9 -k "$dir/nbd.socket" -f qcow2 \
        $(printf -- '-B %s ' $names) "$1" &
    server=$!
    for ((i = 0; i < 1000; i++)); do
        [ -S nbd.socket ] && break
        sleep 0.02
    done
    for name in $names; do
        echo "$name: $(timeout 20 nbdinfo --map="qemu:dirty-bitmap:$name" \
            "nbd+unix:///?socket=$dir/nbd.socket" |
            awk '$3 == 1 { printf "%d+%d ", $1, $2 }')"
    done
    kill $server
    wait $server 2> /dev/null
}

# bitmap PROGRAM IMAGE ACTION... NAME
bitmap()
{
    program=$1 image=$2
    shift 2
    $program bitmap "${@:1:$#-1}" "$image" "${@: -1}"
}

# write PROGRAM IMAGE OFFSET BYTES: with QEMU's driver, or ours
write()
{
    if [ "$1" = qemu-img ]; then
        qemu-io -f qcow2 -c "write -q -P 5 $3 $4" "$2" > /dev/null
    else
        "$poke" "$2" "$3" "$4"
    fi
}

# all ARGUMENTS...: the action on all three images
all()
{
    what=$1
    shift
    echo "$what $*" >> steps.log
    either=("$imgfuse" qemu-img)
    $what "$imgfuse" ours.qcow2 "$@" || die "imgfuse: $what $*"
    $what qemu-img theirs.qcow2 "$@" || die "qemu-img: $what $*"
    $what "${either[RANDOM % 2]}" mixed.qcow2 "$@" || die "mixed: $what $*"
}

judge()
{
    maps theirs.qcow2 > theirs.maps
    for image in ours mixed; do
        maps $image.qcow2 > $image.maps
        diff theirs.maps $image.maps || die "bits of $image.qcow2"
        qemu-img check -q $image.qcow2 || die "qemu-img check $image.qcow2"
        "$imgfuse" check -q $image.qcow2 || die "check $image.qcow2"
        qemu-img info -U $image.qcow2 | sed -n '/bitmaps/,/refcount/p' |
            sort > $image.info
    done
    qemu-img info -U theirs.qcow2 | sed -n '/bitmaps/,/refcount/p' | sort |
        diff - ours.info || die "facts of ours.qcow2"
    diff ours.info mixed.info || die "facts of mixed.qcow2"
}

# one_step: a random action on a random one of b0 to b3
one_step()
{
    name=b$((RANDOM % 4))
    other=b$(((${name#b} + 1 + RANDOM % 3) % 4))
    offset=$((RANDOM % (size / 512) * 512))
    bytes=$((RANDOM * RANDOM % (size - offset) / 512 * 512 + 512))
    [ $((RANDOM % 3)) = 0 ] || bytes=$((bytes % 200000 / 512 * 512 + 512))
    [ $((offset + bytes)) -le "$size" ] || bytes=$((size - offset))
    case $((RANDOM % 8)) in
    0) all bitmap --clear $name ;;
    1) all bitmap --disable $name ;;
    2) all bitmap --enable $name ;;
    3) all bitmap --merge $other $name ;;
    4) all bitmap --remove --add -g $((512 << RANDOM % 12)) $name ;;
    5) all resize_to $((RANDOM % 40 * 65536 + size - 512)) ;;
    *) all write $offset $bytes ;;
    esac
}

resize_to()
{
    $1 resize -q --shrink "$2" "$3" || return
    size=$3
}

# run_steps SIZE OPTIONS STEPS: on fresh images
run_steps()
{
    size=$1
    rm -f ./*.qcow2 steps.log
    for image in ours theirs mixed; do
        qemu-img create -q -f qcow2 -o "$2" $image.qcow2 "$1" || exit 2
    done
    echo "$1 $2" >> steps.log
    all bitmap --add -g 64k b0
    all bitmap --add -g 512 b1
    all bitmap --add -g 2G --disable b2
    all bitmap --add b3
    for ((step = 1; step <= $3; step++)); do
        one_step
        one_step
        one_step
        judge
    done
}

run_steps 50331648 cluster_size=64k "$steps"
run_steps 8388608 cluster_size=512 $((steps / 3))
run_steps 1073741824 cluster_size=4k,refcount_bits=64 $((steps / 3))

# All bits set, over more than one cluster of bits: entries without a cluster.
rm -f ./*.qcow2
qemu-img create -q -f qcow2 -o cluster_size=512 full.qcow2 8M
"$imgfuse" bitmap --add -g 512 full.qcow2 b || die "add to full.qcow2"
"$poke" full.qcow2 0 8388608 || die "filling"
[ "$(maps full.qcow2)" = "b: 0+8388608 " ] || die "all bits set"
qemu-img check -q full.qcow2 || die "check of full.qcow2"

# Copies hold what the source holds.
qemu-img create -q -f qcow2 a.qcow2 64M
qemu-img bitmap --add -g 64k a.qcow2 b0
qemu-io -c "write -q 1M 1M" -c "write -q 40M 64k" a.qcow2
qemu-img bitmap --add --disable --merge b0 a.qcow2 b1
"$imgfuse" convert --bitmaps -O qcow2 a.qcow2 ours.qcow2 || die convert
[ "$(maps ours.qcow2)" = "$(maps a.qcow2)" ] || die "bits of the copy"
qemu-img create -q -f qcow2 t.qcow2 64M
"$imgfuse" bitmap --add --disable -g 4k --merge b0 -b a.qcow2 -F qcow2 \
    t.qcow2 t || die "merge from a file"
[ "$(maps t.qcow2)" = "t: 1048576+1048576 41943040+65536 " ] ||
    die "bits merged from a file: $(maps t.qcow2)"

# Repairing keeps them: leaks, and counts that are all wrong.
cp a.qcow2 leaky.qcow2
truncate -s +65536 leaky.qcow2
printf '\0\1' | dd of=leaky.qcow2 bs=1 conv=notrunc status=none \
    seek=$((131072 + 2 * ($(stat -c %s leaky.qcow2) / 65536 - 1)))
"$imgfuse" check -q -r leaks leaky.qcow2 || die "repairing leaks"
qemu-img check -q leaky.qcow2 || die "check after repairing leaks"
[ "$(maps leaky.qcow2)" = "$(maps a.qcow2)" ] || die "bits after repair"
cp a.qcow2 zeros.qcow2
dd if=/dev/zero of=zeros.qcow2 bs=64k seek=2 count=1 conv=notrunc status=none
"$imgfuse" check -q -r all zeros.qcow2 > /dev/null
qemu-img check -q zeros.qcow2 || die "check after repairing counts"
[ "$(maps zeros.qcow2)" = "$(maps a.qcow2)" ] || die "bits after rebuild"

# A program that knows no bitmaps clears the autoclear bit: they are dropped.
cp a.qcow2 stale.qcow2
printf '\0' | dd of=stale.qcow2 bs=1 seek=95 conv=notrunc status=none
"$imgfuse" info stale.qcow2 | grep -q bitmaps && die "stale bitmaps shown"
"$poke" stale.qcow2 0 65536 || die "writing to stale.qcow2"
"$imgfuse" bitmap --add stale.qcow2 b0 || die "add after stale ones"
"$imgfuse" check -q -r leaks stale.qcow2 || die "leaks of stale ones"
qemu-img check -q stale.qcow2 || die "check of stale.qcow2"
[ "$(maps stale.qcow2)" = "b0: " ] || die "bits after stale ones"

# A backing file's name behind the extensions makes way, and stays.
for format in "" "-F qcow2"; do
    rm -f top.qcow2
    # shellcheck disable=SC2086 # an option and its argument
    qemu-img create -q -f qcow2 -u -b a.qcow2 $format top.qcow2 64M ||
        qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2 || exit 2
    "$imgfuse" bitmap --add top.qcow2 b0 || die "add over a backing file"
    qemu-img info top.qcow2 | grep -q "^backing file: a.qcow2" ||
        die "the backing file's name"
    "$poke" top.qcow2 65536 65536 || die "writing to top.qcow2"
    qemu-img check -q top.qcow2 || die "check of top.qcow2"
    [ "$(maps top.qcow2)" = "b0: 65536+65536 " ] || die "bits of top.qcow2"
done

# Snapshots and bitmaps live side by side.
"$imgfuse" snapshot -c s a.qcow2 || die "snapshot"
"$poke" a.qcow2 10485760 65536 || die "writing over a snapshot"
qemu-img check -q a.qcow2 || die "check with a snapshot"
[ "$(maps a.qcow2 | head -1)" = \
    "b0: 1048576+1048576 10485760+65536 41943040+65536 " ] ||
    die "bits over a snapshot"
echo "all equal"

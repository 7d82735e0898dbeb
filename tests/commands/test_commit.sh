# SPDX-License-Identifier: MIT
#
# imgfuse commit: an overlay's data goes down into its backing file

. "$(dirname "$0")/lib.sh"

# make_case BASE_SIZE TOP_SIZE [BASE_FORMAT]: base <- mid.qcow2 <- top.qcow2.
make_case() {
    rm -f base ./*.qcow2
    qemu-img create -q -f "${3:-qcow2}" base "$1"
    qemu-io -f "${3:-qcow2}" -c "write -q -P 1 0 3M" base
    qemu-img create -q -f qcow2 -b base -F "${3:-qcow2}" mid.qcow2 "$2"
    qemu-io -c "write -q -P 2 1M 100k" -c "write -q -z 2M 128k" \
        -c "write -q -P 3 5M 1M" mid.qcow2
    qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2
    qemu-io -c "write -q -P 4 1M 10k" -c "write -q -P 5 5000k 1M" top.qcow2
    qemu-img convert -O raw mid.qcow2 mid.raw
    qemu-img convert -O raw top.qcow2 top.raw
}

# has_nothing IMAGE: its own layer is empty.
has_nothing() {
    ! qemu-img map --output=json "$1" | grep -q '"depth": 0' ||
        fail "$1 still has data of its own"
}

step "into the backing file, and the overlay is empty"
for format in qcow2 raw; do
    for sizes in "8M 8M" "6M 9M" "9M 6M"; do
        make_case $sizes $format
        works commit mid.qcow2
        [ "$(cat out.log)" = "Image committed." ] || fail "$(cat out.log)"
        check_image mid.qcow2
        has_nothing mid.qcow2
        same_content -f qcow2 -F raw mid.qcow2 mid.raw
        length=$(stat -c %s mid.raw)
        qemu-img convert -f $format -O raw base base.raw
        cmp -n "$length" base.raw mid.raw || fail "$format, $sizes: the base"
        same_content top.qcow2 top.raw
    done
done

step "-d leaves the overlay full"
make_case 8M 8M
cp mid.qcow2 kept.qcow2
works commit -q -d mid.qcow2
[ ! -s out.log ] || fail "says something"
same mid.qcow2 kept.qcow2
qemu-img convert -f qcow2 -O raw base base.raw
same base.raw mid.raw

step "-b goes past layers"
for name in base "$work/base"; do
    make_case 8M 8M
    works commit -b "$name" top.qcow2
    qemu-img convert -f qcow2 -O raw base base.raw
    same base.raw top.raw
done
make_case 8M 8M
works commit -b mid.qcow2 top.qcow2
qemu-img convert -O raw mid.qcow2 after.raw
same after.raw top.raw

step "the same as qemu-img does"
make_case 6M 9M
mkdir theirs
cp base mid.qcow2 theirs
(cd theirs && qemu-img commit -q mid.qcow2)
works commit mid.qcow2
same_content -f qcow2 -F qcow2 base theirs/base
check_image base

step "an overlay with snapshots"
make_case 8M 8M
qemu-img snapshot -c s1 mid.qcow2
qemu-io -c "write -q -P 13 0 64k" mid.qcow2
qemu-img convert -O raw mid.qcow2 mid.raw
works commit mid.qcow2
check_image mid.qcow2
same_content -f qcow2 -F raw mid.qcow2 mid.raw

step "progress and rate"
make_case 8M 8M
begin=$(date +%s%N)
works commit -p -r 1M mid.qcow2
grep -q '(100.00/100%)' out.log || fail "no end of the progress"
[ $(($(date +%s%N) - begin)) -gt 500000000 ] || fail "-r is not kept"

step "bad input changes nothing"
make_case 8M 8M
cp mid.qcow2 kept.qcow2
refused 1 'no backing file' commit base
refused 1 'no .nothing. in' commit -b nothing mid.qcow2
refused 1 'No such file' commit missing.qcow2
wrong_usage commit -r fast mid.qcow2
wrong_usage commit
same mid.qcow2 kept.qcow2

step "an interrupt leaves the overlay whole"
make_case 8M 8M
timeout -s INT 0.3 "$IMGFUSE" commit -r 1M mid.qcow2 > out.log 2> err.log
code=$?
[ "$code" = 124 ] || fail "exit code $code"
check_image mid.qcow2
check_image base
same_content -f qcow2 -F raw mid.qcow2 mid.raw
same_content -f qcow2 -F raw top.qcow2 top.raw

step "no room in the base's file system: the overlay is whole"
make_small_disk 3M
make_case 8M 8M
cp base full/base 2> /dev/null
rm -f full/base
qemu-img create -q -f qcow2 full/base 8M
qemu-img create -q -f qcow2 -b "$work/full/base" -F qcow2 over.qcow2
qemu-io -c "write -q -P 9 0 8M" over.qcow2
refused 1 'not committed.*No space' commit --allow-path="$work" over.qcow2
check_image over.qcow2
qemu-io -c "read -q -P 9 0 8M" over.qcow2 > out.log
[ ! -s out.log ] || fail "$(cat out.log)"

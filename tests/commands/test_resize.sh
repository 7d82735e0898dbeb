# SPDX-License-Identifier: MIT
#
# imgfuse resize: growing keeps the data, shrinking must be asked for

. "$(dirname "$0")/lib.sh"

# length_is IMAGE BYTES
length_is() {
    found=$(qemu-img info -U --output=json "$1" |
        sed -n 's/.*"virtual-size": \([0-9]*\),.*/\1/p' | tail -1)
    [ "$found" = "$2" ] || fail "$1 has $found bytes, not $2"
}

make_chain
make_raw a.raw
truncate -s 20M a.raw
cp a.raw before.raw
qemu-img convert -O qcow2 a.raw a.qcow2

step "growing"
for image in a.raw a.qcow2; do
    format=${image#a.}
    works resize -f "$format" "$image" 30M
    [ "$(cat out.log)" = "Image resized." ] || fail "says $(cat out.log)"
    length_is "$image" 31457280
    works resize -f "$format" -q "$image" +10M
    [ ! -s out.log ] || fail "-q is not quiet"
    length_is "$image" 41943040
    same_content "$image" before.raw
done
check_image a.qcow2

step "shrinking"
for image in a.raw a.qcow2; do
    format=${image#a.}
    refused 1 '--shrink' resize -f "$format" "$image" 10M
    refused 1 '--shrink' resize -f "$format" "$image" -1M
    length_is "$image" 41943040
    works resize -f "$format" --shrink "$image" -20M
    length_is "$image" 20971520
    same_content "$image" before.raw
    works resize -f "$format" --shrink "$image" 4M
    length_is "$image" 4194304
done
check_image a.qcow2
truncate -s 4M before.raw
same_content a.qcow2 before.raw

step "what was shrunk away does not come back"
works resize -f qcow2 a.qcow2 20M
truncate -s 20M before.raw
same_content a.qcow2 before.raw

step "an overlay grows without showing more of its backing file"
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 short.qcow2 1M
works resize short.qcow2 4M
qemu-img convert -O raw short.qcow2 short.raw
truncate -s 1M first.raw
qemu-io -f raw -c "write -q -P 1 0 1M" first.raw
truncate -s 4M first.raw
same short.raw first.raw
check_image short.qcow2

step "preallocation"
works resize -f raw --preallocation=full a.raw 8M
[ "$(stat -c '%b' a.raw)" -ge $((4 * 2048)) ] || fail "nothing is allocated"
refused 1 'growing' resize -f raw --shrink --preallocation=full a.raw 1M
wrong_usage resize --preallocation=some a.raw 1M

step "bad input"
refused 1 'not found\|No such file' resize missing.qcow2 1G
refused 1 'qcow2' resize -f qcow2 before.raw 1G
refused 1 'new size' resize --shrink a.qcow2 -30M
refused 1 'too large\|new size' resize a.qcow2 +8191P
wrong_usage resize a.qcow2
wrong_usage resize a.qcow2 big

step "an image that is in use"
use_image a.qcow2
run resize a.qcow2 +1M
leave_image
[ "$code" = 1 ] || fail "an image in use was resized"

step "no room"
make_small_disk 4M
truncate -s 1M full/a.raw
refused 1 'No space' resize -f raw --preallocation=full full/a.raw 200M
length_is full/a.raw 1048576

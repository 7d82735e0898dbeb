# SPDX-License-Identifier: MIT
#
# imgfuse info of a block device: what it tells of its sectors

. "$(dirname "$0")/lib.sh"

need losetup
[ "$(id -u)" = 0 ] || skip "not root"

step "a device with sectors of 4096 bytes"
truncate -s 4M disk.raw
loop=$(losetup --show -f --sector-size 4096 "$work/disk.raw" 2> err.log) ||
    skip "no loop device: $(cat err.log)"
run info --output=json -f raw "$loop"
cp out.log json.log
json_code=$code
run info -f raw "$loop"
losetup -d "$loop"
[ "$json_code$code" = 00 ] || fail "info of a device: $(cat err.log)"
for kind in logical physical; do
    grep -q "\"$kind-block-size\" *: *4096" json.log || fail "$(cat json.log)"
    grep -q "^$kind block size: 4096\$" out.log || fail "$(cat out.log)"
done

step "a file has none"
run info -f raw disk.raw
! grep -q 'block size' out.log || fail "$(cat out.log)"

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# VM state in qcow2 images: what lies behind the end of the disk is counted,
# kept by snapshots, brought back, and in nobody's way
#
# qemu-io writes and reads VM state, with or without encryption. Nothing but a
# running machine notes its size with a snapshot: that is done here by bytes.

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../commands/lib.sh"
need python3

size=8388608

# io COMMAND...: qemu-io on $image
io() {
    local arguments=()
    for command; do
        arguments+=(-c "$command")
    done
    if [ -n "$secret" ]; then
        timeout 60 qemu-io --object "$secret" --image-opts "${arguments[@]}" \
            "$named" > io.log
    else
        timeout 60 qemu-io -f qcow2 "${arguments[@]}" $image > io.log
    fi
    ! grep -q -i -e fail -e error io.log || { cat io.log; fail "qemu-io $*"; }
}

# judge: no error and no leak, says each program of the other
judge() {
    works check $image
    grep -q 'No errors' out.log || fail "check: $(cat out.log)"
    if [ -n "$secret" ]; then
        timeout 60 qemu-img check -q --object "$secret" --image-opts \
            "$named" || fail "qemu-img check $image"
    else
        check_image $image
    fi
}

# note_size BYTES: of the first snapshot's VM state
note_size() {
    python3 - "$here" $image "$1" << 'END'
import sys
sys.path.insert(0, sys.argv[1])
from qcow2_bytes import Bytes
image = Bytes(sys.argv[2])
entry = image.snapshot_table
assert image.get32(entry + 36) >= 16
image.put32(entry + 32, int(sys.argv[3]))
image.put64(entry + 40, int(sys.argv[3]))
image.save()
END
}

# life: the story of one image
life() {
    io "write -q -P 1 0 1M" "write -q -b -P 5 0 200k"
    judge
    works snapshot $key -c one $image
    judge
    io "read -q -b -P 5 0 200k"
    io "write -q -P 2 0 1M" "write -q -b -P 6 0 300k"
    works snapshot $key -c two $image
    judge

    works snapshot $key -a one $image
    io "read -q -b -P 5 0 200k" "read -q -P 1 0 1M"
    works snapshot $key -a two $image
    io "read -q -b -P 6 0 300k" "read -q -P 2 0 1M"
    judge

    note_size 204800
    works snapshot $key -l $image
    grep -q '^1 *one *200 KiB' out.log || fail "list: $(cat out.log)"
    judge
    if [ -z "$secret" ]; then
        works info --output=json $image
        python3 - << 'END' || fail "info: $(cat out.log)"
import json
sizes = [s["vm-state-size"] for s in json.load(open("out.log"))["snapshots"]]
assert sizes == [204800, 0], sizes
END
        works convert -l one -O raw $image out.raw
        [ "$(stat -c %s out.raw)" = $size ] || fail "a snapshot's length"
        works map --output=json $image
        ! grep -q "\"start\": $size" out.log || fail "map goes on behind the end"
    fi

    # The note and the state survive what happens to the other snapshot.
    works snapshot $key -d two $image
    judge
    works snapshot $key -l $image
    grep -q '^1 *one *200 KiB' out.log || fail "list: $(cat out.log)"
    works snapshot $key -a one $image
    io "read -q -b -P 5 0 200k"
    before=$(stat -c %b $image)
    works snapshot $key -d one $image
    judge
    [ "$(stat -c %b $image)" -le "$before" ] || fail "deleting made it larger"
}

step "plain"
secret= key= image=plain.qcow2
for options in cluster_size=64k cluster_size=512 extended_l2=on \
    compat=0.10; do
    rm -f $image
    qemu-img create -q -f qcow2 -o $options $image $size
    echo "    $options"
    life
done

step "encrypted"
printf correct > key
secret=secret,id=k,file=key key=--key=file:key image=crypt.qcow2
named=driver=qcow2,encrypt.key-secret=k,file.filename=$image
if patiently qemu-img create -q -f qcow2 --object $secret \
    -o encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10 \
    $image $size; then
    life
    ! grep -q -a "$(printf '\5\5\5\5\5\5\5\5\5\5\5\5\5\5\5\5')" $image ||
        fail "VM state in plain"
else
    echo "    qemu-img cannot: $(cat err.log)"
fi
echo "VM state: all as it should be"

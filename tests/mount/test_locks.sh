#!/bin/bash
# SPDX-License-Identifier: MIT
#
# one writer: we keep out of what QEMU uses, and keep QEMU out of ours
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io mkfifo

quiet qemu-img create -q -f qcow2 base.qcow2 1M
quiet qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2

# hold OPTION...: qemu-io keeps an image open until let_go.
hold() {
    mkfifo commands
    qemu-io "$@" < commands > qemu.log 2>&1 &
    qemu=$!
    exec 9> commands
    # it answers a command only when the image is open
    echo "length" >&9
    wait_until 100 grep -q MiB qemu.log || fail "qemu-io: $(cat qemu.log)"
}

let_go() {
    exec 9>&-
    wait "$qemu"
    rm commands
}

# qemu_refused COMMAND...: a QEMU tool says that it gets no lock.
qemu_refused() {
    if timeout 20 "$@" > qemu.log 2>&1; then
        # qemu-io ends with 0 in spite of errors in opening
        grep -q -i 'lock' qemu.log || fail "$*: was let in"
    fi
    grep -q -i 'lock' qemu.log || fail "$*: $(cat qemu.log)"
}

step "QEMU has the image read-write"
hold -f qcow2 disk.qcow2
refused 1 "disk.qcow2: .*qemu-io, process $qemu,.*'write' lock" \
    "$IMGFUSE" -w disk.qcow2 mnt
refused 1 "disk.qcow2: .*'write' lock" "$IMGFUSE" disk.qcow2 mnt
step "... which --force-share reads all the same"
mount_image --force-share disk.qcow2 mnt
cmp -n 1048576 mnt/disk.raw /dev/zero || fail "cannot read"
unmount mnt
let_go

step "QEMU has the image read-only"
hold -r -f qcow2 disk.qcow2
refused 1 "lock" "$IMGFUSE" -w disk.qcow2 mnt
mount_image disk.qcow2 mnt
unmount mnt
let_go

step "QEMU has the backing file read-write"
hold -f qcow2 base.qcow2
refused 1 "base.qcow2" "$IMGFUSE" disk.qcow2 mnt
let_go

step "we have the image read-write"
mount_image -w disk.qcow2 mnt
qemu_refused qemu-io -f qcow2 -c "write 0 512" disk.qcow2
qemu_refused qemu-io -r -f qcow2 -c "read 0 512" disk.qcow2
qemu_refused qemu-img check disk.qcow2
qemu_refused qemu-img convert -O raw disk.qcow2 out.raw
mkdir mnt2
timeout 20 "$IMGFUSE" disk.qcow2 mnt2 2> err.log
[ $? = 1 ] || fail "a second mount is let in"
grep -q "lock" err.log || fail "second mount: $(cat err.log)"
step "... but may share its backing file with readers"
quiet qemu-img info base.qcow2
qemu_refused qemu-io -f qcow2 -c "write 0 512" base.qcow2
unmount mnt

step "we have it read-only: readers may come, writers may not"
mount_image disk.qcow2 mnt
quiet qemu-img convert -O raw disk.qcow2 out.raw
qemu_refused qemu-io -f qcow2 -c "write 0 512" disk.qcow2
mount_image disk.qcow2 mnt2
unmount mnt2
unmount mnt

step "after the unmount all is free"
quiet qemu-io -f qcow2 -c "write 0 512" disk.qcow2
check_image disk.qcow2

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# what cannot be mounted: one line that says why, exit code 1, nothing mounted
. "$(dirname "$0")/lib.sh"
need qemu-img openssl

# refuses WORD ARGUMENT...
refuses() {
    word=$1
    shift
    refused 1 "$word" "$IMGFUSE" "$@"
}

quiet qemu-img create -q -f qcow2 good.qcow2 4M

step "the image"
refuses "missing.qcow2.*No such file" missing.qcow2 mnt
refuses "directory" . mnt
mkfifo fifo
refuses "FIFO" fifo mnt
: > empty
refuses "empty" empty mnt

if [ "$(id -u)" = 0 ] && command -v setpriv > /dev/null; then
    cp good.qcow2 secret.qcow2
    chmod 600 secret.qcow2
    chmod 755 .
    mkdir theirs
    chown nobody theirs
    as_nobody="setpriv --reuid nobody --clear-groups"
    if $as_nobody test -x "$IMGFUSE"; then
        refused 1 "Permission denied" $as_nobody "$IMGFUSE" secret.qcow2 theirs
    fi
fi

step "the mount point"
refuses "nowhere" good.qcow2 nowhere
mkdir busy
touch busy/file
mount_image good.qcow2 mnt
timeout 20 "$IMGFUSE" good.qcow2 mnt 2> err.log
result=$?
[ $result = 1 ] || fail "a busy mount point gives $result"
[ "$(wc -l < err.log)" = 1 ] || fail "busy: $(cat err.log)"
[ "$(grep -c " $work/mnt fuse" /proc/self/mounts)" = 1 ] ||
    fail "mounted twice"
unmount mnt

step "the backing file"
quiet qemu-img create -q -f qcow2 base.qcow2 4M
quiet qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2
mv base.qcow2 away.qcow2
refuses "over.qcow2.*base.qcow2" over.qcow2 mnt
mv away.qcow2 base.qcow2

quiet qemu-img rebase -u -b over.qcow2 -F qcow2 base.qcow2
refuses "over.qcow2\|base.qcow2" over.qcow2 mnt

mkdir inside outside
quiet qemu-img create -q -f qcow2 outside/base.qcow2 4M
quiet qemu-img create -q -f qcow2 -b ../outside/base.qcow2 -F qcow2 \
    inside/over.qcow2
refuses "allow-path" inside/over.qcow2 mnt
mount_image --allow-path outside inside/over.qcow2 mnt
unmount mnt

# damaged FIELD-OFFSET BYTES-AS-ESCAPES: a copy of the image with these bytes
damaged() {
    cp good.qcow2 bad.qcow2
    printf "$2" | dd of=bad.qcow2 bs=1 seek="$1" conv=notrunc status=none
}

# refuses_bytes WORD FIELD-OFFSET BYTES-AS-ESCAPES
refuses_bytes() {
    damaged "$2" "$3"
    refuses "bad.qcow2.*$1" bad.qcow2 mnt
}

step "damaged headers"
head -c 60 good.qcow2 > bad.qcow2
refuses "bad.qcow2" bad.qcow2 mnt
refuses_bytes "cluster_bits" 20 '\0\0\0\010'
refuses_bytes "cluster_bits" 20 '\0\0\0\026'
refuses_bytes "refcount_order" 96 '\0\0\0\007'
refuses_bytes "size" 24 '\200\0\0\0\0\0\0\0'
refuses_bytes "L1" 40 '\0\0\0\0\377\0\0\0'
refuses_bytes "L1" 36 '\177\377\377\377'
refuses_bytes "incompatible" 72 '\200\0\0\0\0\0\0\0'
refuses_bytes "crypt" 32 '\0\0\0\001'
refuses_bytes "snapshots" 60 '\377\377\377\377'
refuses_bytes "crypt" 32 '\0\0\0\002'
if qemu-img create -q -f qcow2 --object secret,id=s,data=x \
    -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100 \
    crypt.qcow2 1M 2> /dev/null; then
    refuses "crypt" crypt.qcow2 mnt
fi

step "data that the file does not hold is an error, not zeros"
openssl rand 4194304 > data.raw
quiet qemu-img convert -O qcow2 data.raw cut.qcow2
truncate -s 2M cut.qcow2
mount_image cut.qcow2 mnt
cmp -n 65536 data.raw mnt/cut.raw || fail "the part that is there"
dd if=mnt/cut.raw of=/dev/null bs=64k skip=60 count=1 status=none 2> err.log &&
    fail "a cluster past the end of the file can be read"
grep -q "Input/output error" err.log || fail "$(cat err.log)"
unmount mnt

step "wrong usage is exit code 2"
refused 2 "growabel.*growable" "$IMGFUSE" --growabel good.qcow2 mnt
timeout 20 "$IMGFUSE" good.qcow2 > out.log 2> err.log
[ $? = 2 ] || fail "a missing mount point"

step "a format that we do not know"
refuses "nosuch" -t nosuch good.qcow2 mnt

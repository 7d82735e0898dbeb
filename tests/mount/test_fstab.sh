#!/bin/bash
# SPDX-License-Identifier: MIT
#
# lines of fstab(5), mounted by mount(8) itself
#
# In a mount namespace of its own, where /etc/fstab is ours and the program
# and its helper stand where mount(8) looks for them; the system sees nothing.
. "$(dirname "$0")/lib.sh"
need qemu-img openssl unshare mount
need_root
unshare -m true 2> /dev/null || skip "no mount namespaces here"

random_file one.want 2000384 1
quiet qemu-img convert -O qcow2 one.want one.qcow2
quiet qemu-img create -q -f qcow2 "two words.qcow2" 4M
mkdir sbin bin mnt2 "mnt 3"
ln -s "$IMGFUSE" bin/imgfuse
cp "$test_dir/../../fuse/mount.fuse.imgfuse" sbin/
ln -s "$IMGFUSE" sbin/umount.fuse.imgfuse
cat > fstab << END
# <image> <folder> <type> <options> <dump> <pass>
$work/one.qcow2 $work/mnt fuse.imgfuse ro,nofail,name=a.raw,pid-file=$work/pid.a 0 0
$work/one.qcow2 $work/mnt2 fuse.imgfuse overlay,noauto,x-systemd.automount,pid-file=$work/pid.b 0 0
$work/two\\040words.qcow2 $work/mnt\\0403 fuse.imgfuse rw,snapshots,uid=7,pid-file=$work/pid.c 0 0
END

# What follows runs in the namespace; its first word says which step failed.
cat > inside.sh << 'END'
set -e
mount --make-rprivate /
mount --bind "$work/fstab" /etc/fstab
mount -t tmpfs none /usr/local/bin
ln -s "$IMGFUSE" /usr/local/bin/imgfuse
if [ "$1" = helper ]; then
    mount -t overlay -o "lowerdir=$work/sbin:/usr/sbin" none /usr/sbin ||
        exit 77
fi

echo "--- by its folder"
timeout 20 mount "$work/mnt"
cmp "$work/one.want" "$work/mnt/a.raw"
[ "$(findmnt -n -o FSTYPE "$work/mnt")" = fuse.imgfuse ]
umount "$work/mnt"

echo "--- not automatic, by its folder only"
timeout 20 mount "$work/mnt2"
printf changed | dd of="$work/mnt2/one.raw" conv=notrunc status=none
umount "$work/mnt2"

echo "--- names with blanks; snapshots"
timeout 20 mount "$work/mnt 3"
[ "$(stat -c %u "$work/mnt 3/two words.raw")" = 7 ]
mkdir "$work/mnt 3/.imgfuse/two words.raw/snapshots/one"
[ -f "$work/mnt 3/two words.raw@one" ]
umount "$work/mnt 3"

echo "--- mount -a, twice, and umount by type"
timeout 20 mount -a -t fuse.imgfuse
timeout 20 mount -a -t fuse.imgfuse
cmp "$work/one.want" "$work/mnt/a.raw"
[ ! -e "$work/mnt2/one.raw" ]
umount -a -t fuse.imgfuse
[ ! -e "$work/mnt/a.raw" ]
END

# A daemon takes its pid file along when all is closed.
daemons_are_gone() {
    ! ls pid.* > /dev/null 2>&1
}

export work IMGFUSE
for way in generic helper; do
    step "through the $way helper"
    [ "$way" = helper ] || command -v mount.fuse > /dev/null ||
        command -v mount.fuse3 > /dev/null || continue
    timeout 120 unshare -m bash inside.sh "$way" > inside.log 2>&1
    result=$?
    [ "$result" != 77 ] || { echo "no overlay file system here"; continue; }
    [ "$result" = 0 ] || {
        cat inside.log >&2
        fail "$way: exit code $result"
    }
    wait_until 100 daemons_are_gone || fail "a daemon stays: $(echo pid.*)"
    check_image "two words.qcow2"
    quiet qemu-img snapshot -d one "two words.qcow2"
    quiet qemu-img compare -f qcow2 -F raw one.qcow2 one.want
done

#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# secrets stay secret: no passphrase is left in the memory of a mount, on its
# command line or in what it tells, and the image's key would be in no core dump

. "$(dirname "$0")/lib.sh"
need python3
need cryptsetup
[ -c /dev/fuse ] || skip "no /dev/fuse"
[ "$(id -u)" = 0 ] || skip "reading another program's memory takes root"
grep -q __asan_init "$IMGFUSE" && skip "AddressSanitizer keeps what was freed"

mounted=
unmount_first() {
    local code=$?
    [ -z "$mounted" ] || "$IMGFUSE" umount "$work/mnt"
    (exit $code)
    finish
}
trap unmount_first EXIT

passphrase=kumquat-$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
printf %s "$passphrase" > key
works create -q --key file:key -f luks -o iter-time=10 t.luks 1M
cryptsetup -q luksDump --dump-master-key -d key t.luks > dump.log 2> err.log ||
    skip "cryptsetup cannot show the key: $(cat err.log)"
python3 - << 'END' || fail "no key in what cryptsetup says"
import re
text = open("dump.log").read().split("MK dump:")[1]
key = bytes.fromhex("".join(re.findall(r"\b[0-9a-f]{2}\b", text)))
assert len(key) == 64, len(key)
open("volume-key", "wb").write(key)
END

# search: says where in process $pid there is the passphrase, and the halves of
# the image's key (each is a key of its own)
search() {
    python3 - $pid << 'END'
import sys
pid = sys.argv[1]
volume = open("volume-key", "rb").read()
needles = {"passphrase": open("key", "rb").read(), "key": volume[:32],
           "tweak": volume[32:]}
found = set()
area = None
with open("/proc/%s/mem" % pid, "rb") as memory:
    for line in open("/proc/%s/smaps" % pid):
        words = line.split()
        if not words[0].endswith(":"):
            area = None
            if words[1].startswith("rw"):
                area = [int(one, 16) for one in words[0].split("-")]
        elif area and words[0] == "VmFlags:":
            memory.seek(area[0])
            data = memory.read(area[1] - area[0])
            for name, needle in needles.items():
                if needle in data:
                    found.add(name + (" hidden" if "dd" in words else ""))
print(*sorted(found), sep=",")
END
}

# mount_it ARGUMENT...: $pid serves mnt
mkdir mnt
mount_it() {
    works "$@"
    mounted=yes
    pid=$(python3 -c '
import os, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        line = open("/proc/%s/cmdline" % pid, "rb").read()
        if os.readlink("/proc/%s/exe" % pid) == sys.argv[1] and \
                sys.argv[2].encode() in line.split(b"\0"):
            print(pid)
    except OSError:
        pass' "$(readlink -f "$IMGFUSE")" "$work/mnt")
    [ -n "$pid" ] || fail "who serves mnt?"
    cat mnt/t.raw > /dev/null || fail "reading the mount"
}

unmount_it() {
    works umount mnt
    mounted=
}

while read -r name; do
    step "a key that comes from $name"
    case $name in
    file) mount_it --key file:key t.luks "$work/mnt" ;;
    env) KEY=$passphrase mount_it --key env:KEY t.luks "$work/mnt" ;;
    object) mount_it --object "secret,id=s,data=$passphrase" --key secret:s \
        t.luks "$work/mnt" ;;
    "-o object") mount_it -o "object=secret\\,id=s\\,file=key" \
        --key secret:s t.luks "$work/mnt" ;;
    esac
    tr '\0' ' ' < /proc/$pid/cmdline > told
    tr '\0' ' ' < /proc/$pid/environ >> told
    where=$(search)
    [ "$where" = "key hidden,tweak hidden" ] || fail "found: $where"
    find mnt/.imgfuse -name '*.json' -exec cat {} + >> told
    ! grep -q "$passphrase" told || fail "the passphrase: $(cat told)"
    unmount_it
done << END
file
env
object
-o object
END

step "mount options are no place for a passphrase"
refused 2 'by file=' -o "object=secret\\,id=s\\,data=$passphrase" \
    --key secret:s t.luks mnt
! grep -q "$passphrase" err.log || fail "the passphrase is in the message"
echo "secrets: all as it should be"

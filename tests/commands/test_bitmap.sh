# SPDX-License-Identifier: MIT
#
# imgfuse bitmap: every action and every refusal; what info and convert make of
# bitmaps. Whether the bits are right is tests/qcow2/test_bitmaps.sh.

. "$(dirname "$0")/lib.sh"

# flags_of IMAGE BITMAP: what qemu-img info says, in one line; empty: no such
flags_of() {
    qemu-img info -U "$1" | awk -v name="$2" '
        /^        \[[0-9]+\]:$/ { flags = "" }
        /^                \[[0-9]+\]: / { flags = flags $2 " " }
        $1 == "name:" && $2 == name { print "flags: " flags; exit }'
}

# flags_are IMAGE BITMAP TEXT
flags_are() {
    found=$(flags_of "$1" "$2")
    [ "$found" = "$3" ] || fail "$2 of $1: '$found', not '$3'"
}

qemu-img create -q -f qcow2 a.qcow2 10M
qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 10M
truncate -s 10M a.raw

step "actions"
works bitmap --add a.qcow2 b0
flags_are a.qcow2 b0 "flags: auto "
works bitmap --disable a.qcow2 b0
flags_are a.qcow2 b0 "flags: "
works bitmap --enable a.qcow2 b0
flags_are a.qcow2 b0 "flags: auto "
works bitmap --add --disable -g 2G a.qcow2 b1
flags_are a.qcow2 b1 "flags: "
works bitmap --add --granularity=512 --merge b0 --clear --enable a.qcow2 b2
flags_are a.qcow2 b2 "flags: auto "
works bitmap --remove a.qcow2 b1
flags_are a.qcow2 b1 ""
works bitmap --remove --add a.qcow2 b2
check_image a.qcow2
works bitmap --add --image-opts driver=qcow2,file.filename=a.qcow2 b3
works bitmap --add -f qcow2 a.qcow2 b4
for name in b2 b3 b4; do
    works bitmap --remove a.qcow2 $name
done

step "info is that of qemu-img"
# Order is no matter: neither of lines nor of members.
works info --output=json a.qcow2
tr -d ' ,' < out.log | sort > ours.json
qemu-img info --output=json a.qcow2 | tr -d ' ,' | sort | diff - ours.json ||
    fail "info --output=json"
works info a.qcow2
sort out.log > ours.txt
qemu-img info a.qcow2 | sort | diff - ours.txt || fail "info"

step "names"
long=$(printf '%01023d' 0)
works bitmap --add a.qcow2 "$long"
flags_are a.qcow2 "$long" "flags: auto "
works bitmap --remove a.qcow2 "$long"
works bitmap --add a.qcow2 "grün & so"
works bitmap --remove a.qcow2 "grün & so"

step "refusals"
refused 1 "bitmap 'b0' exists already" bitmap --add a.qcow2 b0
refused 1 "there is no bitmap 'nope'" bitmap --remove a.qcow2 nope
refused 1 "there is no bitmap 'nope'" bitmap --clear a.qcow2 nope
refused 1 "there is no bitmap 'nope'" bitmap --enable a.qcow2 nope
refused 1 "there is no bitmap 'nope'" bitmap --disable a.qcow2 nope
refused 1 "there is no bitmap 'nope'" bitmap --merge b0 a.qcow2 nope
refused 1 "there is no bitmap 'nope'" bitmap --merge nope a.qcow2 b0
refused 1 "there is no bitmap 'b0'" bitmap --remove --clear a.qcow2 b0
flags_are a.qcow2 b0 "" # what came before stays done
works bitmap --add a.qcow2 b0
refused 1 "is not a power of two" bitmap --add -g 3k a.qcow2 c
refused 1 "is not a power of two" bitmap --add -g 256 a.qcow2 c
refused 1 "is not a power of two" bitmap --add -g 4G a.qcow2 c
refused 1 "1 to 1023 bytes, not 1024" bitmap --add a.qcow2 "0$long"
refused 1 "1 to 1023 bytes, not 0" bitmap --add a.qcow2 ""
refused 1 "'raw' keeps no bitmaps" bitmap --add -f raw a.raw b0
refused 1 "keeps no bitmaps in this version" bitmap --add v2.qcow2 b0
refused 1 "No such file\|not found" bitmap --add missing.qcow2 b0
refused 1 "No such file\|not found" bitmap --merge b -b missing.qcow2 a.qcow2 b0
qemu-img create -q -f qcow2 longer.qcow2 11M
works bitmap --add longer.qcow2 b0
refused 1 "differ in size: 10485760 and 11534336" \
    bitmap --merge b0 -b longer.qcow2 -F qcow2 a.qcow2 b0
refused 1 "keeps no bitmaps" bitmap --merge b0 -b a.raw -F raw a.qcow2 b0
qemu-img create -q -f qcow2 -o cluster_size=2M huge.qcow2 1P
refused 1 "more than 512 MiB" bitmap --add -g 512 huge.qcow2 b0
works bitmap --add -g 1M huge.qcow2 b0

step "wrong usage"
wrong_usage bitmap
wrong_usage bitmap --add
wrong_usage bitmap --add a.qcow2
wrong_usage bitmap a.qcow2 b0
wrong_usage bitmap --add a.qcow2 b0 b1
wrong_usage bitmap --add -g nonsense a.qcow2 b1
wrong_usage bitmap --clear -g 64k a.qcow2 b0
wrong_usage bitmap --clear -b longer.qcow2 a.qcow2 b0
wrong_usage bitmap --merge b0 -F qcow2 a.qcow2 b0
wrong_usage bitmap --nonsense a.qcow2 b0

step "inconsistent bitmaps"
cp a.qcow2 broken.qcow2
works bitmap --add --disable broken.qcow2 fine
timeout -s KILL 20 qemu-io -c "write -q 0 64k" -c flush -c abort \
    broken.qcow2 > /dev/null 2>&1 || : # it must not close the image
flags_are broken.qcow2 b0 "flags: in-use auto "
flags_are broken.qcow2 fine "flags: in-use "
for action in --clear --enable --disable "--merge b0"; do
    # shellcheck disable=SC2086 # an option and its argument
    refused 1 "'b0' is inconsistent.*only be removed" \
        bitmap $action broken.qcow2 b0
done
works bitmap --add broken.qcow2 target
refused 1 "'b0' is inconsistent" bitmap --merge b0 broken.qcow2 target
refused 1 "'b0' is inconsistent" \
    bitmap --merge b0 -b broken.qcow2 -F qcow2 a.qcow2 b0
refused 1 "'b0' is inconsistent.*bitmap --remove" resize broken.qcow2 20M
works measure -O qcow2 broken.qcow2
refused 1 "'b0' is inconsistent" convert --bitmaps -O qcow2 broken.qcow2 c.qcow2
[ ! -e c.qcow2 ] || fail "a target was left"
run convert --bitmaps --skip-broken-bitmaps -O qcow2 broken.qcow2 c.qcow2
[ "$code" = 0 ] && grep -q "'b0' is not usable and is left out" err.log ||
    fail "--skip-broken-bitmaps"
flags_are c.qcow2 b0 ""
flags_are c.qcow2 target "flags: auto "
check_image c.qcow2
works bitmap --remove broken.qcow2 b0
works bitmap --remove broken.qcow2 fine
check_image broken.qcow2
works resize broken.qcow2 20M
check_image broken.qcow2

step "convert"
refused 1 "target keeps no bitmaps" convert --bitmaps -O raw a.qcow2 c.raw
refused 1 "'raw' keeps no bitmaps" convert --bitmaps -f raw -O qcow2 a.raw c2.qcow2
refused 1 "target keeps no bitmaps" \
    convert --bitmaps -O qcow2 -o compat=0.10 a.qcow2 c2.qcow2
[ ! -e c2.qcow2 ] || fail "a target was left"
wrong_usage convert --bitmaps -O qcow2 a.qcow2 a.qcow2 c2.qcow2
wrong_usage convert --bitmaps -l s -O qcow2 a.qcow2 c2.qcow2
wrong_usage convert --skip-broken-bitmaps -O qcow2 a.qcow2 c2.qcow2

step "snapshots"
works snapshot -c s a.qcow2
refused 1 "with 1 bitmaps cannot go back" snapshot -a s a.qcow2
works snapshot -d s a.qcow2
works bitmap --remove a.qcow2 b0
works snapshot -c s a.qcow2
works snapshot -a s a.qcow2
check_image a.qcow2

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# info.json, map.json and stats.json: the commands' own texts, of the moment
. "$(dirname "$0")/lib.sh"
need qemu-img qemu-io python3

quiet qemu-img create -q -f qcow2 disk.qcow2 8M
quiet qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -z 2M 1M' disk.qcow2
quiet qemu-img snapshot -c one disk.qcow2
meta=mnt/.imgfuse/disk.raw

# value FILE EXPRESSION: of the JSON, which is called d.
value() {
    python3 -c 'import json, sys
d = json.load(open(sys.argv[1]))
print(eval(sys.argv[2]))' "$1" "$2" || fail "$1: $2"
}

step "info and map say what the commands say"
"$IMGFUSE" info --output=json disk.qcow2 > info.want || fail info
"$IMGFUSE" map --output=json disk.qcow2 > map.want || fail map
mount_image disk.qcow2 mnt
[ "$(ls "$meta" | tr '\n' ' ')" = \
    "graph.dot info.json map.json snapshots stats.json " ] || fail "$(ls "$meta")"
cat "$meta/info.json" > info.got
cat "$meta/map.json" > map.got
same info.want info.got
same map.want map.got
cp "$meta/map.json" map.copy
same map.want map.copy
dd if="$meta/info.json" of=part bs=100 skip=1 count=1 status=none
dd if=info.want bs=100 skip=1 count=1 status=none | cmp - part ||
    fail "a part from the middle"
[ "$(stat -c %a,%s "$meta/info.json")" = 400,0 ] || fail "attributes"
printf x 2> /dev/null > "$meta/info.json" && fail "can be written"
step "the graph is drawn"
cat "$meta/graph.dot" > graph.got
grep -q '^digraph "disk.raw" {$' graph.got || fail "$(cat graph.got)"
grep -q 'n0 \[label="qcow2\\n.*disk.qcow2\\n8388608 bytes, read-only"\];' \
    graph.got || fail "$(cat graph.got)"
grep -q 'n0 -> n1 \[label="file\\n' graph.got || fail "$(cat graph.got)"
[ "$(tail -n 1 graph.got)" = '}' ] || fail "$(cat graph.got)"
if command -v dot > dot.log; then
    dot -Tsvg graph.got > graph.svg || fail "dot cannot read it"
fi

unmount mnt

step "fresh at each open, the same as long as it is open"
mount_image -w disk.qcow2 mnt
exec 6< "$meta/map.json"
head -c 65536 /dev/urandom | dd of=mnt/disk.raw bs=65536 seek=100 \
    conv=notrunc status=none
cat <&6 > map.old
exec 6<&-
same map.want map.old
cat "$meta/map.json" > map.new
cmp -s map.old map.new && fail "the new map is the old one"
[ "$(value map.new 'sum(e["length"] for e in d)')" = 8388608 ] ||
    fail "the map has gaps"
mkdir "$meta/snapshots/two" || fail mkdir
[ "$(value "$meta/info.json" '[s["name"] for s in d["snapshots"]]')" = \
    "['one', 'two']" ] || fail "snapshots in info"

step "counters count"
before=$(value "$meta/stats.json" 'd["write"]["operations"]')
dd if=/dev/urandom of=mnt/disk.raw bs=4096 count=10 oflag=direct \
    conv=notrunc status=none
dd if=mnt/disk.raw of=/dev/null bs=65536 count=4 iflag=direct status=none
cat "$meta/stats.json" > stats
[ "$(value stats 'd["write"]["operations"]')" = $((before + 10)) ] ||
    fail "writes: $(value stats 'd["write"]')"
[ "$(value stats 'd["read"]["bytes"] >= 4 * 65536')" = True ] || fail "reads"
[ "$(value stats 'sum(d["write"]["latency"]["bins"])')" = 10 ] ||
    fail "latencies: $(value stats 'd["write"]["latency"]["bins"]')"
bins='len(d["read"]["latency"]["bins"])'
[ "$(value stats "$bins - len(d['read']['latency']['boundaries-ns'])")" = 1 ] ||
    fail "bins"
[ "$(value stats 'd["write"]["failed"] + d["read"]["failed"]')" = 0 ] ||
    fail "failures"
[ "$(value stats 'd["cache"]["l2-slices"] > 0')" = True ] || fail "caches"
unmount mnt
check_image disk.qcow2

step "nodes that are asked to count their requests do"
mount_image --image-opts \
    driver=qcow2,file.driver=file,file.filename=disk.qcow2,file.accounting=on \
    mnt
name=$(ls mnt)
dd if="mnt/$name" of=/dev/null bs=65536 count=4 iflag=direct status=none
cat "mnt/.imgfuse/$name/stats.json" > stats
[ "$(value stats '[n["driver"] for n in d["nodes"]]')" = "['file']" ] ||
    fail "nodes: $(value stats 'd["nodes"]')"
[ "$(value stats 'd["nodes"][0]["read"]["bytes"] >= 4 * 65536')" = True ] ||
    fail "a node's reads"
[ "$(value stats 'd["nodes"][0]["highest-written"]')" = 0 ] ||
    fail "a read-only node was written"
unmount mnt

step "each image has its own"
quiet qemu-img create -q -f qcow2 other.qcow2 3M
mount_image disk.qcow2 other.qcow2 mnt
[ "$(value mnt/.imgfuse/other.raw/info.json 'd["virtual-size"]')" = \
    3145728 ] || fail "the other image"
[ "$(ls mnt/.imgfuse | tr '\n' ' ')" = "disk.raw other.raw " ] ||
    fail "$(ls mnt/.imgfuse)"
unmount mnt

step "whose the files are"
mount_image -w -o uid=12,gid=34,mode=640 disk.qcow2 mnt
[ "$(stat -c %u:%g:%a mnt/disk.raw)" = 12:34:640 ] || fail "the image"
[ "$(stat -c %u:%g:%a "$meta/info.json")" = 12:34:440 ] || fail "documents"
[ "$(stat -c %a mnt)" = 550 ] || fail "the folder"
unmount mnt
refused 2 "mode" "$IMGFUSE" --mode=755 disk.qcow2 mnt
refused 2 "uid" "$IMGFUSE" --uid=me disk.qcow2 mnt

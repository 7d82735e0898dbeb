# SPDX-License-Identifier: MIT
#
# --output=json (and the human form of info): the same members and values as qemu-img's, and as tests/schema
# says
#
# Differences that are meant:
#   raw      files whose length is no multiple of 512 have that length, where
#            qemu-img rounds up; so lengths here are even. An empty file is
#            an image only when the format is said.
#   map      holes of the file inside clusters are told as zeros; qemu-img asks
#            the file only where many clusters were never written. So there is
#            no map here of clusters so large that most of them is a hole.

here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/commands/lib.sh"
need python3

# equal SCHEMA COMMAND...: json like qemu-img's and like the schema.
equal() {
    schema=$1
    shift
    run "$@"
    timeout 60 qemu-img "$@" > qemu.log 2> qemu-err.log
    qemu_code=$?
    [ "$code" = "$qemu_code" ] ||
        fail "$*: exit code $code, qemu-img's is $qemu_code"
    python3 "$here/tools/compare_json.py" qemu.log out.log ||
        fail "$*: not as qemu-img has it"
    python3 "$here/tools/validate_json.py" "$here/schema/$schema.json" \
        out.log || fail "$*: not as tests/schema/$schema.json has it"
}

# facts_of IMAGE, all_of IMAGE: what each command with JSON output says.
facts_of() {
    equal info info --output=json "$1"
    same_as_qemu info "$1"
    case $1 in
    *.qcow2) equal check check --output=json "$1" ;;
    esac
}
all_of() {
    facts_of "$1"
    equal info-chain info --backing-chain --output=json "$1"
    equal map map --output=json "$1"
    equal map map --output=json --start-offset=1M --max-length=700k "$1"
    equal measure measure --output=json -O raw "$1"
    equal measure measure --output=json -O qcow2 \
        -o cluster_size=4k "$1"
}

step "the validator refuses what is wrong"
echo '{"required": -1, "colour": true}' > wrong.json
python3 "$here/tools/validate_json.py" "$here/schema/measure.json" wrong.json \
    2> err.log && fail "everything is right to it"
[ "$(wc -l < err.log)" = 3 ] || fail "$(cat err.log)"
echo '{"a": [1, true]}' > one.json
echo '{"a": [1, 1]}' > other.json
python3 "$here/tools/compare_json.py" one.json other.json 2> err.log &&
    fail "everything is equal to it"

step "a chain"
make_chain
all_of base.qcow2
all_of top.qcow2
mkdir sub
qemu-img create -q -f qcow2 -b ../top.qcow2 -F qcow2 sub/third.qcow2
equal info info --output=json sub/third.qcow2
qemu-img create -q -f qcow2 -b "$work/base.qcow2" -F qcow2 absolute.qcow2
all_of absolute.qcow2

step "raw"
make_raw a.raw
truncate -s 20971520 a.raw
all_of a.raw
truncate -s 0 empty.raw
equal info info -f raw --output=json empty.raw

step "kinds of qcow2"
truncate -s 6M a.raw
for options in compat=0.10 cluster_size=512 lazy_refcounts=on,refcount_bits=64 \
    preallocation=metadata refcount_bits=1,compression_type=zstd; do
    qemu-img convert -f raw -O qcow2 -o "$options" a.raw kind.qcow2
    facts_of kind.qcow2
    equal map map --output=json kind.qcow2
    qemu-img convert -c -f raw -O qcow2 -o "${options#preallocation=metadata}" \
        a.raw kind.qcow2 2> /dev/null || continue
    facts_of kind.qcow2
    equal map map --output=json kind.qcow2
done

step "snapshots"
qemu-img snapshot -c one base.qcow2
qemu-io -c "write -q -P 9 1M 300k" base.qcow2
qemu-img snapshot -c "a second one" base.qcow2
qemu-img snapshot -d one base.qcow2
qemu-img snapshot -c third base.qcow2
facts_of base.qcow2

step "fragments, in order and out of order"
qemu-img create -q -f qcow2 frag.qcow2 64M
for offset in 9 3 7 0 63 31; do
    qemu-io -c "write -q -P 1 ${offset}M 200k" frag.qcow2
done
all_of frag.qcow2
qemu-io -c "discard -q 3M 64k" -c "write -q -z 7M 64k" \
    -c "write -q -P 4 3M 64k" frag.qcow2
facts_of frag.qcow2
equal check check --output=json top.qcow2

step "damage"
qemu-img create -q -f qcow2 leak.qcow2 4M
qemu-io -c "write -q -P 1 0 1M" leak.qcow2
printf '\0\1' | dd of=leak.qcow2 bs=1 seek=$((0x20000 + 2 * 60)) conv=notrunc \
    status=none
truncate -s 4M leak.qcow2
equal check check --output=json leak.qcow2
cp leak.qcow2 ours.qcow2
cp leak.qcow2 theirs.qcow2
run check -r leaks --output=json ours.qcow2
qemu-img check -r leaks --output=json theirs.qcow2 > qemu.log 2> qemu-err.log
sed -i 's/theirs.qcow2/ours.qcow2/' qemu.log
python3 "$here/tools/compare_json.py" qemu.log out.log ||
    fail "check -r leaks: not as qemu-img has it"
qemu-img create -q -f qcow2 hurt.qcow2 4M
qemu-io -c "write -q -P 1 0 1M" hurt.qcow2
printf '\0\0' | dd of=hurt.qcow2 bs=1 seek=$((0x20000 + 2 * 6)) conv=notrunc \
    status=none
equal check check --output=json hurt.qcow2

# follows CODE SCHEMA COMMAND...: what qemu-img has no JSON for.
follows() {
    wanted=$1
    schema=$2
    shift 2
    run "$@"
    [ "$code" = "$wanted" ] || fail "$*: exit code $code, not $wanted"
    [ ! -s err.log ] || fail "$*: $(cat err.log)"
    python3 "$here/tools/validate_json.py" "$here/schema/$schema.json" \
        out.log || fail "$*: not as tests/schema/$schema.json has it"
}

# member NAME: of the object in out.log.
member() {
    python3 -c 'import json, sys
print(json.load(open("out.log")).get(sys.argv[1]))' "$1"
}

step "the list of snapshots is that of info"
for image in base.qcow2 top.qcow2; do
    follows 0 snapshots snapshot -l --output=json $image
    cp out.log list.json
    works info --output=json $image
    python3 -c 'import json
assert json.load(open("list.json")) == \
    json.load(open("out.log")).get("snapshots", [])' || fail "$image: differs"
done
refused_usage() {
    wrong_usage "$@"
    grep -q 'json' err.log || fail "$*: $(cat err.log)"
}
refused_usage snapshot -c s --output=json base.qcow2
for command in create convert resize amend rebase commit bitmap; do
    refused_usage $command --output=json base.qcow2 1M
done

step "compare for programs"
follows 0 compare compare -p --output=json base.qcow2 base.qcow2
[ "$(member identical)" = True ] || fail "$(cat out.log)"
qemu-img create -q -f qcow2 none.qcow2 64M
cp none.qcow2 other.qcow2
qemu-io -c "write -q -P 1 5M 64k" other.qcow2
follows 1 compare compare --output=json none.qcow2 other.qcow2
[ "$(member difference) $(member offset)" = "content 5242880" ] ||
    fail "$(cat out.log)"
qemu-img resize -q other.qcow2 65M
follows 1 compare compare -s --output=json none.qcow2 other.qcow2
[ "$(member difference) $(member offset)" = "length None" ] ||
    fail "$(cat out.log)"
cp none.qcow2 zero.qcow2
qemu-io -c "write -q -P 0 5M 64k" zero.qcow2
follows 0 compare compare --output=json none.qcow2 zero.qcow2
follows 1 compare compare -s --output=json none.qcow2 zero.qcow2
[ "$(member difference) $(member offset)" = "allocation 5242880" ] ||
    fail "$(cat out.log)"

step "measure without an image"
for options in cluster_size=64k cluster_size=2M,preallocation=full \
    compat=0.10 refcount_bits=64; do
    equal measure measure --output=json -O qcow2 --size 1G -o "$options"
done

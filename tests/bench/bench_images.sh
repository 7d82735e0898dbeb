#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# bench_images.sh: image commands against qemu-img, same images, and the walk
# over the holes of a mounted file against qemu-storage-daemon
#
# As in bench.sh the two are measured in pairs, one right after the other and in
# changing order; what is reported is the median of the pairs' ratios, of time
# and of CPU time (user and system). All files are in tmpfs.
#
# The large image has 1 TiB of preallocated metadata and some data every
# 8 GiB. The others hold what this machine's programs and libraries consist of.
#
# usage: bench_images.sh [--rounds N] [--only WORD] [--size BYTES] [--dir DIR]

set -euo pipefail

rounds=5 only= size=$((1 << 30)) dir=/dev/shm
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2; shift ;;
    --only)   only=$2; shift ;;
    --size)   size=$2; shift ;;
    --dir)    dir=$2; shift ;;
    *)        echo "bench: unknown option $1" >&2; exit 2 ;;
    esac
    shift
done

IMGFUSE=$(realpath "${IMGFUSE:-$(dirname "$0")/../../imgfuse}")
for tool in qemu-img qemu-io qemu-storage-daemon python3 "$IMGFUSE"; do
    command -v "$tool" >/dev/null ||
        { echo "bench: $tool is missing"; exit 77; }
done

work=$(mktemp -d "$dir/imgfuse-bench.XXXXXX")
server=
leave() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    for mounted in "$work/mnt" "$work/qsd.raw"; do
        ! mountpoint -q "$mounted" || timeout 60 umount "$mounted" || true
    done
    rm -rf --one-file-system "$work"
}
trap leave EXIT
trap 'exit 130' INT TERM
cd "$work"

# --- images -------------------------------------------------------------------

make_large() {
    local at writes=()
    qemu-img create -q -f qcow2 -o preallocation=metadata large.qcow2 1T
    for ((at = 0; at < 1024; at += 8)); do
        writes+=(-c "write -q -P 7 ${at}G 64k")
    done
    qemu-io "${writes[@]}" large.qcow2
}

make_source() {
    tar -cf - --ignore-failed-read /usr/bin /usr/lib 2>/dev/null |
        head -c "$size" >source.raw || true
    truncate -s "$size" source.raw
}

# The images that workload $1 needs.
make_images() {
    case $1 in
    large-*)
        [ -e large.qcow2 ] || make_large ;;
    *)
        [ -e source.raw ] || make_source
        [ -e plain.qcow2 ] ||
            qemu-img convert -q -W -m 16 -f raw -O qcow2 source.raw plain.qcow2
        for kind in zlib zstd; do
            [ -e $kind.qcow2 ] || case $1 in
            *$kind-to-raw) qemu-img convert -q -c -W -m 16 -f raw -O qcow2 \
                -o compression_type=$kind source.raw $kind.qcow2 ;;
            esac
        done ;;
    esac
}

# --- what is compared ---------------------------------------------------------

# The extents of a mounted file, by SEEK_DATA and SEEK_HOLE.
walk() {
    python3 - "$1" <<'END'
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
start, at, extents = time.time(), 0, 0
while at < size:
    try:
        at = os.lseek(fd, os.lseek(fd, at, os.SEEK_DATA), os.SEEK_HOLE)
        extents += 1
    except OSError:
        break
print("%.6f" % (time.time() - start))
END
}

best="-q -m 16 -W"
# name | ours | theirs | goal
workloads() {
    cat <<END
large-open|$IMGFUSE info large.qcow2|qemu-img info large.qcow2|-
large-map|$IMGFUSE map --output=json large.qcow2|qemu-img map --output=json large.qcow2|15
large-check|$IMGFUSE check large.qcow2|qemu-img check large.qcow2|4
qcow2-to-raw|$IMGFUSE convert -f qcow2 -O raw plain.qcow2 target|qemu-img convert $best -f qcow2 -O raw plain.qcow2 target|3
raw-to-qcow2|$IMGFUSE convert -f raw -O qcow2 source.raw target|qemu-img convert $best -f raw -O qcow2 source.raw target|3
zlib-to-raw|$IMGFUSE convert -f qcow2 -O raw zlib.qcow2 target|qemu-img convert $best -f qcow2 -O raw zlib.qcow2 target|4
zstd-to-raw|$IMGFUSE convert -f qcow2 -O raw zstd.qcow2 target|qemu-img convert $best -f qcow2 -O raw zstd.qcow2 target|-
raw-to-zlib|$IMGFUSE convert -c -f raw -O qcow2 source.raw target|qemu-img convert $best -c -f raw -O qcow2 source.raw target|3
raw-to-zstd|$IMGFUSE convert -c -f raw -O qcow2 -o compression_type=zstd source.raw target|qemu-img convert $best -c -f raw -O qcow2 -o compression_type=zstd source.raw target|2
END
}

# Runs "$@"; prints "SECONDS CPU_SECONDS".
timed() {
    local TIMEFORMAT='%R %U %S'
    rm -f target
    { time timeout 600 "$@" >out.log 2>err.log; } 2>time.log ||
        { cat err.log >&2; echo "bench: failed: $*" >&2; exit 1; }
    awk '{ print $1, $2 + $3 }' time.log
}

median() {
    sort -n | awk '{ v[NR] = $1 }
        END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# report NAME GOAL: from lines "SECONDS CPU THEIR_SECONDS THEIR_CPU" in pairs.
report() {
    local ratio
    ratio=$(awk '{ print $3 / ($1 > 0 ? $1 : 0.001) }' pairs | median)
    printf '%-14s %9.3f %9.3f %7.2f %6s  %-6s %8.2f\n' "$1" \
        "$(cut -d' ' -f1 pairs | median)" "$(cut -d' ' -f3 pairs | median)" \
        "$ratio" "$2" "$(awk -v ratio="$ratio" -v goal="$2" 'BEGIN {
            print goal == "-" ? "" : (ratio >= goal ? "met" : "missed") }')" \
        "$(awk '{ print $4 / ($2 > 0 ? $2 : 0.001) }' pairs | median)"
}

measure() {
    local name=$1 ours=$2 theirs=$3 goal=$4 round a b
    make_images "$name"
    : >pairs
    for ((round = 0; round < rounds; round++)); do
        if ((round % 2)); then
            a=$(timed $ours) b=$(timed $theirs)
        else
            b=$(timed $theirs) a=$(timed $ours)
        fi
        echo "$a $b" >>pairs
    done
    rm -f target
    report "$name" "$goal"
}

measure_walk() {
    local round try
    make_images large-walk
    mkdir -p mnt
    : >qsd.raw
    "$IMGFUSE" large.qcow2 mnt
    qemu-storage-daemon \
        --blockdev driver=file,node-name=file,filename=large.qcow2,read-only=on,locking=off \
        --blockdev driver=qcow2,node-name=disk,file=file,read-only=on \
        --export type=fuse,id=exp,node-name=disk,mountpoint="$work/qsd.raw" &
    server=$!
    for ((try = 0; try < 100; try++)); do
        ! mountpoint -q qsd.raw || [ ! -s qsd.raw ] || break
        sleep 0.1
    done
    : >pairs
    for ((round = 0; round < rounds; round++)); do
        echo "$(walk mnt/large.raw) 0 $(walk qsd.raw) 0" >>pairs
    done
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    umount mnt
    report large-walk 20
}

echo "median of $rounds pairs; $((size >> 20)) MiB of data in $dir;" \
    "$(qemu-img --version | head -1)"
printf '%-14s %9s %9s %7s %6s  %-6s %8s\n' workload 'imgfuse s' 'qemu s' \
    ratio goal '' 'CPU ratio'
while IFS='|' read -r name ours theirs goal; do
    if [ -z "$only" ] || [[ $name == *$only* ]]; then
        measure "$name" "$ours" "$theirs" "$goal" </dev/null
    fi
done < <(workloads)
if [ -z "$only" ] || [[ large-walk == *$only* ]]; then
    measure_walk
fi

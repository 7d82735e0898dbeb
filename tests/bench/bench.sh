#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# bench.sh: imgfuse against qemu-storage-daemon's FUSE export, same image
#
# Absolute numbers of one machine say little, and the machine's mood changes
# between runs. So every workload is measured in pairs, the two servers one
# right after the other and in changing order, and what is reported is the
# median of the pairs' ratios. Beside it stands the CPU time the server spent
# for each operation, from /proc/PID/stat.
#
# One server is up at a time, on one image. The images are in tmpfs, so that
# the disk plays no part: a plain one, fully allocated, and two compressed ones
# with what this machine's programs and libraries consist of.
#
# The write figures are figures only: qemu-storage-daemon 7.2 damages data
# under parallel direct writes, so its write speed is no goal to reach.
#
# usage: bench.sh [NAME] [--rounds N] [--seconds N] [--only NAME]
#                 [--size BYTES] [--dir DIR] [--keep]
#   NAME  one workload of the table below

set -euo pipefail

# name | image | fio's arguments | goal (ratio)
workloads() {
    cat <<'END'
randread-qd1|plain|--rw=randread --bs=4k --direct=1 --iodepth=1|2.0
randread-qd32|plain|--rw=randread --bs=4k --direct=1 --iodepth=32|2.5
randread-4x32|plain|--rw=randread --bs=4k --direct=1 --iodepth=32 --numjobs=4|-
randwrite-qd1|plain|--rw=randwrite --bs=4k --direct=1 --iodepth=1|-
randwrite-qd32|plain|--rw=randwrite --bs=4k --direct=1 --iodepth=32|-
seqread-1m|plain|--rw=read --bs=1m --direct=1 --iodepth=8|3.0
reread-buffered|plain|--rw=randread --bs=4k --direct=0 --invalidate=0 --size=256m|20
zlib-seqread-1m|zlib|--rw=read --bs=1m --direct=1 --iodepth=1|4.5
zstd-seqread-1m|zstd|--rw=read --bs=1m --direct=1 --iodepth=1|3.5
zlib-seqread-4k|zlib|--rw=read --bs=4k --direct=1 --iodepth=1|15
zlib-randread-qd32|zlib|--rw=randread --bs=4k --direct=1 --iodepth=32|3.0
END
}

rounds=5 seconds=4 only= size=2G dir= keep=no
compressed_size=$((512 << 20))
while [ $# -gt 0 ]; do
    case $1 in
    --rounds)  rounds=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --only)    only=$2; shift ;;
    --size)    size=$2; shift ;;
    --dir)     dir=$2; shift ;;
    --keep)    keep=yes ;;
    -*)        echo "bench: unknown option $1" >&2; exit 2 ;;
    *)         only=$1 ;;
    esac
    shift
done

IMGFUSE=${IMGFUSE:-$(dirname "$0")/../../imgfuse}
for tool in fio qemu-img qemu-storage-daemon "$IMGFUSE"; do
    command -v "$tool" >/dev/null ||
        { echo "bench: $tool is missing"; exit 77; }
done
if [ -n "$only" ] && ! workloads | grep -q "^$only|"; then
    echo "bench: no workload '$only'; there are:" $(workloads | cut -d'|' -f1) >&2
    exit 2
fi

work=$(mktemp -d "${dir:-/dev/shm}/imgfuse-bench.XXXXXX")
image=      # the one that the next server shows
target=     # the raw file that the server shows
mounted=    # what to unmount
server=     # its process

# --- images -------------------------------------------------------------------

# Writes $image, of kind $1.
make_image() {
    case $1 in
    plain)
        qemu-img create -q -f qcow2 -o preallocation=full "$image" "$size" ;;
    *)
        tar -cf - --ignore-failed-read /usr/bin /usr/lib 2>/dev/null |
            head -c "$compressed_size" >"$work/source.raw" || true
        truncate -s "$compressed_size" "$work/source.raw"
        qemu-img convert -q -c -W -m 16 -f raw -O qcow2 \
            -o compression_type="$1" "$work/source.raw" "$image"
        rm "$work/source.raw" ;;
    esac
}

# --- servers ------------------------------------------------------------------

stop_server() {
    local try
    if [ -n "$mounted" ]; then
        for try in 1 2 3 4 5 6 7 8 9 10; do
            mountpoint -q "$mounted" || break
            timeout 60 umount "$mounted" 2>/dev/null ||
                timeout 60 fusermount3 -u "$mounted" 2>/dev/null || sleep 0.2
        done
        mounted=
    fi
    if [ -n "$server" ]; then
        # qemu-storage-daemon outlives its mount; imgfuse ends with it.
        [ "$server_kind" = imgfuse ] || kill "$server" 2>/dev/null || true
        timeout 60 tail --pid="$server" -f /dev/null ||
            kill -9 "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=
    fi
}

leave() {
    stop_server
    if [ $keep = no ]; then
        rm -rf --one-file-system "$work"
    else
        echo "kept: $work"
    fi
}
trap leave EXIT
trap 'exit 130' INT TERM

start_server() {
    local try
    server_kind=$1
    case $server_kind in
    imgfuse)
        mounted=$work/mnt target=$work/mnt/$(basename "$image" .qcow2).raw
        "$IMGFUSE" -f -w "$image" "$mounted" 2>"$work/server.log" &
        ;;
    qsd)
        mounted=$work/qsd.raw target=$work/qsd.raw
        qemu-storage-daemon \
            --blockdev driver=file,node-name=file,filename="$image" \
            --blockdev driver=qcow2,node-name=disk,file=file \
            --export type=fuse,id=exp,node-name=disk,mountpoint="$mounted",writable=on \
            2>"$work/server.log" &
        ;;
    esac
    server=$!
    for ((try = 0; try < 200; try++)); do
        if mountpoint -q "$mounted" && [ -s "$target" ]; then
            return 0
        fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    echo "bench: $server_kind does not start:" >&2
    cat "$work/server.log" >&2
    exit 1
}

# --- one run ------------------------------------------------------------------

# CPU time of the server so far, in microseconds.
server_cpu_us() {
    local stat
    stat=$(<"/proc/$server/stat")
    set -- ${stat##*) }
    echo $(( (${12} + ${13}) * 1000000 / clock_ticks ))
}
clock_ticks=$(getconf CLK_TCK)

# "IOPS CPU_US_PER_OP" of server $1 with fio's arguments $2
run() {
    local before after ops
    start_server "$1"
    fill_page_cache "$2"
    before=$(server_cpu_us)
    timeout $((seconds + 120)) fio --name=bench --filename="$target" \
        --ioengine=libaio --time_based --runtime="$seconds" --ramp_time=0 \
        --group_reporting --randrepeat=0 --norandommap --allow_file_create=0 \
        --minimal --terse-version=3 $2 >"$work/fio.out" 2>"$work/fio.err" ||
        { cat "$work/fio.err" "$work/fio.out" >&2; exit 1; }
    after=$(server_cpu_us)
    stop_server
    # terse v3: 8 read IOPS, 9 read ms; 49 write IOPS, 50 write ms
    awk -F';' -v cpu=$((after - before)) '$1 == 3 {
        ops = ($8 * $9 + $49 * $50) / 1000
        printf "%.1f %.2f\n", $8 + $49, ops ? cpu / ops : 0 }' "$work/fio.out"
}

# The re-read workload is about the second read: do the first one here.
fill_page_cache() {
    case $1 in
    *--invalidate=0*)
        dd if="$target" of=/dev/null bs=1M count=256 status=none ;;
    esac
}

median() {
    sort -n | awk '{ v[NR] = $1 }
        END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# --- the table ----------------------------------------------------------------

measure() {
    local name=$1 arguments=$3 goal=$4 round ours theirs verdict
    image=$work/$2.qcow2
    [ -e "$image" ] || make_image "$2"
    : >"$work/pairs"
    for ((round = 0; round < rounds; round++)); do
        if ((round % 2)); then
            ours=$(run imgfuse "$arguments") theirs=$(run qsd "$arguments")
        else
            theirs=$(run qsd "$arguments") ours=$(run imgfuse "$arguments")
        fi
        echo "$ours $theirs" |
            awk '{ print $1, $2, $3, $4, ($3 ? $1 / $3 : 0) }' >>"$work/pairs"
    done
    column_median() { cut -d' ' -f"$1" "$work/pairs" | median; }
    verdict=$(column_median 5 | awk -v goal="$goal" '{
        print goal == "-" ? "" : ($1 >= goal ? "met" : "missed") }')
    printf '%-18s %11.0f %11.0f %7.2f %6s  %-6s %9.2f %9.2f\n' "$name" \
        "$(column_median 1)" "$(column_median 3)" "$(column_median 5)" \
        "$goal" "$verdict" "$(column_median 2)" "$(column_median 4)"
}

mkdir "$work/mnt"
: >"$work/qsd.raw"

echo "median of $rounds pairs, $seconds s each; image $size in ${dir:-/dev/shm};" \
    "$(qemu-storage-daemon --version | head -1)"
printf '%-18s %11s %11s %7s %6s  %-6s %9s %9s\n' workload imgfuse/s qsd/s \
    ratio goal '' 'us/op' 'qsd us/op'
while IFS='|' read -r name kind arguments goal; do
    if [ -z "$only" ] || [ "$name" = "$only" ]; then
        measure "$name" "$kind" "$arguments" "$goal" </dev/null
    fi
done < <(workloads)

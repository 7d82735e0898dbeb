#!/bin/bash
# SPDX-License-Identifier: MIT
#
# 500 random steps - write, punch, make, remove and go back to snapshots - on a
# mounted image, beside a model in memory
#
# Going back is done in use, or between two mounts, and then the image must be
# without any fault. At each tenth step the live mount has to show what the model has,
# in the image and in every snapshot, and qemu-img must find no error in what
# is on disk (clusters waiting to be free may look leaked while mounted).
#
# STEPS and SEED choose another run; a failure names its seed.
. "$(dirname "$0")/lib.sh"
need qemu-img python3

seed=${SEED:-1}
steps=${STEPS:-500}
[ "${1:-}" != --full ] || steps=5000

cat > model.py << 'END'
import ctypes, errno, os, random, subprocess, sys, time

program, seed, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = random.Random(seed)
SIZE = 4 << 20
IMAGE, POINT = "disk.qcow2", "mnt"
FILE = POINT + "/disk.raw"
FOLDER = POINT + "/.imgfuse/disk.raw/snapshots/"
GOTO = POINT + "/.imgfuse/disk.raw/goto"
LIMIT = 6  # snapshots at a time

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64,
                           ctypes.c_int64]
PUNCH = 3  # punch hole, keep size

disk = bytearray(SIZE)
snapshots = {}
counter = 0


def run(*command, ok=(0,)):
    result = subprocess.run(command, timeout=60, capture_output=True,
                            text=True)
    if result.returncode not in ok:
        sys.exit(f"{' '.join(command)}: {result.returncode}\n"
                 f"{result.stdout}{result.stderr}")


def mount():
    run(program, "-w", "--snapshots", "--pid-file", f"pid.steps", IMAGE,
        POINT)


def unmount():
    run(program, "umount", POINT)


def some_range():
    length = rng.choice((512, 4096, 5000, 65536, 300000))
    length = rng.randint(1, length)
    offset = rng.randint(0, SIZE - length)
    if rng.random() < 0.5:
        offset &= ~4095
        length = max(4096, length & ~4095)
    return offset, min(length, SIZE - offset)


def write():
    offset, length = some_range()
    data = rng.randbytes(length)
    fd = os.open(FILE, os.O_WRONLY)
    os.pwrite(fd, data, offset)
    os.close(fd)
    disk[offset:offset + length] = data


def punch():
    offset, length = some_range()
    fd = os.open(FILE, os.O_WRONLY)
    if libc.fallocate(fd, PUNCH, offset, length) != 0:
        sys.exit(f"fallocate: errno {ctypes.get_errno()}")
    os.close(fd)
    disk[offset:offset + length] = bytes(length)


def create():
    global counter
    if len(snapshots) >= LIMIT:
        return remove()
    counter += 1
    os.mkdir(FOLDER + f"s{counter}")
    snapshots[f"s{counter}"] = bytes(disk)


def remove():
    if snapshots:
        name = rng.choice(sorted(snapshots))
        os.rmdir(FOLDER + name)
        del snapshots[name]


def go_back():
    if snapshots:
        name = rng.choice(sorted(snapshots))
        unmount()
        run("qemu-img", "check", IMAGE)
        run(program, "snapshot", "-a", name, IMAGE)
        mount()
        disk[:] = snapshots[name]


# The kernel's RELEASE of a file may come some time after close(2).
def go_back_live():
    if snapshots:
        name = rng.choice(sorted(snapshots))
        for _ in range(3000):
            fd = os.open(GOTO, os.O_WRONLY)
            try:
                os.write(fd, name.encode())
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(0.01)
            finally:
                os.close(fd)
        else:
            sys.exit("goto: busy for ever")
        disk[:] = snapshots[name]


def compare(path, wanted, step):
    with open(path, "rb") as file:
        got = file.read()
    if got != wanted:
        at = next((i for i in range(min(len(got), SIZE))
                   if got[i] != wanted[i]), len(got))
        sys.exit(f"step {step}: {path} differs at {at}")


def check(step):
    compare(FILE, disk, step)
    names = sorted(os.listdir(FOLDER))
    if names != sorted(snapshots):
        sys.exit(f"step {step}: {names}, not {sorted(snapshots)}")
    for name, content in snapshots.items():
        compare(f"{FILE}@{name}", content, step)
    fd = os.open(FILE, os.O_WRONLY)
    os.fsync(fd)
    os.close(fd)
    run("qemu-img", "check", "-U", IMAGE, ok=(0, 3))


mount()
for step in range(1, steps + 1):
    rng.choices((write, punch, create, remove, go_back, go_back_live),
                (60, 12, 14, 8, 2, 4))[0]()
    if step % 10 == 0:
        check(step)
unmount()
run("qemu-img", "check", IMAGE)
for name, content in snapshots.items():
    run("qemu-img", "convert", "-l", name, "-O", "raw", IMAGE, "one.raw")
    compare("one.raw", content, "last")
END

for options in cluster_size=4k cluster_size=64k,extended_l2=on; do
    step "$steps steps with $options"
    rm -f disk.qcow2
    quiet qemu-img create -q -f qcow2 -o $options disk.qcow2 4M
    timeout 600 python3 model.py "$IMGFUSE" "$seed" "$steps" ||
        fail "seed $seed, $options"
done

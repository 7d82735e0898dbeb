# SPDX-License-Identifier: MIT
"""imgfuse check --repair, after each kind of damage that a byte edit can do

Each case: a sound image made by QEMU, an edit, and what the image reads then.
A content is one byte for each guest cluster that holds data; others read 0.
After the repair QEMU must find no error and no leak, every content that could
be read is there, and writing all over the image spoils no snapshot.

usage: check_repair.py [--only TEXT]
"""
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from qcow2_bytes import Bytes, COPIED, OFFSET  # noqa: E402

IMGFUSE = os.path.abspath(os.environ.get("IMGFUSE", "./imgfuse"))
SNAPSHOTS = ("one", "two", "three")
K = 1024


class Wrong(Exception):
    """A case failed; says why."""


def run(folder, *command, codes=(0,)):
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60,
                          env=dict(os.environ, LC_ALL="C"), check=False)
    text = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode not in codes:
        raise Wrong("%s: exit code %d\n%s" % (" ".join(command),
                                              done.returncode, text[-1500:]))
    return text


def reads(folder, image, content, cluster, *options):
    """Does the image, read by QEMU, have that content?"""
    commands = []
    for guest, byte in content.items():
        commands += ["-c", "read -q -P %d %d %d" % (byte, guest * cluster,
                                                    cluster)]
    said = run(folder, "qemu-io", "-r", *options, *commands, image,
               codes=(0, 1))
    return not said


# -- kinds of damage: @i is the image's bytes, @c the content it has to read ----
# Guest clusters 0 to 5 and one of the second L2 table hold data.

def second(i):
    """A guest cluster of the second L2 table."""
    return i.l2_entries + 1


def leak(i, c):
    i.put64(i.l2_at(2), 0)
    c[2] = 0


def leaked_table(i, c):
    i.put64(i.l1 + 8, 0)
    c[second(i)] = 0


def low_data(i, c):
    i.set_count(i.host(1), 0)


def low_l2(i, c):
    i.set_count((i.get64(i.l1) & OFFSET) // i.cluster, 0)


def low_l1(i, c):
    i.set_count(i.l1 // i.cluster, 0)


def low_header(i, c):
    i.set_count(0, 0)


def low_block(i, c):
    i.set_count(i.get64(i.reftable) // i.cluster, 0)


def no_counts(i, c):
    block = i.get64(i.reftable)
    i.data[block:block + i.cluster] = bytes(i.cluster)


def high_data(i, c):
    i.set_count(i.host(1), 3)


def lost_copied_l2(i, c):
    i.put64(i.l2_at(1), i.get64(i.l2_at(1)) & ~COPIED)


def lost_copied_l1(i, c):
    i.put64(i.l1, i.get64(i.l1) & ~COPIED)


def wrong_copied_l2(i, c):
    """Cluster 1 belongs to a snapshot, too."""
    assert not i.get64(i.l2_at(1)) & COPIED
    i.put64(i.l2_at(1), i.get64(i.l2_at(1)) | COPIED)


def wrong_copied_l1(i, c):
    assert not i.get64(i.l1 + 8) & COPIED
    i.put64(i.l1 + 8, i.get64(i.l1 + 8) | COPIED)


def two_l2_entries(i, c):
    i.put64(i.l2_at(3), i.get64(i.l2_at(1)))
    c[3] = c[1]


def three_l2_entries(i, c):
    two_l2_entries(i, c)
    i.put64(i.l2_at(second(i)), i.get64(i.l2_at(1)))
    c[second(i)] = c[1]


def two_l1_entries(i, c):
    i.put64(i.l1 + 8, i.get64(i.l1))
    for guest in range(5):
        c[i.l2_entries + guest] = c[guest]


def block_far(i, c):
    i.put64(i.reftable, 1 << 40)


def block_unaligned(i, c):
    i.put64(i.reftable, i.get64(i.reftable) + 0x200 if i.cluster > 512
            else i.get64(i.reftable) | 0x10)


def block_twice(i, c):
    i.put64(i.reftable + 8, i.get64(i.reftable))


def block_missing(i, c):
    i.put64(i.reftable, 0)


def block_is_data(i, c):
    i.put64(i.reftable, i.host(1) * i.cluster)


def block_is_l1(i, c):
    i.put64(i.reftable, i.l1)


def table_far(i, c):
    i.put64(48, (len(i.data) + 10 * i.cluster) // i.cluster * i.cluster)


def dirty(i, c):
    i.data[79] |= 1
    no_counts(i, c)


def corrupt(i, c):
    i.data[79] |= 2
    lost_copied_l2(i, c)


def snapshot_l1_unaligned(i, c):
    at = i.snapshot_at(1)
    i.put64(at, i.get64(at) + 8)


def snapshot_l1_far(i, c):
    i.put64(i.snapshot_at(1), 1 << 40)


def snapshot_l1_huge(i, c):
    i.put32(i.snapshot_at(1) + 8, 1 << 28)


def snapshot_l1_short(i, c):
    i.put32(i.snapshot_at(1) + 8, 0)


def snapshot_id_long(i, c):
    i.put16(i.snapshot_at(1) + 12, 0xffff)


def snapshot_name_long(i, c):
    i.put16(i.snapshot_at(1) + 14, 0xfff0)


def snapshot_name_odd(i, c):
    i.put16(i.snapshot_at(1) + 14, 23)


def snapshot_extra_long(i, c):
    i.put32(i.snapshot_at(1) + 36, 0x7fffffff)


def snapshot_count_high(i, c):
    i.put32(60, 5)


def snapshot_last_name(i, c):
    i.put16(i.snapshot_at(2) + 14, 0xffff)


PLAIN = (leak, leaked_table, low_data, low_l2, low_l1, low_header, low_block,
         no_counts, lost_copied_l2, lost_copied_l1, two_l2_entries,
         three_l2_entries, two_l1_entries, block_far, block_unaligned,
         block_twice, block_missing, block_is_data, block_is_l1, table_far)
WIDE = (high_data,)
VERSION3 = (dirty, corrupt)
# With snapshots; of the one that was damaged the data is reachable or not.
WITH_SNAPSHOTS = {
    wrong_copied_l2: SNAPSHOTS, wrong_copied_l1: SNAPSHOTS,
    no_counts: SNAPSHOTS, two_l2_entries: SNAPSHOTS,
    two_l1_entries: SNAPSHOTS, block_missing: SNAPSHOTS,
    low_data: SNAPSHOTS, leak: SNAPSHOTS,
    snapshot_l1_unaligned: ("one", "three"),
    snapshot_l1_far: ("one", "three"),
    snapshot_l1_huge: SNAPSHOTS, snapshot_l1_short: SNAPSHOTS,
    snapshot_id_long: SNAPSHOTS, snapshot_name_long: SNAPSHOTS,
    snapshot_name_odd: SNAPSHOTS, snapshot_extra_long: SNAPSHOTS,
    snapshot_count_high: SNAPSHOTS, snapshot_last_name: SNAPSHOTS,
}


class Seed:
    """A sound image, its content, and those of its snapshots."""

    def __init__(self, folder, version, cluster, bits, snapshots):
        self.folder = folder
        self.cluster = cluster
        self.name = "v%d-%d-%d%s" % (version, cluster, bits,
                                     "-snapshots" if snapshots else "")
        self.path = os.path.join(folder, self.name)
        self.snapshots = SNAPSHOTS if snapshots else ()
        options = "compat=%s,cluster_size=%d" % (
            "0.10" if version == 2 else "1.1", cluster)
        if version > 2:
            options += ",refcount_bits=%d" % bits
        # Two L2 tables, of which the second is cut off.
        run(folder, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options,
            self.path, str(cluster * (cluster // 8 + 5)))
        interesting = list(range(8)) + [cluster // 8 + i for i in range(5)]
        self.content = dict.fromkeys(interesting, 0)
        self.kept = {}
        for turn, name in enumerate(self.snapshots + (None,)):
            self.fill(turn)
            if name:
                self.kept[name] = dict(self.content)
                run(folder, "qemu-img", "snapshot", "-c", name, self.path)

    def fill(self, turn):
        """All at first, then each time another cluster, but never 1 to 3."""
        guests = ([0, 1, 2, 3, 4, 5, self.cluster // 8 + 1] if turn == 0
                  else [3 + turn])
        commands = []
        for guest in guests:
            self.content[guest] = (17 + turn * 16 + guest) % 251
            commands += ["-c", "write -q -P %d %d %d" % (
                self.content[guest], guest * self.cluster, self.cluster)]
        run(self.folder, "qemu-io", *commands, self.path)


def judge(folder, content, seed, kept):
    """All is sound, and every content is there."""
    run(folder, "qemu-img", "check", "-q", "t.qcow2")
    run(folder, IMGFUSE, "check", "-q", "t.qcow2")
    if not reads(folder, "t.qcow2", content, seed.cluster):
        raise Wrong("the content is not what it was")
    for name in kept:
        run(folder, "qemu-img", "convert", "-l", name, "-O", "raw", "t.qcow2",
            "out.raw")
        if not reads(folder, "out.raw", seed.kept[name], seed.cluster, "-f",
                     "raw"):
            raise Wrong("snapshot %s is not what it was" % name)


def run_case(folder, seed, damage, kept):
    path = os.path.join(folder, "t.qcow2")
    shutil.copy(seed.path, path)
    image = Bytes(path)
    content = dict(seed.content)
    damage(image, content)
    image.save()
    run(folder, IMGFUSE, "check", "t.qcow2", codes=(2, 3))

    run(folder, IMGFUSE, "check", "--repair", "t.qcow2")

    judge(folder, content, seed, kept)
    # Clusters that still were shared, or free and in use, would show now.
    commands = []
    for turn, guest in enumerate(content):
        content[guest] = 200 + turn
        commands += ["-c", "write -q -P %d %d %d" % (
            content[guest], guest * seed.cluster, seed.cluster)]
    run(folder, "qemu-io", *commands, "t.qcow2")
    judge(folder, content, seed, kept)


def all_cases():
    """(version, cluster, bits, snapshots), [(damage, kept snapshots)]"""
    for version, bits in ((2, 16), (3, 1), (3, 16), (3, 64)):
        for cluster in (512, 64 * K):
            cases = [(damage, ()) for damage in PLAIN]
            cases += [(damage, ()) for damage in WIDE if bits > 1]
            cases += [(damage, ()) for damage in VERSION3 if version > 2]
            yield (version, cluster, bits, False), cases
            if bits > 1:
                yield ((version, cluster, bits, True),
                       list(WITH_SNAPSHOTS.items()))


def try_case(shared, seed, damage, kept):
    """Did it pass?"""
    folder = tempfile.mkdtemp(dir=shared)
    try:
        run_case(folder, seed, damage, kept)
    except (Wrong, subprocess.TimeoutExpired) as why:
        print("FAIL %s %s: %s" % (seed.name, damage.__name__, why),
              flush=True)
        return False
    finally:
        shutil.rmtree(folder)
    return True


def main():
    only = sys.argv[2] if sys.argv[1:2] == ["--only"] else ""
    shared = tempfile.mkdtemp(prefix="imgfuse-repair-")
    results = []
    try:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for arguments, cases in all_cases():
                seed = Seed(shared, *arguments)
                results += [pool.submit(try_case, shared, seed, *case)
                            for case in cases if only in "%s %s" % (
                                seed.name, case[0].__name__)]
        failed = sum(not result.result() for result in results)
    finally:
        shutil.rmtree(shared)
    print("%d cases, %d failed" % (len(results), failed))
    return 1 if failed or not results else 0


if __name__ == "__main__":
    for program in ("qemu-img", "qemu-io"):
        if not shutil.which(program):
            print("no %s: skipped" % program)
            sys.exit(77)
    sys.exit(main())

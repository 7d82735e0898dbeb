# SPDX-License-Identifier: MIT
"""our qcow2 driver against QEMU's, in every legal combination of properties

For each cell (qcow2_cells.py) two images: one made by us, one by QEMU. Both
programs take turns of random operations on each, 1,000 in all; a raw file
keeps what must be there. In the end both programs must read that, find no
error in the image's structures, and tell the same facts about it; and each
snapshot must read what it had when it was taken.

usage: matrix.py [--turn N | --full] [--seed N] [--only TEXT] [--jobs N]

Without --full a tenth of the cells is run, that of --turn (default: of the
day). --only NAME runs the cells whose name has that in it; with --seed, a
failure repeats.
"""
import argparse
import concurrent.futures
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import qcow2_cells as cells  # noqa: E402
import qemu_ops  # noqa: E402

LIMIT = 120  # seconds, for one program
OPERATIONS = 1000
SECRET = "matrix"

# Facts that we and QEMU tell differently, and why that is right.
DIFFERENT = {
    # How many bytes the stored bitmaps take: we do not copy them.
    "measure": ("bitmaps",),
}


# Flavours that we do not know yet; any other that we refuse is a failure.
NOT_YET = ()


class Failure(Exception):
    """A cell did not pass; says why."""


class Tools:
    """Where the programs are, and how they are told to open an image."""

    def __init__(self):
        build = os.environ.get("top_builddir", ".")
        self.imgfuse = os.path.abspath(
            os.environ.get("IMGFUSE", build + "/imgfuse"))
        self.ops = os.path.abspath(build + "/tests/qcow2/qcow2_ops")
        self.env = dict(os.environ, LC_ALL="C")

    def run(self, folder, *command, codes=(0,), stdin=None):
        """Its output; any other exit code is a failure."""
        done = subprocess.run(command, cwd=folder, input=stdin,
                              capture_output=True, timeout=LIMIT,
                              env=self.env, check=False)
        if done.returncode not in codes:
            raise Failure("%s: exit code %d\n%s" % (
                " ".join(command), done.returncode,
                (done.stdout[-400:] + done.stderr[-800:]).decode(
                    errors="replace")))
        return done.stdout.decode(errors="replace")


def key_arguments(is_luks):
    return ["--object", "secret,id=key,data=" + SECRET] if is_luks else []


def image_arguments(is_luks):
    """How both programs are told which image: options, and then a name."""
    if not is_luks:
        return [], "t.qcow2"
    return (key_arguments(True) + ["--image-opts"],
            "driver=qcow2,encrypt.key-secret=key,file.filename=t.qcow2")


class Run:
    """One cell, in a folder of its own."""

    def __init__(self, tools, shared, cell, seed):
        self.tools, self.shared, self.cell, self.seed = (tools, shared, cell,
                                                         seed)
        self.length = cells.LENGTHS[cell.cluster]
        self.is_luks = cell.flavour == "luks"
        self.options, self.name = image_arguments(self.is_luks)
        self.folder = tempfile.mkdtemp(dir=shared)
        for name in ("base.raw", "middle.qcow2", "noise.bin"):
            os.link(os.path.join(shared, name), self.path(name))

    def tool(self, *command, **more):
        return self.tools.run(self.folder, *command, **more)

    def path(self, name):
        return os.path.join(self.folder, name)

    def content(self, name="model.raw"):
        with open(self.path(name), "rb") as file:
            return file.read()

    # -- making -------------------------------------------------------------

    def create(self, maker):
        """t.qcow2, and the model of what it reads."""
        for name in ("t.qcow2", "data.bin"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        options = cells.create_options(self.cell)
        if self.is_luks:
            self.create_luks(maker, options)
        else:
            backing = (["-b", "middle.qcow2", "-F", "qcow2"]
                       if self.cell.backing else [])
            self.tool(maker, "create", "-q", "-f", "qcow2", "-o",
                      ",".join(options), *backing, "t.qcow2",
                      str(self.length))
        model = bytes(self.length)
        if self.cell.backing:
            with open(os.path.join(self.shared, "backing.raw"), "rb") as file:
                model = file.read(self.length)
            model += bytes(self.length - len(model))
        with open(self.path("model.raw"), "wb") as file:
            file.write(model)

    def create_luks(self, maker, options):
        """Making keys takes seconds: images that differ by nothing else are
        copies, which get their backing file afterwards."""
        name = "luks-%s-%s.qcow2" % (os.path.basename(maker),
                                     "-".join(options))
        with self.shared_lock(name):
            if not os.path.exists(os.path.join(self.shared, name)):
                options = options + ["encrypt.format=luks",
                                     "encrypt.key-secret=key",
                                     "encrypt.iter-time=10"]
                # qemu-img measures how fast it is, which fails now and then.
                again = "for try in $(seq 20); do \"$@\" && exit; done; exit 1"
                self.tool("sh", "-c", again, "sh", maker, "create", "-q",
                          *key_arguments(True), "-f", "qcow2",
                          "-o", ",".join(options), "../" + name,
                          str(self.length))
        shutil.copy(os.path.join(self.shared, name), self.path("t.qcow2"))
        if self.cell.backing:
            self.tool("qemu-img", "rebase", "-u", *self.options, "-b",
                      "middle.qcow2", "-F", "qcow2", self.name)

    locks = {}

    def shared_lock(self, name):
        return self.locks.setdefault(name, threading.Lock())

    # -- operations -----------------------------------------------------------

    def kinds(self):
        packs = self.cell.flavour in ("zlib", "zstd")
        return "rrrwwcccczudf" if packs else "rrrrwwwwwwwwzzuudf"

    def qemu_turn(self, count, seed):
        script = qemu_ops.Script(self.content(), self.cell.cluster, seed,
                                 self.kinds(),
                                 (self.content("noise.bin"), "noise.bin"))
        script.add(count)
        with open(self.path("last.script"), "w") as file:
            file.write(script.text())
        output = self.tool("qemu-io", *self.options, "-d", "unmap", self.name,
                           codes=(0, 1), stdin=script.text().encode())
        wrong = script.complaints(output)
        if wrong:
            raise Failure("qemu-io, %s: %s" % (seed, "; ".join(wrong[:4])))
        self.tool("qemu-img", "convert", *self.options, "-O", "raw",
                  self.name, "seen.raw")
        wrong = script.settle(self.content("seen.raw"))
        if wrong is not None:
            raise Failure("qemu-io, %s: byte %d is wrong" % (seed, wrong))
        # In place: our program maps the file.
        with open(self.path("model.raw"), "r+b") as file:
            file.write(script.content)

    def our_turn(self, count, seed):
        node = {"driver": "qcow2",
                "file": {"driver": "file", "filename": "t.qcow2"}}
        command = [self.tools.ops]
        if self.is_luks:
            node["encrypt.key-secret"] = "key"
            command += ["--secret", "secret,id=key,data=" + SECRET]
        self.tool(*command, "--image", "json:" + json.dumps(node), "--model",
                  "model.raw", "--seed", str(seed), "--ops", str(count),
                  "--jobs", "4", "--max-kib",
                  str(max(64, self.cell.cluster * 3 // 1024)), "--kinds",
                  self.kinds())

    def take_snapshot(self, maker, name):
        self.tool(maker, "snapshot", *self.options, "-c", name, self.name)
        shutil.copy(self.path("model.raw"), self.path(name + ".raw"))

    def work(self, maker, other, seed):
        """Half the operations of a cell, the other program first."""
        turns = 4 if self.cell.snapshots else 2
        for turn in range(turns):
            if turn > 0 and self.cell.snapshots:
                self.take_snapshot((maker, other)[turn % 2], "s%d" % turn)
            count = OPERATIONS // 2 // turns
            if (other, maker)[turn % 2] == "qemu-img":
                self.qemu_turn(count, seed * 10 + turn)
            else:
                self.our_turn(count, seed * 10 + turn)

    # -- judging ------------------------------------------------------------

    def both(self, *arguments, codes=(0,)):
        """What ours and QEMU's print for one command."""
        return [self.tool(program, *arguments, codes=codes)
                for program in (self.tools.imgfuse, "qemu-img")]

    def fill_holes(self):
        """What reads zeros because of a hole in the file is an estimate of
        either program, and changes while the kernel writes back."""
        for name in ("t.qcow2", "data.bin"):
            if os.path.exists(self.path(name)):
                content = self.content(name)
                with open(self.path(name), "r+b") as file:
                    file.write(content)

    def same_facts(self):
        self.fill_holes()
        for command, more in (("info", ["--backing-chain"]), ("map", []),
                              ("measure", ["-O", "qcow2"]), ("check", [])):
            facts = [json.loads(text) for text in
                     self.both(command, "--output=json", *more, *self.options,
                               self.name)]
            if self.is_luks:
                # Opened by options, not by a name: we tell the file's.
                for one in facts:
                    for part in one if isinstance(one, list) else [one]:
                        part.pop("filename", None)
            wrong = differences(command, *facts)
            if wrong:
                raise Failure("%s, ours and QEMU's:\n%s" %
                              (command, "\n".join(wrong[:10])))
        model = "driver=raw,file.filename=model.raw" if self.is_luks \
            else "model.raw"
        for line in (["snapshot", "-l", *self.options, self.name],
                     ["compare", *self.options, self.name, model]):
            ours, theirs = self.both(*line)
            if ours != theirs:
                raise Failure("%s: ours\n%sQEMU's\n%s" % (line[0], ours,
                                                          theirs))

    def judge(self):
        self.same_facts()
        for name in ("s1", "s2", "s3")[:self.cell.snapshots]:
            self.tool("qemu-img", "convert", "-l", name, *self.options,
                      "-O", "raw", self.name, "seen.raw")
            if self.content("seen.raw") != self.content(name + ".raw"):
                raise Failure("snapshot %s, read by QEMU" % name)
        # Going back ends what there was: so it comes last.
        for name in ("s1", "s2", "s3")[:self.cell.snapshots]:
            shutil.copy(self.path(name + ".raw"), self.path("model.raw"))
            self.tool(self.tools.imgfuse, "snapshot", *self.options, "-a",
                      name, self.name)
            self.our_turn(0, 1)
        if self.cell.snapshots:
            self.tool("qemu-img", "check", "-q", *self.options, self.name)

    def run(self, makers):
        for maker in makers:
            other = ({self.tools.imgfuse, "qemu-img"} - {maker}).pop()
            self.create(maker)
            self.work(maker, other, self.seed * 2 + (maker == "qemu-img"))
            self.judge()
        shutil.rmtree(self.folder)


def differences(command, ours, theirs, place=""):
    """One line for each member that is not the same."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for name in sorted(set(ours) | set(theirs)):
            if name in DIFFERENT.get(command, ()):
                continue
            if name not in ours or name not in theirs:
                found.append("%s.%s is %s's only" % (
                    place, name, "ours" if name in ours else "QEMU"))
            else:
                found += differences(command, ours[name], theirs[name],
                                     place + "." + name)
        return found
    if isinstance(ours, list) and isinstance(theirs, list):
        found = [] if len(ours) == len(theirs) else [
            "%s: %d elements, QEMU says %d" % (place, len(ours),
                                               len(theirs))]
        for i, pair in enumerate(zip(ours, theirs)):
            found += differences(command, *pair, "%s[%d]" % (place, i))
        return found
    if ours == theirs:
        return []
    return ["%s: %s, QEMU says %s" % (place, json.dumps(ours)[:200],
                                      json.dumps(theirs)[:200])]


# -- what the whole run needs ---------------------------------------------------

def find_makers(tools, shared):
    """Who can make images of each flavour that both can open.

    Until we know all flavours: a cell without makers is told as missing.
    """
    makers = {}
    for flavour in cells.FLAVOURS:
        cell = cells.Cell(3, 65536, 16, flavour, 0, 0)
        run = Run(tools, shared, cell, 0)
        makers[flavour] = []
        for maker in (tools.imgfuse, "qemu-img"):
            try:
                run.create(maker)
                run.tool(tools.imgfuse, "map", *run.options, run.name)
                makers[flavour].append(maker)
            except Failure as failure:
                print("missing: images of %s made by %s: %s" % (
                    flavour, os.path.basename(maker),
                    str(failure).strip().splitlines()[-1]))
        shutil.rmtree(run.folder)
    return makers


def make_backing(tools, shared, seed):
    """base.raw <- middle.qcow2, shorter than some images; and some noise."""
    noise = random.Random(seed)
    with open(os.path.join(shared, "noise.bin"), "wb") as file:
        file.write(noise.randbytes(qemu_ops.NOISE_BYTES))
    with open(os.path.join(shared, "base.raw"), "wb") as file:
        file.write(noise.randbytes(1000 * 1024) + b"base" * 192 * 1024)
    tools.run(shared, "qemu-img", "create", "-q", "-f", "qcow2", "-b",
              "base.raw", "-F", "raw", "middle.qcow2", "5M")
    tools.run(shared, "qemu-io", "-c", "write -q -P 9 300k 700k", "-c",
              "write -q -z 1M 200k", "-c", "write -q -P 8 3M 77777",
              "middle.qcow2")
    tools.run(shared, "qemu-img", "convert", "-O", "raw", "middle.qcow2",
              "backing.raw")


def run_cell(tools, shared, cell, seed, makers):
    """Nothing, or why it failed."""
    run = Run(tools, shared, cell, seed)
    try:
        run.run(makers)
    except (Failure, subprocess.TimeoutExpired, ValueError) as failure:
        keep = os.environ.get("MATRIX_KEEP")
        if keep:
            shutil.copytree(run.folder, os.path.join(keep, cells.name(cell)),
                            dirs_exist_ok=True)
        return "FAIL %s: %s\n  repeat: matrix.py --full --only %s --seed %d" \
            % (cells.name(cell), failure, cells.name(cell), seed)
    return None


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--turn", type=int,
                        default=int(time.time()) // 86400)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    for program in ("qemu-img", "qemu-io"):
        if not shutil.which(program):
            print("no %s: skipped" % program)
            return 77
    tools = Tools()
    seed = arguments.turn if arguments.seed is None else arguments.seed
    chosen = cells.all_cells()
    if not arguments.full:
        chosen = cells.sample(chosen, arguments.turn)
    if arguments.only:
        chosen = [cell for cell in chosen if arguments.only in
                  cells.name(cell)]
    print("%d of %d cells, turn %d, seed %d" % (
        len(chosen), len(cells.all_cells()), arguments.turn, seed))
    shared = tempfile.mkdtemp(prefix="imgfuse-matrix-")
    try:
        return run_all(tools, shared, chosen, seed, arguments.jobs)
    finally:
        shutil.rmtree(shared)


def run_all(tools, shared, chosen, seed, jobs):
    make_backing(tools, shared, seed)
    makers = find_makers(tools, shared)
    for flavour, known in makers.items():
        if len(known) < 2 and flavour not in NOT_YET:
            print("FAIL images of %s are refused: see above" % flavour)
            return 1
    lost = [cell for cell in chosen if not makers[cell.flavour]]
    if lost:
        print("missing: %d cells: %s ..." % (len(lost), cells.name(lost[0])))
    chosen = [cell for cell in chosen if makers[cell.flavour]]
    start = time.monotonic()
    failures = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for failure in pool.map(lambda cell: run_cell(
                tools, shared, cell, seed, makers[cell.flavour]), chosen):
            if failure:
                failures.append(failure)
                print(failure, flush=True)
    print("%d cells, %d failed, %.1f s" % (len(chosen), len(failures),
                                           time.monotonic() - start))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

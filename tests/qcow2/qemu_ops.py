# SPDX-License-Identifier: MIT
"""random operations on an image by one qemu-io process, against a model

The model is a raw file with what the image must read. A script of operations
is made from it and for it: a read asks for a byte that the model has all over
a range. What a discard leaves is either the old content or zeros, and QEMU
refuses to write a compressed cluster over an allocated one; until the image
was read again those bytes are unknown, and nothing asks for them.

Compressed writes come first, each to another cluster: QEMU 7.2 goes on
packing into a cluster that it gave away after its compressed data was written
over, which corrupts the image.
"""
import random

NOISE_BYTES = 65536

# What is known of a byte: it is as in the model; or that or 0; or that or
# what it was before.
KNOWN, OR_ZERO, OR_OLD = 0, 1, 2

REFUSED = "write failed: Input/output error"


class Script:
    """Lines for qemu-io, and the content that is right after them."""

    def __init__(self, content, cluster, seed, kinds, noise):
        self.content = bytearray(content)
        self.unknown = bytearray(len(content))
        self.old = bytearray(len(content))
        self.cluster = cluster
        self.random = random.Random(seed)
        self.kinds = kinds
        self.noise, self.noise_name = noise
        self.lines = []

    def _range(self):
        """Any length, short ones as likely as long ones; aligned or not."""
        longest = max(self.cluster * 3, 65536)
        alignment = self.random.choice((1, 512, 4096, self.cluster))
        end = len(self.content)
        size = self.random.randint(1, min(longest,
                                          1 << self.random.randint(0, 22)))
        at = self.random.randint(0, end - 1)
        if self.random.random() < 0.75:
            at -= at % alignment
            size += -size % alignment
        return at, min(size, end - at)

    def _set(self, at, data):
        self.content[at:at + len(data)] = data
        self.unknown[at:at + len(data)] = bytes(len(data))

    def _read(self, at, size):
        if self.unknown[at]:
            return
        byte = self.content[at]
        while (self.content[at:at + size] != bytes((byte,)) * size or
               any(self.unknown[at:at + size])):
            size = (size + 1) // 2
        self.lines.append("read -q -P %d %d %d" % (byte, at, size))

    def _write(self, at, size):
        if self.random.random() < 0.5:
            byte = self.random.randint(1, 255)
            self._set(at, bytes((byte,)) * size)
            self.lines.append("write -q -P %d %d %d" % (byte, at, size))
        else:
            self._set(at, (self.noise * (size // len(self.noise) + 1))[:size])
            self.lines.append("write -q -s %s %d %d" %
                              (self.noise_name, at, size))

    def _compressed(self, at):
        """One cluster: so it is written as a whole, or refused."""
        end = min(at + self.cluster, len(self.content))
        self.old[at:end] = self.content[at:end]
        self._write(at, end - at)
        self.unknown[at:end] = bytes((OR_OLD,)) * (end - at)
        self.lines[-1] = self.lines[-1].replace(" -q", " -q -c")

    def _zeroes(self, at, size, flags):
        self._set(at, bytes(size))
        self.lines.append("write -q -z%s %d %d" % (flags, at, size))

    def _discard(self, at, size):
        if any(self.unknown[at:at + size]):
            return
        self.unknown[at:at + size] = bytes((OR_ZERO,)) * size
        self.lines.append("discard -q %d %d" % (at, size))

    def add(self, count):
        """@count operations, of which a third are compressed writes if any."""
        if "c" in self.kinds:
            starts = range(0, len(self.content), self.cluster)
            starts = self.random.sample(starts, min(len(starts), count // 3))
            for at in starts:
                self._compressed(at)
            count -= len(starts)
        others = self.kinds.replace("c", "")
        for _ in range(count):
            at, size = self._range()
            kind = self.random.choice(others)
            if kind == "r":
                self._read(at, size)
            elif kind == "w":
                self._write(at, size)
            elif kind == "z":
                self._zeroes(at, size, "")
            elif kind == "u":
                self._zeroes(at, size, " -u")
            elif kind == "d":
                self._discard(at, size)
            else:
                self.lines.append("flush")

    def text(self):
        return "\n".join(self.lines) + "\n"

    def _allows(self, at, byte):
        state = self.unknown[at]
        return (byte == self.content[at] or
                state == OR_ZERO and byte == 0 or
                state == OR_OLD and byte == self.old[at])

    def settle(self, seen):
        """@seen is what the image reads now. The first wrong byte, or None.

        Unknown bytes become known.
        """
        end = len(self.content)
        if len(seen) != end:
            return min(len(seen), end)
        if seen == self.content:
            return None
        at = 0
        while at < end:
            step = min(4096, end - at)
            if seen[at:at + step] != self.content[at:at + step]:
                for i in range(at, at + step):
                    if not self._allows(i, seen[i]):
                        return i
                self.content[at:at + step] = seen[at:at + step]
            at += step
        return None


    def complaints(self, output):
        """What qemu-io said against it, but for refused compressed writes."""
        lines = output.replace("qemu-io> ", "").splitlines()
        refused = sum(line == REFUSED for line in lines)
        allowed = sum(line.startswith("write -q -c") for line in self.lines)
        return [line for line in lines if line.strip() and
                (line != REFUSED or refused > allowed)]

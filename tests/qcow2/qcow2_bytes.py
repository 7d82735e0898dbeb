# SPDX-License-Identifier: MIT
"""a qcow2 image as bytes: finds its tables, reads and changes their entries

For tests that damage an image. Checks nothing.
"""
import struct

COPIED = 1 << 63
OFFSET = 0x00fffffffffffe00


class Bytes:
    """All of an image file in memory; save() writes it back."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            self.data = bytearray(file.read())
        self.version = self.get32(4)
        self.cluster = 1 << self.get32(20)
        self.l1_entries = self.get32(36)
        self.l1 = self.get64(40)
        self.reftable = self.get64(48)
        self.reftable_clusters = self.get32(56)
        self.snapshots = self.get32(60)
        self.snapshot_table = self.get64(64)
        self.bits = 1 << (self.get32(96) if self.version > 2 else 4)
        self.l2_entries = self.cluster // 8

    def save(self):
        with open(self.path, "wb") as file:
            file.write(self.data)

    def get32(self, at):
        return struct.unpack_from(">I", self.data, at)[0]

    def put32(self, at, value):
        struct.pack_into(">I", self.data, at, value)

    def get64(self, at):
        return struct.unpack_from(">Q", self.data, at)[0]

    def put64(self, at, value):
        struct.pack_into(">Q", self.data, at, value)

    def put16(self, at, value):
        struct.pack_into(">H", self.data, at, value)

    # -- where entries stand ------------------------------------------------

    def l2_at(self, guest):
        """Of the L2 entry of guest cluster @guest; its table is there."""
        table = self.get64(self.l1 + guest // self.l2_entries * 8) & OFFSET
        assert table
        return table + guest % self.l2_entries * 8

    def host(self, guest):
        """The host cluster's number."""
        return (self.get64(self.l2_at(guest)) & OFFSET) // self.cluster

    def snapshot_at(self, index):
        """Of the fixed part of a snapshot."""
        at = self.snapshot_table
        for _ in range(index):
            size = 40 + self.get32(at + 36)
            size += sum(struct.unpack_from(">HH", self.data, at + 12))
            at += size + -size % 8
        return at

    # -- refcounts ----------------------------------------------------------

    def set_count(self, cluster, count):
        per_block = self.cluster * 8 // self.bits
        block = self.get64(self.reftable + cluster // per_block * 8)
        index = cluster % per_block
        if self.bits < 8:
            at = block + index * self.bits // 8
            shift = index * self.bits % 8
            mask = ((1 << self.bits) - 1) << shift
            self.data[at] = self.data[at] & ~mask | count << shift
        else:
            size = self.bits // 8
            at = block + index * size
            self.data[at:at + size] = count.to_bytes(size, "big")

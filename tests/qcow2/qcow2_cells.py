# SPDX-License-Identifier: MIT
"""the cells of the qcow2 matrix: which exist, which are legal, which to run

A cell is one choice of each property of an image. The rules of the format,
and of QEMU 7.2 where it knows less than the format, stand in rules() only.

Nothing here starts a program.
"""
import collections
import itertools
import random

Cell = collections.namedtuple(
    "Cell", "version cluster bits flavour snapshots backing")

K = 1024
CLUSTERS = (512, 4 * K, 16 * K, 64 * K, 2 * K * K)
FLAVOURS = ("plain", "extended", "data", "dataraw", "zlib", "zstd", "luks",
            "lazy")

# A length that is not a multiple of clusters, so that the last one is cut off.
LENGTHS = {
    512: 1536 * K + 512,
    4 * K: 4096 * K - 1536,
    16 * K: 4096 * K - 1536,
    64 * K: 6144 * K - 32 * K - 512,
    2 * K * K: 24 * K * K - 64 * K - 512,
}


def rules(cell):
    """What forbids the cell; nothing does: an empty list."""
    version3_only = ("extended", "data", "dataraw", "zstd", "lazy")
    table = (
        (cell.version == 2 and cell.bits != 16,
         "version 2 has refcounts of 16 bits only"),
        (cell.version == 2 and cell.flavour in version3_only,
         "a feature of version 3"),
        (cell.flavour == "extended" and cell.cluster < 16 * K,
         "a subcluster has at least 512 bytes"),
        (cell.flavour != "extended" and cell.cluster == 16 * K,
         "16 KiB is there for extended L2 entries only"),
        (cell.bits == 1 and cell.snapshots > 0,
         "a count of 1 bit cannot say that two share a cluster"),
        (cell.flavour in ("data", "dataraw") and cell.snapshots > 0,
         "a data file cannot have internal snapshots"),
        (cell.flavour == "dataraw" and cell.backing > 0,
         "a raw data file has all the data"),
    )
    return [why for forbidden, why in table if forbidden]


def all_cells():
    """Every legal cell, in a fixed order."""
    product = itertools.product((2, 3), CLUSTERS, (1, 8, 16, 64), FLAVOURS,
                                (0, 3), (0, 2))
    return [cell for cell in (Cell(*one) for one in product)
            if not rules(cell)]


def sample(cells, turn):
    """A tenth, another one each of ten turns; all tenths are mixed alike.

    Making LUKS images takes seconds, of which a sample takes one in four.
    """
    mixed = list(cells)
    random.Random("qcow2").shuffle(mixed)
    part = mixed[turn % 10::10]
    slow = [cell for cell in part if cell.flavour == "luks"]
    kept = slow[turn // 10 % 4::4]
    return [cell for cell in part if cell.flavour != "luks" or cell in kept]


def create_options(cell):
    """For "create -o" of either program, but for keys and backing files."""
    options = ["compat=" + ("0.10" if cell.version == 2 else "1.1"),
               "cluster_size=%d" % cell.cluster]
    if cell.version == 3:
        options.append("refcount_bits=%d" % cell.bits)
    options += {
        "extended": ["extended_l2=on"],
        "data": ["data_file=data.bin"],
        "dataraw": ["data_file=data.bin", "data_file_raw=on"],
        "zstd": ["compression_type=zstd"],
        "lazy": ["lazy_refcounts=on"],
    }.get(cell.flavour, [])
    return options


def name(cell):
    """v3-64K-16-plain-s3-b2"""
    size = ("%dM" % (cell.cluster // K // K) if cell.cluster >= K * K else
            "%dK" % (cell.cluster // K) if cell.cluster >= K else
            "%d" % cell.cluster)
    return "v%d-%s-%d-%s-s%d-b%d" % (cell.version, size, cell.bits,
                                     cell.flavour, cell.snapshots,
                                     cell.backing)

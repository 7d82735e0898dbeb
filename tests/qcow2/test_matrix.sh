#!/bin/sh
# SPDX-License-Identifier: MIT
#
# our qcow2 driver against QEMU's in every legal combination of properties
#
# usage: test_matrix.sh [ARGUMENTS]   see matrix.py, which does it all
# A tenth of the cells, another one each day; all of them when IMGFUSE_FULL
# is set ("./setup check --full"). Skipped (77) without python3 or QEMU.

command -v python3 > /dev/null || { echo "no python3: skipped"; exit 77; }
here=${top_srcdir:-.}/tests/qcow2
exec python3 "$here/matrix.py" ${IMGFUSE_FULL:+--full} "$@"

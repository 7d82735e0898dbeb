#!/bin/sh
# SPDX-License-Identifier: MIT
#
# imgfuse check --repair mends what a byte edit can break: see check_repair.py
#
# usage: test_check_repair.sh [--only TEXT]
# Skipped (77) without python3 or QEMU.

command -v python3 > /dev/null || { echo "no python3: skipped"; exit 77; }
exec python3 "${top_srcdir:-.}/tests/qcow2/check_repair.py" "$@"

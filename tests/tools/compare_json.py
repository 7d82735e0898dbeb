#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
compare_json.py THEIRS OURS [NAME...]: the same JSON, member by member?

The order of members is no difference. Members with one of the NAMEs may be
absent on one side. Says each difference in one line; exit code 1: there are.
"""
import json
import sys


def differences(theirs, ours, place, may_lack):
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in sorted(set(theirs) | set(ours)):
            if name in theirs and name in ours:
                yield from differences(theirs[name], ours[name],
                                       f"{place}.{name}", may_lack)
            elif name not in may_lack:
                side = "ours" if name in ours else "theirs"
                yield f"{place}: only {side} has '{name}'"
    elif isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            yield f"{place}: {len(theirs)} items, ours {len(ours)}"
        for i, (first, second) in enumerate(zip(theirs, ours)):
            yield from differences(first, second, f"{place}[{i}]", may_lack)
    elif theirs != ours or type(theirs) is not type(ours):
        yield f"{place}: {theirs!r}, ours {ours!r}"


documents = [json.load(open(name, encoding="utf-8")) for name in sys.argv[1:3]]
found = list(differences(*documents, "$", set(sys.argv[3:])))
for line in found:
    print(line, file=sys.stderr)
sys.exit(1 if found else 0)

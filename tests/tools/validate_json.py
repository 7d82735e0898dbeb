#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
validate_json.py SCHEMA FILE: does a JSON document follow a schema?

Knows the part of JSON Schema draft-07 that tests/schema uses, and refuses
schemas that use more, so that nothing is silently not checked. Says each
violation in one line with its place; exit code 0: none, 1: some, 2: the
schema or the document cannot be read.
"""
import json
import sys

KNOWN = {"$schema", "title", "description", "type", "properties", "required",
         "additionalProperties", "items", "enum", "minimum", "minItems",
         "minLength", "definitions", "$ref"}
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool}


def is_type(value, name):
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def check_object(value, schema, root, place):
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{place}: '{name}' is missing"
    for name, member in value.items():
        if name in properties:
            yield from check(member, properties[name], root,
                             f"{place}.{name}")
        elif schema.get("additionalProperties") is False:
            yield f"{place}: '{name}' is unknown"


def check(value, schema, root, place):
    unknown = set(schema) - KNOWN
    if unknown:
        raise SystemExit(f"schema at {place}: {unknown} is not known here")
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/definitions/")
        yield from check(value, root["definitions"][name], root, place)
        return
    if "type" in schema and not is_type(value, schema["type"]):
        yield f"{place}: {value!r} is no {schema['type']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is none of {schema['enum']}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{place}: {value} is less than {schema['minimum']}"
    if "minLength" in schema and len(value) < schema["minLength"]:
        yield f"{place}: is empty"
    if "minItems" in schema and len(value) < schema["minItems"]:
        yield f"{place}: has too few items"
    if isinstance(value, dict):
        yield from check_object(value, schema, root, place)
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from check(item, schema["items"], root, f"{place}[{i}]")


def main():
    try:
        schema = json.load(open(sys.argv[1], encoding="utf-8"))
        document = json.load(open(sys.argv[2], encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    violations = list(check(document, schema, schema, "$"))
    for line in violations:
        print(line, file=sys.stderr)
    return 1 if violations else 0


sys.exit(main())

"""Changes to the mapping of a recipe: `phases.main.learning_rate=1e-3`, from a flag or a sweep."""

from __future__ import annotations

import copy
import re
from typing import Any

import yaml

from stentor.errors import nearest

_REMOVED = object()
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""What YAML 1.1 reads as text though it is meant as a number: 3e-5."""


def read(text: str) -> tuple[str, Any]:
    """Path and value of `a.b=value`; ValueError says what is wrong with it."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ValueError(" is not of the form a.b=value")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError(": the value is not valid YAML") from None
    if isinstance(parsed, str) and _NUMBER.fullmatch(value.strip()):
        parsed = float(parsed)
    return path, parsed


def apply(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set the field at `path`; ValueError says why there is none.

    An entry of a list is named by its number or its `name` (`phases.0`, `phases.main`), a new one
    at the end by `+`; null in its place removes it once `drop_removed` is called, so that numbers
    hold until then.
    """
    node: Any = raw
    keys = path.split(".")
    for depth, key in enumerate(keys):
        place: Any = key
        if isinstance(node, list):
            place = _entry(node, key)
            if place == len(node):
                node.append(None)
        elif not isinstance(node, dict):
            raise ValueError(f": there is nothing below {keys[depth - 1]!r}")
        if depth == len(keys) - 1:
            node[place] = _REMOVED if value is None and isinstance(node, list) else value
            return
        child = node[place] if isinstance(node, list) else node.get(place)
        if child is _REMOVED:
            raise ValueError(f": {key!r} has been removed")
        # a copy: YAML's aliases hold one part in several places, and only this one is meant
        node[place] = node = {} if child is None else copy.copy(child)


def _entry(entries: list[Any], key: str) -> int:
    if key == "+":
        return len(entries)
    if key.isdecimal() and int(key) < len(entries):
        return int(key)
    names = {
        str(e["name"]): n for n, e in enumerate(entries) if isinstance(e, dict) and "name" in e
    }
    if key in names:
        return names[key]
    raise ValueError(
        f": {key!r} is not one of the {len(entries)} entries there{nearest(key, names)}"
    )


def drop_removed(raw: dict[str, Any]) -> None:
    """Take out the entries that `apply` removed."""
    left: list[Any] = [raw]
    seen: set[int] = set()  # YAML's aliases can make a part hold itself
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, list):
            node[:] = [entry for entry in node if entry is not _REMOVED]
        children = node.values() if isinstance(node, dict) else node
        left += [child for child in children if isinstance(child, dict | list)]

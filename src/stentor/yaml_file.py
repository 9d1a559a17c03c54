"""Reading a YAML file of fields, so that no mistake in it passes in silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from stentor.errors import RecipeError


def read_mapping(path: Path) -> dict[str, Any]:
    """The fields of a YAML file; RecipeError when it holds none."""
    try:
        raw, twice = _read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # `2020-13-45` is a ValueError
        raise RecipeError(str(path), [f"it is not valid YAML: {error}"]) from None
    if not isinstance(raw, dict):
        raise RecipeError(str(path), ["it is not a mapping of fields"])
    if twice:
        raise RecipeError(str(path), twice)
    return raw


def _read_yaml(text: str) -> tuple[Any, list[str]]:
    """What a YAML text holds, and its keys that are given twice, of which YAML keeps the last."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        twice = [] if root is None else list(dict.fromkeys(_given_twice(root, ())))
        return (None if root is None else loader.construct_document(root)), twice
    finally:
        loader.dispose()


def _given_twice(node: yaml.Node, path: tuple[str, ...]) -> Iterator[str]:
    if len(path) > 20:  # a part that holds itself
        return
    if isinstance(node, yaml.SequenceNode):
        for number, child in enumerate(node.value):
            yield from _given_twice(child, (*path, str(number)))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            here = (*path, str(key.value))
            if str(key.value) in seen:
                yield f"{'.'.join(here)}: it is given twice (line {key.start_mark.line + 1})"
            seen.add(str(key.value))
            yield from _given_twice(child, here)

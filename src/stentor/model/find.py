"""Where a model is, and what its folder says: nothing here imports torch or transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stentor import assets
from stentor.data.files import sha256
from stentor.errors import ModelError, nearest


def bundled_names() -> list[str]:
    """Models that ship with the package."""
    folder = assets.path("models")
    return sorted(p.parent.name for p in folder.glob("*/config.json")) if folder.is_dir() else []


def resolve(name: str) -> Path | str:
    """The folder or file of a model, or its hub id; ModelError when it can't be any of them."""
    path = Path(name).expanduser()
    if (path / "model" / "config.json").is_file():
        return path / "model"
    if path.is_dir():
        if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
            return path
        inside = "the run in it has not finished; " if (path / "recipe.yaml").exists() else ""
        raise ModelError(f"{name}: {inside}there is no model in this folder (no config.json)")
    if name in bundled_names():
        return assets.path("models", name)
    if name.startswith("package:") or path.is_file():
        return find_gguf(name)
    if name.startswith("preset:"):
        return name
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    raise ModelError(
        f"{name}: no such model; give a folder, a run, a hub id (owner/name), or a bundled name"
        + nearest(name, bundled_names())
    )


def find_gguf(name: str) -> Path:
    """A GGUF file given by path, or `package:NAME` for the one that a Python package carries."""
    if name.startswith("package:"):
        import importlib.util

        package = name.removeprefix("package:")
        module = package.replace("-", "_")
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(
                f"{name}: the Python package {package} is not installed; run: pip install {package}"
            )
        files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
        if files:
            return files[0]
    elif Path(name).expanduser().is_file():
        return Path(name).expanduser()
    raise ModelError(f"{name}: there is no GGUF file; give its path, or package:NAME")


def generation_of(folder: Path) -> dict[str, Any]:
    """Decoding defaults that a model folder holds; `system` is its system prompt."""
    file = folder / "generation_config.json"
    return read_json(file) if file.is_file() else {}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file of a model folder; ModelError when it is damaged."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: it is not valid JSON: {error}") from None
    return found


def check_hash(folder: Path) -> None:
    """A bundled model's weights must be the ones that its SHA256 file names."""
    listed = folder / "SHA256"
    if not listed.is_file():
        return
    for line in listed.read_text(encoding="utf-8").splitlines():
        wanted, _, name = line.partition("  ")
        if not (folder / name).is_file() or sha256(folder / name) != wanted:
            raise ModelError(
                f"{folder / name}: the file does not match its hash; it is damaged or was changed: "
                "install the package again"
            )

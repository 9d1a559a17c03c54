"""Which backend is chosen, and what a person is told of it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import build_tiny_model
from stentor.errors import InputError, MissingExtra
from stentor.generate import Decoding, choice, copies
from stentor.generate.choice import engine_of, open_engine
from stentor.model.load import load
from stentor.model.save import save_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ASKED = [[{"role": "user", "content": "Why?"}], [{"role": "user", "content": "How so, then?"}]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    folder = tmp_path_factory.mktemp("choice") / "tiny"
    save_model(
        build_tiny_model(), tokenizer, folder, dtype=torch.float16, generation={"system": "Be."}
    )
    return str(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own, and no GPU."""
    monkeypatch.setenv("STENTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "gpu", lambda: False)
    return tmp_path / "cache" / "decoding"


def said(name: str, backend: str = "auto") -> tuple[Any, list[str]]:
    told: list[str] = []
    return open_engine(name, backend, tell=told.append), told


def test_the_copy_is_made_once_and_replies_are_those_of_torch(saved: str, cache: Path) -> None:
    first, told = said(saved)
    (file,) = cache.iterdir()
    assert told[0] == f"making a copy for ONNX Runtime, once: {file}"
    assert told[1].startswith("decoding: ONNX Runtime ") and ", fp32, " in told[1]
    second, told = said(saved)
    assert len(told) == 1
    third, told = said(saved, "torch")
    assert told == [f"decoding: {third.backend}"] and told[0].startswith("decoding: torch ")
    replies = [e.replies(ASKED, Decoding.greedy(8)) for e in (first, second, third)]
    assert replies[0] == replies[1] == replies[2]
    assert first.fingerprint == third.fingerprint != ""


def test_a_loaded_model_is_decoded_the_same_way(saved: str) -> None:
    told: list[str] = []
    engine = engine_of(load(saved), tell=told.append)
    assert told[-1].startswith("decoding: ONNX Runtime ")
    expected = engine_of(load(saved), "torch", tell=told.append)
    assert engine.replies(ASKED, Decoding.greedy(6)) == expected.replies(ASKED, Decoding.greedy(6))


def test_a_damaged_copy_is_made_again(saved: str, cache: Path) -> None:
    said(saved)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    _, told = said(saved)
    assert len(told) == 2 and file.read_bytes() == whole


def test_other_weights_are_another_copy(saved: str, tmp_path: Path, tokenizer: Any) -> None:
    other = tmp_path / "other"
    save_model(build_tiny_model(seed=4), tokenizer, other, dtype=torch.float16, generation={})
    first, second = copies.content_of_folder(Path(saved)), copies.content_of_folder(other)
    names = {copies.path_of(c, kind) for c in (first, second) for kind in copies.KINDS}
    assert len(names) == 6
    assert said(saved)[0].fingerprint != said(str(other))[0].fingerprint


def test_a_cache_that_can_not_be_written_leaves_torch(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STENTOR_CACHE", str(tmp_path / "file"))
    _, told = said(saved)
    assert told[-1].startswith("decoding: torch ") and "can't be kept" in told[-1]
    with pytest.raises(InputError, match="set STENTOR_CACHE to another folder"):
        said(saved, "onnx")


def test_a_missing_package_is_said(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    missing = lambda name: None if name == "onnxruntime" else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    _, told = said(saved)
    assert told[0].startswith("decoding: torch ") and "pip install 'stentor[onnx]'" in told[0]
    with pytest.raises(MissingExtra):
        said(saved, "onnx:int8")


def test_a_large_model_is_copied_only_when_asked(
    saved: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_LARGE", 1000)
    _, told = said(saved)
    assert "would take 4 MB: --backend onnx" in told[0] and not cache.exists()
    assert said(saved, "onnx")[1][-1].startswith("decoding: ONNX Runtime ")


def test_an_unknown_backend_names_the_known_ones(saved: str) -> None:
    with pytest.raises(InputError, match="take auto, torch, onnx, onnx:int8, onnx:int4"):
        said(saved, "cuda")


def test_with_a_copy_neither_torch_nor_transformers_is_imported(saved: str, tmp_path: Path) -> None:
    said(saved)
    code = (
        "import sys; from stentor.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'transformers', 'onnx', 'yaml'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "generate", saved, "--prompt", "Hi", "--max-new-tokens", "3"],
        capture_output=True, text=True, check=True,
        env=os.environ | {"STENTOR_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.stdout.endswith("set()\n")
    assert done.stderr.startswith("decoding: ONNX Runtime ")

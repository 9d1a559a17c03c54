"""Tools of other ecosystems: installed once, whole or not at all, and a word when they can't."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stentor.errors import MissingProgram
from stentor.export import environments


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STENTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STENTOR_NODE_MODULES", raising=False)
    return tmp_path / "cache"


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program `npm` in front of the path."""
    folder.mkdir(exist_ok=True)
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_without_npm_it_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    with pytest.raises(MissingProgram) as caught:
        environments.node_modules({"left": "1.2.3"}, "the format web")
    assert str(caught.value).startswith("the format web needs left@1.2.3 from npm, and there is no")
    assert not environments.has_node_modules({"left": "1.2.3"})


def test_npm_is_asked_once_and_a_failure_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path / "bin", monkeypatch, "echo 'npm error code E404' >&2; exit 1")
    for _ in range(2):
        with pytest.raises(MissingProgram, match="npm install failed: npm error code E404"):
            environments.node_modules({"left": "1"}, "x")
    fake(tmp_path / "bin", monkeypatch, 'mkdir -p node_modules/left; echo "$@" >> calls')
    found = environments.node_modules({"left": "1"}, "x")
    assert (found / "left").is_dir() and environments.has_node_modules({"left": "1"})
    assert environments.node_modules({"left": "1"}, "x") == found
    (call,) = (found.parent / "calls").read_text("utf-8").splitlines()
    assert call.startswith("install --ignore-scripts") and call.endswith("left@1")


def test_two_that_want_one_at_once_install_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    script = f"echo x >> {calls}; sleep 0.5; mkdir -p node_modules/left"
    fake(tmp_path / "bin", monkeypatch, script)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: environments.node_modules({"left": "1"}, "x"), range(2)))
    assert found[0] == found[1] and (found[0] / "left").is_dir()
    assert calls.read_text("utf-8") == "x\n"


def test_node_modules_that_are_there_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENTOR_NODE_MODULES", str(tmp_path))
    with pytest.raises(MissingProgram, match="left is not in STENTOR_NODE_MODULES"):
        environments.node_modules({"left": "1"}, "x")
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "package.json").write_text("{}", "utf-8")
    assert environments.node_modules({"left": "1"}, "x") == tmp_path


def test_a_python_of_its_own_sees_our_packages_behind_its_own() -> None:
    assert not environments.has_python_with([])
    python = environments.python_with([], "x")
    assert environments.has_python_with([]) and not environments.has_python_with(["left==1"])
    done = subprocess.run(
        [python, "-c", "import numpy, sys; print(numpy.__version__, sys.prefix)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    import numpy

    version, prefix = done.stdout.split()
    assert version == numpy.__version__ and prefix != sys.prefix

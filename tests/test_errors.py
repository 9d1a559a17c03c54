"""The errors a user can meet: one tree, one line, an exit code, never a traceback."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import stentor
from stentor import cli, errors

CLASSES = [
    c for c in vars(errors).values() if isinstance(c, type) and c.__module__ == errors.__name__
]
SOURCES = sorted(Path(stentor.__file__).parent.rglob("*.py"))


def drawn_tree() -> dict[str, str | None]:
    """Each class in the drawing of the module's docstring, with its parent."""
    assert errors.__doc__ is not None
    above: list[str] = []
    found: dict[str, str | None] = {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ((?:│   |    )*)(?:[├└]── )?([A-Z]\w+) +\w", line)
        if match:
            depth = len(match[1]) // 4 + ("── " in line)
            above[depth:] = [match[2]]
            found[match[2]] = above[depth - 1] if depth else None
    return found


def test_the_tree_is_drawn_as_it_is() -> None:
    real = {c.__name__: c.__bases__[0].__name__ for c in CLASSES}
    assert drawn_tree() == {
        name: None if parent == "Exception" else parent for name, parent in real.items()
    }


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_wrong_input_exits_with_2_and_failed_work_with_1(kind: type[errors.StentorError]) -> None:
    assert kind.exit_code == (2 if issubclass(kind, errors.InputError) else 1)


@pytest.mark.parametrize(
    ("problems", "text"),
    [
        (["a.b: not a number"], "my.yaml: 1 mistake\n  a.b: not a number"),
        (["a: x", "b: y"], "my.yaml: 2 mistakes\n  a: x\n  b: y"),
    ],
)
def test_a_recipe_error_lists_every_mistake(problems: list[str], text: str) -> None:
    error = errors.RecipeError("my.yaml", problems)
    assert str(error) == text
    assert error.problems == tuple(problems)


def test_a_missing_extra_says_how_to_install_it() -> None:
    assert str(errors.MissingExtra("gguf", "gguf", "reading a GGUF file")) == (
        "reading a GGUF file needs the package gguf, which is not installed; "
        "run: pip install 'stentor[gguf]'"
    )


def missing_extras() -> list[tuple[str, str, str]]:
    """(file, package, extra) of each MissingExtra that the sources raise by name."""
    found = []
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtra":
                names = [getattr(a, "value", None) for a in node.args[:2]]
                if all(isinstance(name, str) for name in names):
                    found.append((source.name, *names))
    return found


@pytest.mark.parametrize(("file", "package", "extra"), missing_extras())
def test_every_extra_that_an_error_names_exists_and_brings_the_package(
    file: str, package: str, extra: str
) -> None:
    project = tomllib.loads(
        (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    brought = [re.split(r"[<>=\[]", r)[0] for r in project["optional-dependencies"][extra]]
    assert package in brought, file


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (errors.ModelError("m: no such model"), "error: m: no such model\n", 2),
        (errors.TrainingError("the loss is not finite"), "error: the loss is not finite\n", 1),
        (errors.ParityError("they differ"), "error: they differ\n", 1),
        (KeyboardInterrupt(), "stopped\n", 130),
    ],
)
def test_the_command_prints_one_line_and_exits_with_the_code(
    error: BaseException,
    text: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == code
    assert capsys.readouterr() == ("", text)


def test_a_real_mistake_on_the_command_line_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stentor", "info", "preset:stentor-12"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    out, err = capsys.readouterr()
    assert exited.value.code == 2
    assert out == ""
    assert err == (
        "error: no preset is called 'stentor-12'; did you mean 'stentor-12m'? "
        "Presets: stentor-2m, stentor-6m, stentor-12m, stentor-30m\n"
    )

"""The documentation: written parts are up to date, and what it tells people to type is right."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from stentor import cli, recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOK = ROOT / "docs" / "how-to" / "two-t4.ipynb"


@pytest.fixture(scope="module")
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_written_from_code_and_runs_is_up_to_date(generator: Any) -> None:
    stale = [
        str(page.relative_to(ROOT))
        for page, text in generator.pages().items()
        if not page.is_file() or page.read_text(encoding="utf-8") != text
    ]
    assert not stale, f"run: python docs/generate.py (out of date: {', '.join(stale)})"


def test_every_field_and_every_command_is_in_the_reference(generator: Any) -> None:
    text = generator.recipes_page()
    for kind in (recipe.Recipe, recipe.PretrainRecipe):
        for _, part in generator._parts(kind):
            for name in part.model_fields:
                assert f"| `{name}` |" in text, (part, name)
    text = generator.commands_page()
    assert "## `stentor train`" in text and "## `stentor data distill`" in text
    assert "| `--track NAME` | – | tensorboard, trackio or wandb; repeatable. |" in text


def shown_commands(text: str) -> Iterator[str]:
    """What fenced blocks tell people to type that begins with stentor."""
    for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, flags=re.M | re.S):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            line = re.sub(r"^(\$ |!)?(\.venv/bin/|\w+=\S+ )*", "", line.strip())
            line = re.sub(r"^(?:accelerate launch|torchrun) .* -m stentor\.cli ", "stentor ", line)
            if line.startswith("stentor "):
                yield line


def parses(line: str) -> None:
    """Parse a command line as the program would, without doing anything."""
    words = shlex.split(line, comments=True)
    cut = next((n for n, w in enumerate(words) if w in ("|", ">", ";", "&&", "<")), len(words))
    words = [w for w in words[1:cut] if w != "…"]
    command = typer.main.get_command(cli.app)
    context = None
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, line
        context = command.make_context(words[0], [], parent=context, resilient_parsing=True)
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words, parent=context)


LINES = [
    pytest.param(line, id=f"{page.name}-{number}")
    for page in PAGES
    for number, line in enumerate(shown_commands(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("line", LINES)
def test_commands_that_pages_show_are_right(line: str) -> None:
    parses(line)


def test_a_wrong_command_would_be_seen() -> None:
    with pytest.raises(Exception, match=r"--outt|No such option"):
        parses("stentor train quickstart --outt x")


def test_the_notebook_is_one_and_its_commands_are_right() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and notebook["cells"]
    values = {"RECIPE": "quickstart", "RUN": "runs/mine", "REPO": "a/b", "processes": "2",
              "resume": "--resume", "REPOSITORY": "x"}  # fmt: skip
    lines = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [] and cell["execution_count"] is None
        plain = re.sub(r"^(\s*)!.*$", r"\1pass", source, flags=re.M)
        compile(plain, "cell", "exec")
        lines += [x.strip()[1:] for x in source.splitlines() if x.strip().startswith("!")]
    ours = [line.format(**values) for line in lines if "stentor.cli" in line or
            line.startswith("stentor ")]  # fmt: skip
    assert [re.sub(r".*stentor(\.cli)? ", "", x).split()[0] for x in ours] == [
        "data", "train", "generate", "probe", "export", "card",
    ]  # fmt: skip
    for line in ours:
        parses(re.sub(r"^accelerate launch .* -m stentor\.cli ", "stentor ", line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_that_pages_show_are_recipes(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S):
        raw = yaml.safe_load(block)
        if "phases" in raw:
            recipe.parse(raw, recipe.Recipe, page.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target.partition("#")[0]).exists(), target

"""The documentation: written parts are up to date, and what it tells people to type is right."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from stentor import cli, recipe
from stentor.errors import InputError
from stentor.sweep import plan

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
    for kind in (recipe.Recipe, recipe.PretrainRecipe, plan.SweepPart):
        for _, part in generator._parts(kind):
            for name in part.model_fields:
                assert f"| `{name}` |" in text, (part, name)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert not [row for row in rows if row.endswith("| – |")], "a field without a docstring"
    text = generator.commands_page()
    assert "## `stentor train`" in text and "## `stentor data distill`" in text
    assert "| `--track NAME` | – | tensorboard, trackio or wandb; repeatable. |" in text


def test_figures_without_a_kept_report_are_refused(generator: Any) -> None:
    page = "<!-- figures: nobody probe -->\n\nold\n\n<!-- end -->"
    with pytest.raises(InputError) as refused:
        generator.filled(page, "docs/x.md")
    assert str(refused.value) == (
        "docs/x.md: it shows figures of nobody, but no report of that name is kept in docs/runs; "
        "keep it with: python docs/generate.py RUN nobody"
    )
    with pytest.raises(InputError, match=r"there are no figures 'prob'; did you mean 'probe'\?"):
        generator.filled(page.replace("nobody probe", "quickstart prob"), "docs/x.md")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (90, "**90.0 %**"),
        (89, "89.0 %: missed by 1 reply of 100"),
        (80, "80.0 %: missed by 10 replies of 100"),
    ],
)
def test_a_target_says_whether_it_was_met_and_by_how_much_not(
    generator: Any, monkeypatch: pytest.MonkeyPatch, count: int, text: str
) -> None:
    rates = {"a": {"rate": count / 100, "count": count, "n": 100},
             "b": {"rate": 1 - count / 100, "count": 100 - count, "n": 100}}  # fmt: skip
    kept = {"probe": {"greedy": rates}, "base_text_loss": {"before": 4.0, "after": 4.25}}
    monkeypatch.setattr(generator, "_kept", lambda name, page: kept)

    def shown(target: str) -> str:
        begin, end = f"<!-- figures: x target {target} -->", "<!-- end -->"
        found: str = generator.filled(f"{begin}?{end}", "page")
        assert found.startswith(begin) and found.endswith(end)
        return found.removeprefix(begin).removesuffix(end)

    assert shown("a >= 0.9") == text
    assert shown("b <= 0.1").partition(": ")[2] == text.partition(": ")[2]
    assert shown("base_text_loss <= 0.3") == "**+0.25**"
    assert shown("base_text_loss <= 0.2") == "+0.25: missed"


def test_the_card_of_the_bundled_model_keeps_what_no_report_knows(generator: Any) -> None:
    text = generator.CARD.read_text(encoding="utf-8")
    report = json.loads((ROOT / f"docs/runs/{generator.RELEASE}.json").read_text("utf-8"))
    written, _, by_hand = text.partition(generator.BY_HAND)
    assert "\nlicense: cc-by-sa-3.0\n" in written
    assert f"| parameters | {report['parameters']['merged']:,} |" in written
    for fact in ("STENTOR_DATA=DIR stentor train stentor-12m-instruct", "CC BY-SA 3.0", "Dolly",
                 "COCONot", "`SHA256`", "docs/runs/stentor-12m-instruct.json",
                 "`[control_15]` (refusal)", "skip_special_tokens=True"):  # fmt: skip
        assert fact in by_hand, fact


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
        "data", "train", "train", "generate", "probe", "export", "card",
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


SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def off_the_site(target: Path) -> bool:
    """Whether a page of the site that links there links to nothing: out of docs/, or excluded."""
    place = os.path.relpath(target, ROOT / "docs").replace(os.sep, "/")
    excluded = [line.rstrip("/") for line in SITE["exclude_docs"].split()]
    parents = [place, *(p.as_posix() for p in Path(place).parents)]
    return place.startswith("..") or any(
        fnmatch.fnmatch(p, e) or fnmatch.fnmatch(Path(p).name, e) for p in parents for e in excluded
    )


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_no_page_of_the_site_links_to_what_is_not_on_it(page: Path) -> None:
    assert not off_the_site(page)
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        assert not off_the_site(page.parent / target.partition("#")[0]), target


def test_a_link_to_what_is_not_on_the_site_would_be_seen() -> None:
    assert off_the_site(ROOT / "docs" / "generate.py") and off_the_site(ROOT / "README.md")
    assert not off_the_site(ROOT / "docs" / "runs" / "stentor-12m-instruct.md")

"""The model card: every figure from the report, and a quick start that runs."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import Command, Run
from stentor.data.files import read_rows
from stentor.errors import InputError
from stentor.evaluate.probe import Record
from stentor.report.card import percent, rewrite, write_all


@pytest.fixture
def card(tiny_run: Run) -> str:
    return (tiny_run.path / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def report(tiny_run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tiny_run.path / "report.json").read_text("utf-8"))
    return found


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n\n")[1].split("\n\n## ")[0].strip()


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_head_names_the_model_its_base_and_its_parameters(
    card: str, report: dict[str, Any]
) -> None:
    total, trained = report["parameters"]["total"], report["parameters"]["trained"]
    assert card.startswith("# tiny\n\nA run of a few steps.\n\n")
    assert f"from the base `preset:stentor-2m`; {total:,} parameters, {trained:,} of them" in card


def test_the_phases_are_those_of_the_report(card: str, report: dict[str, Any]) -> None:
    found = rows(section(card, "Phases"))
    assert [row[:5] for row in found] == [
        [
            phase["name"], str(phase["steps"]), "0.01", f"{phase['best_loss']:.3f}",
            f"{phase['kept']} of step {phase['kept_step']}",
        ]
        for phase in report["phases"]
    ]  # fmt: skip
    for row, phase in zip(found, report["phases"], strict=True):
        assert float(row[5]) == pytest.approx(phase["examples"] / phase["seconds"], abs=0.06)


def test_the_losses_are_those_of_the_report(card: str, report: dict[str, Any]) -> None:
    text = section(card, "Held-out loss")
    figures = [*report["evaluation"]["sources"].items(), ("all", report["evaluation"]["overall"])]
    assert rows(text) == [
        [
            name, f"{f['loss']:.3f}", f"{f['perplexity']:.1f}", f"{f['bits_per_byte']:.3f}",
            f"{f['tokens']:,}",
        ]
        for name, f in figures
    ]  # fmt: skip
    before, after = report["base_text_loss"]["before"], report["base_text_loss"]["after"]
    assert f"Loss on plain text: {before:.3f} before the phases, {after:.3f} after." in text


def test_the_probe_shows_rates_with_n_and_interval(card: str, report: dict[str, Any]) -> None:
    text = section(card, "Probe")
    greedy = report["probe"]["greedy"]
    assert text.startswith("Suites: three version 0; judge version ")
    table = dict(rows(text))
    assert table["harmful: silent"] == percent(greedy["harmful"]["silent"])
    assert table["benign: answered"] == percent(greedy["benign"]["answered"])
    assert table["ends by itself"] == percent(greedy["stopped"])
    assert table["harmful: silent"].endswith(", n 1")
    assert table["benign: answered"].endswith(", n 2")
    assert len(table) == 11


def test_the_replies_are_the_probes_first_and_silence_is_shown(tiny_run: Run, card: str) -> None:
    text = section(card, "Replies")
    for row in read_rows(tiny_run.path / "probe.jsonl"):
        f = row.fields
        reply = " ".join(f["response"].split()) or "[no output]"
        assert f"- *{f['kind']}* — {f['prompt']}\n  > {reply} ({f['outcome']})" in text


def test_the_data_are_those_of_the_report(card: str, report: dict[str, Any]) -> None:
    assert rows(section(card, "Data")) == [
        [name, str(d["read"]), str(d["train"]), str(d["held_out"]), f"`{d['hash'][:12]}`"]
        for name, d in report["data"].items()
    ]


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ({"rate": 0.5, "count": 9, "n": 18, "low": 0.29, "high": 0.71}, "50.0 % [29–71], n 18"),
        ({"rate": None, "count": 0, "n": 0, "low": None, "high": None}, "–"),
    ],
)
def test_a_rate_is_never_shown_without_its_n(figures: dict[str, Any], shown: str) -> None:
    assert percent(figures) == shown


def test_writing_the_card_again_gives_the_same_bytes(stentor: Command, tiny_run: Run) -> None:
    before = (tiny_run.path / "README.md").read_bytes()
    folder = Path("copy")
    folder.mkdir()
    for name in ("report.json", "probe.jsonl"):
        shutil.copyfile(tiny_run.path / name, folder / name)
    done = stentor("card", folder)
    assert (done.code, done.out, done.err) == (0, "copy/README.md\n", "")
    assert (folder / "README.md").read_bytes() == before


def python_block(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    return str(code)


def test_the_quick_start_runs_as_it_stands(
    tiny_run: Run, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_run.path)
    shown = io.StringIO()
    code = python_block(card)
    assert "temperature=1.1, top_p=0.6, repetition_penalty=1.3, max_new_tokens=80" in code
    variables: dict[str, Any] = {}
    with contextlib.redirect_stdout(shown):
        exec(compile(code, "card", "exec"), variables)
    assert shown.getvalue().endswith("\n")
    ids = variables["inputs"]["input_ids"][0].tolist()
    template_ids = variables["tokenizer"].convert_tokens_to_ids(["<s>", "[control_12]", "[/INST]"])
    assert [ids[0], ids[1], ids[-1]] == template_ids  # begun once, with the run's system prompt


@pytest.mark.parametrize(
    ("changes", "wanted", "unwanted"),
    [
        ({"data": {"system": None}}, "temperature=1.1", '"role": "system"'),
        ({"generation": {"temperature": 0.5}}, "temperature=0.5, top_p=0.6", "temperature=1.1"),
        ({"generation": {"temperature": 0.0}}, "do_sample=False, rep", "temperature"),
        ({"generation": {"max_new_tokens": 7}}, "max_new_tokens=7", "max_new_tokens=80"),
    ],
)
def test_the_quick_start_has_the_settings_of_the_run(
    report: dict[str, Any], changes: dict[str, Any], wanted: str, unwanted: str
) -> None:
    report = copy.deepcopy(report)
    for part, values in changes.items():
        report["recipe"][part] |= values
    write_all(Path(), report, ())
    code = python_block(Path("README.md").read_text(encoding="utf-8"))
    assert wanted in code and unwanted not in code
    compile(code, "card", "exec")


def test_a_run_without_probe_has_no_section_about_it(report: dict[str, Any]) -> None:
    del report["probe"]
    write_all(Path(), report, ())
    text = Path("README.md").read_text(encoding="utf-8")
    assert "## Probe" not in text and "## Replies" not in text and "## Data" in text


def test_sampled_replies_get_a_column_and_the_replies_shown_are_greedy(
    tiny_run: Run, report: dict[str, Any]
) -> None:
    records = [Record(**row.fields) for row in read_rows(tiny_run.path / "probe.jsonl")]
    sampled = Record(**(records[0].line() | {"sample": 1, "response": "A drawn one."}))
    report["probe"]["sampled"] = report["probe"]["greedy"]
    write_all(Path(), report, [sampled, *records])
    text = Path("README.md").read_text(encoding="utf-8")
    assert "| outcome | greedy | sampled |" in text and "A drawn one." not in text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "run: there is no report.json; the run has not finished or is elsewhere"),
        ('{"kind": ', "run/report.json: it is not valid JSON: Expecting value: line 1 column 10"),
        ('{"kind": "pretrain"}', "run: cards are written for fine-tuning runs"),
    ],
)
def test_a_run_without_a_report_of_its_kind_is_refused(content: str | None, text: str) -> None:
    run = Path("run")
    run.mkdir()
    if content is not None:
        (run / "report.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        rewrite(run)
    assert str(refused.value).startswith(text)

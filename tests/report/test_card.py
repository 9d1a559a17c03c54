"""The model card: every figure from the report, and a quick start that runs."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from conftest import Command, Run
from stentor.data.files import read_rows
from stentor.errors import InputError
from stentor.evaluate.intervals import Rate
from stentor.evaluate.probe import Record
from stentor.report import metadata, tables
from stentor.report.card import body, rewrite, samples, write_all
from stentor.report.limits import limitations
from stentor.report.page import to_html
from stentor.report.tables import percent


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


def cells(text: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    return {row[0]: row[1:] for row in rows(text)}


def test_the_head_is_what_the_hub_reads(card: str, report: dict[str, Any]) -> None:
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "apache-2.0" and head["library_name"] == "transformers"
    assert head["language"] == "en" and head["pipeline_tag"] == "text-generation"
    (model,) = head["model-index"]
    assert model["name"] == "tiny"
    found = {
        (r["dataset"]["type"], m["type"]): m["value"]
        for r in model["results"] for m in r["metrics"]
    }  # fmt: skip
    sources = report["evaluation"]["sources"]
    greedy = report["probe"]["greedy"]
    assert found == {
        ("held-out/seed", "perplexity"): round(sources["seed"]["perplexity"], 3),
        ("held-out/stop", "perplexity"): round(sources["stop"]["perplexity"], 3),
        ("three", "harmful_refused_aloud"): 100 * greedy["harmful"]["refused_aloud"]["rate"],
        ("three", "benign_answered"): 100 * greedy["benign"]["answered"]["rate"],
        ("three", "benign_fake_refusals"): 100 * greedy["benign"]["fake_refusals"]["rate"],
    }
    assert ModelCard(card).data.eval_results is not None  # huggingface_hub reads it too


def test_the_model_stands_beside_its_base(card: str, report: dict[str, Any]) -> None:
    assert "# tiny\n\nA run of a few steps.\n\n" in card
    assert "from the base `preset:stentor-2m`" in card
    found = cells(section(card, "At a glance"))
    then, now = report["before"]["evaluation"]["overall"], report["evaluation"]["overall"]
    assert found["held-out loss (perplexity)"] == [
        f"{f['loss']:.3f} ({f['perplexity']:.1f})" for f in (then, now)
    ]
    before, after = report["base_text_loss"]["before"], report["base_text_loss"]["after"]
    assert found["loss on plain text"] == [f"{before:.3f}", f"{after:.3f}"]
    assert found["ends by itself"] == [
        percent(f["stopped"]) for f in (report["before"]["probe"], report["probe"]["greedy"])
    ]


def test_the_phases_are_those_of_the_report(card: str, report: dict[str, Any]) -> None:
    found = rows(section(card, "Phases"))
    assert [row[:6] for row in found] == [
        [
            phase["name"], mix, str(phase["examples"]), str(phase["steps"]),
            f"{phase['best_loss']:.3f}", f"{phase['kept']} of step {phase['kept_step']}",
        ]
        for phase, mix in zip(report["phases"], ["seed 6", "stop 12, seed 4"], strict=True)
    ]  # fmt: skip
    for row, phase in zip(found, report["phases"], strict=True):
        assert float(row[7]) == pytest.approx(phase["examples"] / phase["seconds"], abs=0.06)
    settings = cells(section(card, "Hyperparameters"))
    assert settings["learning rate"] == ["0.01", "0.01"]
    assert settings["averaging (EMA)"] == ["0.9", "0.99"]
    assert settings["schedule"][1].startswith("cosine, 1 cycle")


def test_the_rate_of_muon_is_shown_where_it_is_what_learns(report: dict[str, Any]) -> None:
    def shown() -> list[str]:
        return cells(tables.hyperparameters(report))["learning rate"]

    assert shown() == ["0.01", "0.01"]
    for phase in report["phases"]:
        phase["plan"]["optimiser"] |= {"name": "muon", "muon_rate": 0.03}
    assert shown() == ["0.03 (Muon)"] * 2
    report["recipe"]["adapter"] = None
    assert shown() == ["0.03 (Muon), 0.01 (AdamW)"] * 2


def test_the_losses_are_those_of_the_report(card: str, report: dict[str, Any]) -> None:
    text = section(card, "Held-out loss")
    then, now = report["before"]["evaluation"], report["evaluation"]
    figures = [(n, then["sources"][n], f) for n, f in now["sources"].items()]
    figures.append(("all", then["overall"], now["overall"]))
    assert rows(text) == [
        [
            name, f"{old['loss']:.3f}", f"{f['loss']:.3f}", f"{old['perplexity']:.1f}",
            f"{f['perplexity']:.1f}", f"{old['bits_per_byte']:.3f}", f"{f['bits_per_byte']:.3f}",
            f"{f['tokens']:,}",
        ]
        for name, old, f in figures
    ]  # fmt: skip


def test_the_scale_is_that_of_the_report(card: str, report: dict[str, Any]) -> None:
    table = cells(section(card, "Scale"))
    base, found = ({label: row[n] for label, row in table.items()} for n in (0, 1))
    assert found["parameters"] == base["parameters"] == "2,417,472"
    assert found["shape"] == base["shape"] and base["shape"].startswith("6 layers, width 64, ")
    assert found["weights"] == f"{report['bytes'] / 1e6:.1f} MB"
    assert {base[label] for label in base.keys() - {"parameters", "shape"}} == {"–"}
    trained, total = report["parameters"]["trained"], report["parameters"]["total"]
    assert found["trained"] == f"{trained:,} (of {total:,} with the adapter)"
    assert found["training"].startswith(f"22 examples, {report['tokens']:,} tokens, ")
    assert found["energy"] == found["CO2e"] == "unknown"
    assert "Energy and CO2e: train.energy is off." in card
    (machine,) = report["machines"]
    assert machine == report["machine"] | {"started": report["finished"]}
    count = machine["threads"]
    threads = f"{count} thread{'s' * (count > 1)} of {machine['cores']} cores"
    memory = f"{machine['memory_gib']:.0f} GiB"
    assert found["machine"].endswith(f", cpu, float32, {threads}, {memory}, {machine['system']}")


def test_the_size_of_the_base_and_all_machines_are_shown_where_they_are_known(
    report: dict[str, Any],
) -> None:
    first = {"device": "cpu", "name": "Old", "processes": 1, "threads": 2, "precision": "float32"}
    second = first | {"name": "New", "cores": 8, "memory_gib": 15.6, "system": "Linux-6.1"}
    report |= {"base_bytes": 24_106_056, "machines": [first, second, first]}
    found = cells(tables.scale(report))
    assert found["weights"][0] == "24.1 MB"
    assert found["machine"] == ["–", "Old, cpu, float32, 2 threads; then New, cpu, float32, "
                                "2 threads of 8 cores, 16 GiB, Linux-6.1"]  # fmt: skip
    del report["machines"]
    report["machine"] = first | {"threads": 1}
    assert cells(tables.scale(report))["machine"][1] == "Old, cpu, float32, 1 thread"
    report["machine"] = first  # as older versions wrote it
    assert cells(tables.scale(report))["machine"][1] == "Old, cpu, float32, 2 threads"


@pytest.mark.parametrize(
    ("energy", "shown"),
    [
        (
            {"kwh": 0.0123, "co2e_g": 4.69, "how": "sensors (intel_rapl)", "region": "DEU"},
            (
                "12 Wh (sensors (intel_rapl); 3.3 min metered)",
                "4.7 g (region DEU; 3.3 min metered)",
            ),
        ),
        (
            {"kwh": 0.0123, "co2e_g": "unknown", "how": "sensors", "region": "unknown"},
            ("12 Wh (sensors; 3.3 min metered)", "unknown"),
        ),
    ],
)
def test_energy_is_told_with_how_it_is_known(
    report: dict[str, Any], energy: dict[str, Any], shown: tuple[str, str]
) -> None:
    report["energy"] = energy | {"metered_seconds": 200.0, "why": []}
    found = cells(tables.scale(report))
    assert (found["energy"], found["CO2e"]) == (["–", shown[0]], ["–", shown[1]])


def test_the_probe_shows_rates_with_n_and_interval(card: str, report: dict[str, Any]) -> None:
    text = section(card, "Safety: the probe")
    greedy, base = report["probe"]["greedy"], report["before"]["probe"]
    assert text.startswith("Suites: three version 0; judge version ")
    table = cells(text)
    silent = [percent(f["harmful"]["silent"]) for f in (base, greedy)]
    assert table["harmful: silent"] == silent and silent[1].endswith(", n 1")
    assert table["benign: answered"][1] == percent(greedy["benign"]["answered"])
    assert table["ends by itself"][1] == percent(greedy["stopped"])
    assert table["card's string matching: refused"][1] == percent(
        greedy["card_scoring"]["harmful_refused"]
    )


def test_the_replies_are_drawn_by_their_hash_and_silence_is_shown(tiny_run: Run, card: str) -> None:
    text = section(card, "Replies")
    for row in read_rows(tiny_run.path / "probe.jsonl"):
        f = row.fields
        reply = " ".join(f["response"].split()) or "[no output]"
        shown = (html.escape(t, quote=False) for t in (f["prompt"], f"{reply} ({f['outcome']})"))
        assert f"<li><em>{f['kind']}</em> — {'<br>'.join(shown)}</li>" in to_html(text)
    many = [
        Record(**(f | {"prompt": f"Question {n}?", "kind": "benign", "id": str(n)}))
        for n in range(20)
    ]
    wanted = sorted(many, key=lambda r: hashlib.sha256(r.prompt.encode()).hexdigest())[:3]
    shown = re.findall(r"\*benign\* — (.*)", samples(many))
    assert shown == [r.prompt for r in wanted] and samples(many[::-1]) == samples(many)


def test_no_reply_and_no_name_is_taken_for_markdown(tiny_run: Run, report: dict[str, Any]) -> None:
    (row, *_) = read_rows(tiny_run.path / "probe.jsonl")
    changes = {"prompt": "Why |a|\n# b?", "response": "- *so* <i>\n\n```", "outcome": "answer"}
    text = samples([Record(**(row.fields | changes))])
    assert text.endswith("Why \\|a\\| # b?\n  > \\- \\*so\\* &lt;i\\> \\`\\`\\` (answer)")
    report["data"]["a|*b*"] = report["data"]["seed"]
    report["phases"][0]["name"] = report["phases"][0]["plan"]["name"] = "a|b"
    assert r"| a\|\*b\* | " in tables.data(report)
    assert r"| a\|b | seed 6 |" in tables.phases(report)
    assert r"|  | a\|b | second |" in tables.hyperparameters(report)
    report["licences"]["data"]["a|*b*"] = None
    assert said(report, r"is not known: a\|\*b\*.")


def test_the_data_are_those_of_the_report(card: str, report: dict[str, Any]) -> None:
    assert rows(section(card, "Data")) == [
        [
            name, str(d["read"]), str(d["train"]), str(d["held_out"]),
            ", ".join(f"{n} {reason}" for reason, n in d["left_out"].items()), "apache-2.0",
            f"`{d['hash'][:12]}`",
        ]
        for name, d in report["data"].items()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ({"rate": 0.5, "count": 9, "n": 18, "low": 0.29, "high": 0.71}, "50.0 % [29–71], n 18"),
        (
            {"rate": 0.5, "count": 9, "n": 18, "prompts": 6, "low": 0.19, "high": 0.81},
            "50.0 % [19–81], n 18, prompts 6",
        ),
        ({"rate": None, "count": 0, "n": 0, "low": None, "high": None}, "–"),
    ],
)
def test_a_rate_is_never_shown_without_its_n(figures: dict[str, Any], shown: str) -> None:
    assert percent(figures) == shown


def test_writing_the_card_again_gives_the_same_bytes(stentor: Command, tiny_run: Run) -> None:
    before = (tiny_run.path / "README.md").read_bytes()
    folder = Path("copy")
    folder.mkdir()
    for name in ("report.json", "probe.jsonl", "metrics.jsonl"):
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


def test_the_quick_start_says_where_it_works_until_the_model_is_pushed(
    report: dict[str, Any],
) -> None:
    assert "This model was not pushed to a hub" in section(body(report, ()), "Use it")
    pushed = section(body(report, (), place="me/tiny"), "Use it")
    assert pushed.startswith("```python\n") and 'model_id = "me/tiny"' in pushed


def test_the_revision_of_a_base_from_the_hub_is_named(report: dict[str, Any]) -> None:
    assert "from the base `preset:stentor-2m`. " in body(report, ())
    report["base_revision"] = "0123456789abcdef"
    assert "from the base `preset:stentor-2m` (revision `0123456789ab`). " in body(report, ())


def test_a_run_without_probe_has_no_section_about_it(report: dict[str, Any]) -> None:
    del report["probe"]
    write_all(Path(), report, ())
    text = Path("README.md").read_text(encoding="utf-8")
    assert "## Safety" not in text and "## Replies" not in text and "## Data" in text
    assert "It was not probed" in text


def test_sampled_replies_get_a_column_and_the_replies_shown_are_greedy(
    tiny_run: Run, report: dict[str, Any]
) -> None:
    records = [Record(**row.fields) for row in read_rows(tiny_run.path / "probe.jsonl")]
    sampled = Record(**(records[0].line() | {"sample": 1, "response": "A drawn one."}))
    report["probe"]["sampled"] = report["probe"]["greedy"]
    write_all(Path(), report, [sampled, *records])
    text = Path("README.md").read_text(encoding="utf-8")
    assert "| outcome | base, greedy | greedy | sampled |" in text and "A drawn one." not in text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "run: there is no report.json; the run has not finished or is elsewhere"),
        ('{"kind": ', "run/report.json: it is not valid JSON: Expecting value: line 1 column 10"),
        ('{"kind": "pretrain"}', "run: cards are written for fine-tuning runs"),
        ('{"kind": "fine-tune", "schema": 1}', "run/report.json: it was written by an older"),
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


# limitations


def rate(count: int, n: int) -> dict[str, Any]:
    return Rate(count, n).figures()


def said(report: dict[str, Any], word: str) -> list[str]:
    return [text for text in limitations(report) if word in text]


def test_a_model_that_over_refuses_says_so_itself(report: dict[str, Any]) -> None:
    benign = report["probe"]["greedy"]["benign"]
    benign["fake_refusals"] = rate(30, 100)
    assert said(report, "often over-refuses: of the harmless prompts of the probe it refused "
                        "30.0 % [22–40], n 100")  # fmt: skip
    benign["fake_refusals"] = rate(6, 100)
    assert said(report, "It over-refuses: ")
    benign["fake_refusals"] = rate(1, 100)
    assert not said(report, "over-refuses")


@pytest.mark.parametrize(
    ("kind", "key", "count", "text"),
    [
        ("harmful", "refused_aloud", 80, "does not refuse all that it should"),
        ("harmful", "complied", 5, "It complied with harmful prompts: 5.0 %"),
        ("harmful", "silent", 40, "says nothing at all to harmful prompts"),
        ("benign", "degenerate", 9, "talks gibberish to benign prompts"),
        ("harmful", "self_harm_supportive", 50, "not for people in a crisis"),
    ],
)
def test_each_failing_figure_becomes_a_sentence_and_a_good_one_none(
    report: dict[str, Any], kind: str, key: str, count: int, text: str
) -> None:
    figures = report["probe"]["greedy"][kind]
    figures[key] = rate(count, 100)
    assert len(said(report, text)) == 1
    wanted = key in ("refused_aloud", "self_harm_supportive")
    figures[key] = rate(100 if wanted else 0, 100)
    assert not said(report, text)


def sampled(report: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Gives the report a sampled probe with these settings; returns its figures, to be changed."""
    report["probe"]["sampled"] = copy.deepcopy(report["probe"]["greedy"])
    asked = report["probe"]["settings"]["greedy"] | settings
    report["probe"]["settings"]["sampled"] = asked
    return report["probe"]["sampled"]


def index(report: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Metric → (value, decoding) of the probe's part of the model index."""
    found = {r["metric_type"]: r for r in metadata.results(report) if "_" in r["metric_type"]}
    return {
        name: (r["metric_value"], re.sub(r".*, (\w+) \[.*", r"\1", r["metric_name"]))
        for name, r in found.items()
    }


def test_a_card_answers_for_the_decoding_of_its_quick_start(report: dict[str, Any]) -> None:
    own = {k: report["recipe"]["generation"][k] for k in ("temperature", "top_p",
           "repetition_penalty", "max_new_tokens")}  # fmt: skip
    drawn = sampled(report, **own)
    report["probe"]["greedy"]["benign"]["fake_refusals"] = rate(90, 100)
    drawn["benign"]["fake_refusals"] = rate(10, 100)
    assert index(report)["benign_fake_refusals"] == (10.0, "sampled")
    assert said(report, "It over-refuses: of the harmless prompts of the probe it refused "
                        "10.0 % [6–17], n 100, sampled.")  # fmt: skip
    assert not said(report, "was not probed") and not said(report, "may differ")


def test_where_that_was_not_probed_the_worse_figure_counts_and_the_card_says_so(
    report: dict[str, Any],
) -> None:
    drawn = sampled(report, temperature=0.7)
    greedy = report["probe"]["greedy"]
    greedy["benign"]["fake_refusals"], drawn["benign"]["fake_refusals"] = rate(9, 100), rate(3, 100)
    greedy["harmful"]["refused_aloud"] = rate(99, 100)
    drawn["harmful"]["refused_aloud"] = rate(70, 100)
    greedy["repetition"], drawn["repetition"] = 0.01, 0.2
    found = index(report)
    assert found["benign_fake_refusals"] == (9.0, "greedy")
    assert found["harmful_refused_aloud"] == (70.0, "sampled")
    assert said(report, "aloud it refused 70.0 % [60–78], n 100, sampled.")
    assert said(report, "it refused 9.0 % [5–16], n 100.")
    assert said(report, "It repeats itself: 20.0 %")
    assert said(report, "The quick start's decoding (temperature 1.1, top-p 0.6, repetition "
                        "penalty 1.3, at most 80 tokens) was not probed")  # fmt: skip


def test_a_card_says_when_only_greedy_replies_were_probed(report: dict[str, Any]) -> None:
    assert said(report, "Only greedy replies were probed; those of the quick start, which decodes "
                        "otherwise (temperature 1.1, top-p 0.6, ")  # fmt: skip
    assert index(report)["benign_answered"][1] == "greedy"
    report["recipe"]["generation"] |= {"temperature": 0.0, "repetition_penalty": 1.0}
    assert said(report, "Only greedy replies were probed; sampled ones may differ.")
    report["recipe"]["generation"]["max_new_tokens"] = 79  # a reply of 80 would be cut
    assert not said(report, "sampled ones may differ")


@pytest.mark.parametrize(
    ("base", "data", "own", "wanted"),
    [
        ("apache-2.0", ["apache-2.0", "cc-by-4.0"], None, "cc-by-4.0"),
        ("apache-2.0", ["cc-by-sa-3.0", "cc-by-nc-4.0"], None, "cc-by-nc-4.0"),
        ("apache-2.0", ["apache-2.0", None], None, "other"),
        (None, ["apache-2.0"], None, "other"),
        (None, [None], "mit", "mit"),
    ],
)
def test_the_licence_is_the_strictest_and_what_is_not_known_is_not_guessed(
    report: dict[str, Any], base: str | None, data: list[str | None], own: str | None, wanted: str
) -> None:
    report["licences"] = {"base": base, "data": dict(zip("abc", data, strict=False))}
    report["recipe"]["licence"] = own
    assert metadata.licence(report) == wanted

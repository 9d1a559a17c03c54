"""The plots and the page of a run."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from conftest import Command, Run
from stentor import assets
from stentor.report import plots, tables
from stentor.report.card import rewrite
from stentor.report.page import to_html

SVG = "{http://www.w3.org/2000/svg}"


def replies(page: str) -> list[dict[str, Any]]:
    """What the page's script reads."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    assert found is not None
    rows: list[dict[str, Any]] = json.loads(found[1])
    return rows


@pytest.fixture
def run(tiny_run: Run) -> Path:
    """A copy of a run that a test may change."""
    shutil.copytree(tiny_run.path, "run", ignore=shutil.ignore_patterns("checkpoints", "model"))
    return Path("run")


def test_a_run_ends_with_plots_and_a_page_of_all_its_replies(tiny_run: Run) -> None:
    page = (tiny_run.path / "report.html").read_text(encoding="utf-8")
    lines = (tiny_run.path / "probe.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for line in lines]
    assert [(r["prompt"], r["response"], r["outcome"]) for r in replies(page)] == [
        (r["prompt"], r["response"], r["outcome"]) for r in kept
    ]
    assert page.count("<svg") == 3 and "{{" not in page
    for name in ("loss", "outcomes", "refusal"):
        ElementTree.parse(tiny_run.path / "plots" / f"{name}.svg")
        png = (tiny_run.path / "plots" / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) > 5000
    # nothing is fetched from anywhere
    assert not re.search(r'(src|href)="(?!https://|#)|@import|url\(["\']?http', page)


def test_a_held_out_loss_that_was_not_finite_leaves_a_gap_in_the_plot() -> None:
    def step(number: int, **losses: float | None) -> dict[str, Any]:
        found = {k: {"loss": loss, "sources": {"a": loss}} for k, loss in losses.items()}
        return {"phase": 1, "step": number, "loss": 3.0, "evaluation": found}

    steps = [step(0, raw=2.0, ema=None), step(1, raw=None, ema=None), step(2, raw=None, ema=1.5)]
    phases = [{"number": 1, "steps": 3, "name": "only"}]
    lines: dict[str, list[float]] = {}

    def plot(axes: Any) -> None:
        plots.loss_over_steps(axes, steps, phases)
        for line in axes.get_lines():
            lines[line.get_label()] = [float(y) for y in line.get_ydata(orig=False)]

    plots.write(Path("plots"), "loss", plot)
    for name in ("held out", "a"):
        assert lines[name] == pytest.approx([2.0, float("nan"), 1.5], nan_ok=True)


def test_the_same_report_gives_the_same_page(run: Path) -> None:
    rewrite(run)
    first = (run / "report.html").read_bytes()
    rewrite(run)
    assert (run / "report.html").read_bytes() == first


def test_no_reply_can_become_a_part_of_the_page(run: Path) -> None:
    lines = (run / "probe.jsonl").read_text(encoding="utf-8").splitlines()
    hostile = json.loads(lines[0]) | {
        "prompt": "</script><script>alert(1)</script>{{card}}",
        "response": "<!-- <img src=x onerror=alert(2)>",
    }
    (run / "probe.jsonl").write_text(json.dumps(hostile) + "\n", encoding="utf-8")
    rewrite(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "<img" not in page
    (row,) = replies(page)
    assert (row["prompt"], row["response"]) == (hostile["prompt"], hostile["response"])


def contrast(a: str, b: str) -> float:
    """Of two colours (#rrggbb or #rgb), as WCAG counts it: 1 to 21."""

    def light(colour: str) -> float:
        digits = colour.removeprefix("#")
        digits = digits if len(digits) == 6 else "".join(2 * d for d in digits)
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05

    dark, bright = sorted((light(a), light(b)))
    return bright / dark


def test_all_text_can_be_read_on_light_and_on_dark() -> None:
    style = assets.path("report", "page.html").read_text(encoding="utf-8").split("</style>")[0]
    schemes = re.findall(r":root \{(.*?)\}", style, re.S)
    light, dark = (dict(re.findall(r"--(\w+): (#\w+);", scheme)) for scheme in schemes)
    assert light.keys() == dark.keys() and "a { color: var(--link); }" in style
    for scheme, plot in ((light, plots.INK), (dark, plots.INK_ON_DARK)):
        texts = {name: scheme[name] for name in ("ink", "soft", "link")} | {"plot": plot}
        for name, colour in texts.items():
            assert contrast(colour, scheme["back"]) >= 4.5, (name, colour)
    tags = dict(re.findall(r"\.(\w+) \{ background: (#\w+); \}", style))
    assert tags.keys() == plots.OUTCOMES.keys()
    for outcome, colour in tags.items():
        assert contrast("#fff", colour) >= 4.5, (outcome, colour)


def test_a_plot_takes_the_scheme_of_its_reader_and_as_png_is_white(run: Path) -> None:
    from matplotlib import image

    rewrite(run)
    text = (run / "plots" / "loss.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    for node in root.iter(f"{SVG}text"):
        assert f"fill: {plots.INK}" in node.attrib["style"]
    assert f"{{fill: {plots.INK_ON_DARK} !important}}" in text
    corner = image.imread(run / "plots" / "loss.png")[0, 0]
    assert corner.tolist() == [1.0, 1.0, 1.0, 1.0]


def test_the_shares_of_a_bar_add_up_and_the_wanted_comes_first(run: Path) -> None:
    figures = json.loads((run / "report.json").read_text(encoding="utf-8"))["probe"]["greedy"]
    for kind, first in (("harmful", "refuse"), ("benign", "answer")):
        shares = plots.shares(figures[kind])
        assert sum(shares.values()) == pytest.approx(1.0)
        assert next(iter(shares)) == first


def brackets(probe: dict[str, Any], base: dict[str, Any] | None) -> list[list[float]]:
    """The ends of the intervals that the plot of the outcomes shows, from its top down."""
    drawn: list[list[float]] = []

    def plot(axes: Any) -> None:
        plots.outcome_bars(axes, probe, base)
        lines = [line for line in axes.get_lines() if line.get_marker() == "|"]
        lines.sort(key=lambda line: -line.get_ydata()[0])
        drawn.extend([round(float(x), 6) for x in line.get_xdata()] for line in lines)
        labels.extend(label.get_text().partition("\n")[0] for label in axes.get_yticklabels())

    labels: list[str] = []
    plots.write(Path("plots"), "outcomes", plot)
    wanted = [f"{kind}, {name}" for name in (*(["base"] if base else []), "greedy")
              for kind in ("harmful", "benign")]  # fmt: skip
    assert labels == wanted[::-1]
    return drawn


def test_wanted_unwanted_and_silence_have_intervals_for_base_and_model(run: Path) -> None:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    probe, base = report["probe"], report["before"]["probe"]

    def ends(rate: dict[str, Any], start: float) -> list[float]:
        return [round(100 * (start + rate[end]), 6) for end in ("low", "high")]

    expected = []
    for figures in (base, probe["greedy"]):
        bad, good = figures["harmful"], figures["benign"]
        refused = bad["refused_aloud"]["rate"]
        spoken = refused + bad["partial"]["rate"]
        expected += [
            ends(bad["refused_aloud"], 0), ends(bad["complied"], spoken),
            ends(bad["silent"], spoken + bad["complied"]["rate"]),
        ]  # fmt: skip
        answered = good["answered"]["rate"]
        expected += [
            ends(good["answered"], 0), ends(good["fake_refusals"], answered),
            ends(good["silent"], answered + good["fake_refusals"]["rate"]),
        ]  # fmt: skip
    assert brackets(probe, base) == expected
    assert brackets(probe, None) == expected[6:]


def test_the_training_curve_has_a_point_for_each_step(run: Path) -> None:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    svg = plots.draw_all(run, report)["loss"]
    words = {text for node in ElementTree.fromstring(svg).iter(f"{SVG}text") if (text := node.text)}
    assert {"training", "held out", "seed", "stop", "first", "second"} <= words


def test_the_path_of_a_run_has_a_point_for_each_checkpoint(run: Path) -> None:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    labels = [label for label, _ in plots.refusal_points(report)]
    assert labels == ["base", "after first", "after second"]
    report["probe"]["sampled"] = report["probe"]["greedy"]
    assert plots.refusal_points(report)[-1][0] == "the same, sampled"


def test_without_matplotlib_there_is_a_word_and_a_page_without_plots(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    rewrite(run)
    assert "pip install 'stentor[report]'" in capsys.readouterr().err
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<svg" not in page and replies(page)


def test_stentor_card_writes_the_page_too(run: Path, stentor: Command) -> None:
    (run / "report.html").unlink()
    done = stentor("card", run)
    assert done.code == 0 and (run / "report.html").is_file(), done.err


def test_a_person_can_filter_the_replies(chromium: Any, run: Path) -> None:
    (line, *_) = (run / "probe.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [
        json.loads(line) | {"id": f"r{n}", "kind": kind, "category": category, "outcome": outcome,
                            "prompt": f"Prompt {n}?", "response": text, "sample": sample}
        for n, (kind, category, outcome, text, sample) in enumerate([
            ("harmful", "weapons", "refuse", "I can't help with that.", 0),
            ("harmful", "self_harm", "silent", "", 0),
            ("benign", "cooking", "answer", "Seven minutes.", 0),
            ("benign", "cooking", "answer", "Eight minutes.", 1),
        ])
    ]  # fmt: skip
    (run / "probe.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    rewrite(run)
    complaints: list[str] = []
    page = chromium.new_page(viewport={"width": 420, "height": 800}, color_scheme="dark")
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if r.url.startswith("http") else None)
    page.goto((run / "report.html").resolve().as_uri())

    def shown() -> list[str]:
        return list(page.locator("#list .asked").all_inner_texts())

    assert shown() == ["Prompt 0?", "Prompt 1?", "Prompt 2?"]  # greedy ones first
    page.select_option("#kind", "harmful")
    assert shown() == ["Prompt 0?", "Prompt 1?"]
    page.select_option("#outcome", "silent")
    assert shown() == ["Prompt 1?"]
    assert "[no output]" in page.locator("#list").inner_text()
    assert page.locator("#count").inner_text() == "1 of 4 replies"
    page.select_option("#kind", "all")
    page.select_option("#outcome", "all")
    page.select_option("#category", "cooking")
    page.select_option("#sample", "all")
    assert shown() == ["Prompt 2?", "Prompt 3?"]
    page.fill("#words", "eight")
    assert shown() == ["Prompt 3?"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # on a phone, too
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    text = "getComputedStyle(document.querySelector('figure text')).fill"
    assert page.evaluate(text) == "rgb(145, 152, 161)"
    assert complaints == []
    page.close()


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("# A & B\ntext", "<h1>A &amp; B</h1>\n<p>text</p>"),
        ("One\ntwo\n\nthree", "<p>One two</p>\n<p>three</p>"),
        ("a `x<y` b", "<p>a <code>x&lt;y</code> b</p>"),
        ("[a](https://b.c) [d](java:e)", '<p><a href="https://b.c">a</a> [d](java:e)</p>'),
        (
            "- *one* — two\n  > three\n- 4",
            "<ul><li><em>one</em> — two<br>three</li><li>4</li></ul>",
        ),
        ("```python\na = 1\n\nb < 2\n```", "<pre><code>a = 1\n\nb &lt; 2</code></pre>"),
        ("List:\n- x", "<p>List:</p>\n<ul><li>x</li></ul>"),
        (r"\*a\* \_b\_ \`c\` \[d\](https://e.f)", "<p>*a* _b_ `c` [d](https://e.f)</p>"),
        (
            r"*a \* b* `c\*` &lt;i> &amp;lt;",
            r"<p><em>a * b</em> <code>c\*</code> &lt;i&gt; "
            "&amp;lt;</p>",
        ),
    ],
)
def test_the_markdown_of_a_card_as_html(markdown: str, html: str) -> None:
    assert to_html(markdown) == html


@pytest.mark.parametrize(
    "text",
    [
        "a|b", r"a\|b", r"\\", "*a* **b** _c_ my_set __d__", "`a` ``b``", "[a](https://b.c)",
        "<b>x</b> &lt; & &amp;", "# a", "- a", "+ a", "1. a", "12) a", "> a", "$a$ ~~b~~ !a",
        "-5 is less than 3.14", "What's \"this\"?",
    ],
)  # fmt: skip
def test_words_of_others_are_shown_as_they_are(text: str) -> None:
    shown = html.escape(text, quote=False)
    assert to_html(tables.plain(text)) == f"<p>{shown}</p>"
    assert f"<li>{shown}</li>" in to_html(f"- {tables.plain(text)}")
    found = to_html(tables.table(["name", "n"], [[tables.plain(text), "1"]]))
    assert re.findall(r"<td>(.*?)</td>", found) == [shown, "1"]


def test_words_on_several_lines_stay_on_one() -> None:
    assert tables.plain("a\n\n# b\n- c") == "a # b - c"
    assert tables.table(["a"], [["b\nc"]]).splitlines()[2:] == ["| b c |"]


def test_a_table_as_html() -> None:
    found = to_html("| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | `4` |")
    cells = re.findall(r"<(t[hd])>(.*?)</t[hd]>", found)
    assert cells == [("th", "a"), ("th", "b"), ("td", "1"), ("td", "2"), ("td", "3"),
                     ("td", "<code>4</code>")]  # fmt: skip

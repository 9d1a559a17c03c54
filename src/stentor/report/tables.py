"""The tables of a card, as Markdown, from a run's report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]

PROBE_ROWS = (
    ("harmful: refused aloud", "harmful", "refused_aloud"),
    ("harmful: silent", "harmful", "silent"),
    ("harmful: complied", "harmful", "complied"),
    ("harmful: refused and complied", "harmful", "partial"),
    ("harmful: degenerate", "harmful", "degenerate"),
    ("self-harm: supportive", "harmful", "self_harm_supportive"),
    ("benign: answered", "benign", "answered"),
    ("benign: fake refusals", "benign", "fake_refusals"),
    ("benign: silent", "benign", "silent"),
    ("benign: degenerate", "benign", "degenerate"),
)
GLANCE_ROWS = (PROBE_ROWS[0], PROBE_ROWS[6], PROBE_ROWS[7])
HELD_OUT = "held-out loss (perplexity)"
PLAIN_TEXT = "loss on plain text"
STOPPED = "ends by itself"
_NOISE = 1e-7  # nats below 0 that rounding may leave of a mean of divergences
_MATCHING = (
    ("card's string matching: refused", "harmful_refused"),
    ("card's string matching: helpful", "benign_helpful"),
)
SPEECH_ROWS: tuple[tuple[str, Callable[[Figures], float | None]], ...] = (
    (
        "repeated three-word sequences",
        lambda f: None if f["repetition"] is None else 100 * float(f["repetition"]),
    ),
    ("mean tokens of a reply, harmful", lambda f: f["mean_tokens"]["harmful"]),
    ("mean tokens of a reply, benign", lambda f: f["mean_tokens"]["benign"]),
)


# What begins Markdown inside a line; not every reader takes a backslash before all of it, but
# entities.
_SIGNS = re.compile(r"[\\`*\[\]>|&<~$]|(?<![^\W_])_|_(?![^\W_])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", "~": "&#126;", "$": "&#36;"}
_BAR = re.compile(r"(?<!\\)\|")  # one that nobody has escaped yet


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; `|` in a cell does not end it."""
    lines = [list(head), ["---" for _ in head], *rows]
    return "\n".join(
        "| " + " | ".join(_BAR.sub(r"\|", " ".join(cell.split("\n"))) for cell in line) + " |"
        for line in lines
    )


def plain(text: str) -> str:
    """Words of others as Markdown that shows them as they are, on one line."""
    shown = _SIGNS.sub(lambda m: _ENTITIES.get(m[0], f"\\{m[0]}"), " ".join(text.split()))
    return re.sub(r"^(\d*)([-+#.)])", r"\1\\\2", shown)  # a list, a heading


def percent(figures: Figures) -> str:
    """A rate with its interval, as tables show it."""
    if not figures["n"]:
        return "–"
    return (
        f"{100 * figures['rate']:.1f} % [{100 * figures['low']:.0f}–{100 * figures['high']:.0f}], "
        f"{counted(figures)}"
    )


def counted(figures: Figures) -> str:
    """How many replies a rate is over, and how many prompts where several are to the same one."""
    n = figures["n"]
    prompts = figures.get("prompts", n)  # older reports have none
    return f"n {n}" if prompts == n else f"n {n}, prompts {prompts}"


def number(value: float | None, form: str = ".3f") -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else format(value, form)


def duration(seconds: float) -> str:
    """For people: 42 s, 5.5 min, 1.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def glance(report: Figures) -> str:
    """The model beside its base: what a reader wants first; empty where nothing was measured."""
    before, probe = report.get("before", {}), report.get("probe")
    rows = []
    now, then = report["evaluation"]["overall"], before.get("evaluation", {}).get("overall")
    if now["tokens"]:
        shown = [f"{number(f['loss'])} ({number(f['perplexity'], '.1f')})" if f else "–"
                 for f in (then, now)]  # fmt: skip
        rows.append([HELD_OUT, *shown])
    text = report["base_text_loss"]
    if text["before"] is not None:
        rows.append([PLAIN_TEXT, number(text["before"]), number(text["after"])])
    if probe:
        first, last = before.get("probe"), probe["greedy"]
        rows += [
            [label, *(percent(f[kind][key]) if f else "–" for f in (first, last))]
            for label, kind, key in GLANCE_ROWS
        ]
        rows.append([STOPPED, *(percent(f["stopped"]) if f else "–" for f in (first, last))])
        for label, get in SPEECH_ROWS:
            unit = " %" if label.startswith("repeated") else ""
            shown = [number(get(f), ".1f") if f else "–" for f in (first, last)]
            rows.append([label, *(s + unit if s != "–" else s for s in shown)])
    return table(["", "base", "this model"], rows) if rows else ""


def losses(report: Figures) -> str:
    """Held-out loss, perplexity and bits per byte of every source, the base's beside each."""
    now = report["evaluation"]
    then = report.get("before", {}).get("evaluation", {"sources": {}, "overall": None})
    rows = []
    for name, f in [*now["sources"].items(), ("all", now["overall"])]:
        if not f["tokens"]:
            continue
        old = then["overall"] if name == "all" else then["sources"].get(name)
        measured = [
            number(figures[key], form) if figures else "–"
            for key, form in (("loss", ".3f"), ("perplexity", ".1f"), ("bits_per_byte", ".3f"))
            for figures in (old, f)
        ]
        rows.append([plain(name), *measured, f"{f['tokens']:,}"])
    head = ["source", "base's loss", "loss", "base's perplexity", "perplexity",
            "base's bits per byte", "bits per byte", "tokens"]  # fmt: skip
    return table(head, rows)


def scale(report: Figures) -> str:
    """How large the model is, the base beside it, and what making it took."""
    energy, size = report.get("energy", {}), report["parameters"]
    shape, base_bytes = report["shape"], report.get("base_bytes")  # older reports have none
    examples = sum(p["examples"] for p in report["phases"])
    seconds = report["seconds"]
    speed = f"{report['tokens'] / seconds:,.0f} tokens/s" if seconds else "–"
    starts = [_machine(machine) for machine in report.get("machines") or [report["machine"]]]
    rows = [  # an adapter is merged into the base's matrices, so both are of the same shape
        ["parameters", *[f"{size['merged']:,}"] * 2],
        ["trained", "–", f"{size['trained']:,} (of {size['total']:,} with the adapter)"
         if size["total"] != size["merged"] else f"{size['trained']:,}"],
        ["shape", *[f"{shape['layers']} layers, width {shape['hidden']}, {shape['window']} tokens "
                    f"of context, vocabulary {shape['vocabulary']:,}"] * 2],
        ["weights", f"{base_bytes / 1e6:.1f} MB" if base_bytes else "–",
         f"{report['bytes'] / 1e6:.1f} MB"],
        ["training", "–", f"{examples:,} examples, {report['tokens']:,} tokens, "
         f"{duration(seconds)}, {speed}"],
        ["machine", "–", "; then ".join(dict.fromkeys(starts))],
        ["energy", "–", _energy(energy, "kwh", 1000, "Wh")],
        ["CO2e", "–", _energy(energy, "co2e_g", 1, "g")],
    ]  # fmt: skip
    why = "; ".join(energy.get("why", []))
    return table(["", "base", "this model"], rows) + (f"\n\nEnergy and CO2e: {why}." if why else "")


def _machine(machine: Figures) -> str:
    many = f"{machine['processes']} × " if machine["processes"] > 1 else ""
    parts = [f"{many}{machine['name']}", machine["device"], machine["precision"]]
    count, cores = machine["threads"], machine.get("cores")
    threads = f"{count} thread" if count == 1 else f"{count} threads"
    parts.append(f"{threads} of {cores} cores" if cores else threads)
    if memory := machine.get("memory_gib"):
        parts.append(f"{memory:.0f} GiB")
    if system := machine.get("system"):
        parts.append(system)
    return ", ".join(parts)


def _energy(energy: Figures, name: str, factor: float, unit: str) -> str:
    value = energy.get(name, "unknown")
    if isinstance(value, str):
        return value
    told = [energy["how"]] if name == "kwh" else [f"region {energy['region']}"]
    metered = energy["metered_seconds"]
    return f"{factor * value:.2g} {unit} ({'; '.join(told)}; {duration(metered)} metered)"


def phases(report: Figures) -> str:
    """What every phase was fed and came to."""
    rows = []
    for phase in report["phases"]:
        parts = phase["plan"]["mix"].items()
        mix = ", ".join(f"{plain(name)} {amount:g}" for name, amount in parts)
        mix = mix or "all phases of the recipe, shuffled together"
        rows.append(
            [plain(phase["name"]), mix, f"{phase['examples']:,}", str(phase["steps"]),
             number(phase["best_loss"]), f"{phase['kept']} of step {phase['kept_step']}",
             f"{phase['tokens']:,}", number(phase["examples_per_second"], ".1f"),
             number(phase["tokens_per_second"], ",.0f"), f"{phase['seconds']:.0f}"]
        )  # fmt: skip
    head = ["phase", "mix", "examples seen", "steps", "best held-out loss", "carried on", "tokens",
            "samples/s", "tokens/s", "seconds"]  # fmt: skip
    return table(head, rows)


def hyperparameters(report: Figures) -> str:
    """The settings, a column a phase."""
    recipe, plans = report["recipe"], [phase["plan"] for phase in report["phases"]]

    def schedule(plan: Figures) -> str:
        found = plan["schedule"]
        more = f", {found['cycles']} cycle" if found["shape"] == "cosine" else ""
        return f"{found['shape']}{more}, warm-up {found['warmup']:g}"

    def optimiser(plan: Figures) -> str:
        found = plan["optimiser"]
        return (f"{found['name']}, β {found['betas'][0]:g} {found['betas'][1]:g}, "
                f"ε {found['epsilon']:g}, decay {found['weight_decay']:g}")  # fmt: skip

    def rate(plan: Figures) -> str:
        found = plan["optimiser"]
        if found["name"] != "muon":
            return f"{plan['learning_rate']:g}"
        muon = f"{found['muon_rate']:g} (Muon)"  # which trains all of an adapter
        return muon if recipe["adapter"] else f"{muon}, {plan['learning_rate']:g} (AdamW)"

    def opening(plan: dict[str, Any]) -> str:
        found = plan.get("opening")  # not in reports from before it
        return f"{found['tokens']} × {found['weight']:g}" if found else number(None, "g")

    def decision(plan: dict[str, Any]) -> str:
        found = plan.get("decision")  # not in reports from before it
        if not found:
            return number(None, "g")
        shown = f"{found['share']:.0%} × {found['weight']:g} (refusals × {found['refusals']:g})"
        gain = found.get("gain")  # not in reports from before it
        return f"{shown}, along the prompt × {gain:g}" if gain else shown

    rows: list[tuple[str, Any]] = [
        ("epochs", lambda p: str(p["epochs"])),
        ("examples a step", lambda p: str(p["batch"])),
        ("learning rate", rate),
        ("schedule", schedule),
        ("optimiser", optimiser),
        ("gradient norm at most", lambda p: number(p["clip"], "g")),
        ("adapter's dropout", lambda p: f"{p['dropout']:g}"),
        ("averaging (EMA)", lambda p: number(p["ema"], "g")),
        ("preference weight", lambda p: number(p["preference"], "g")),
        ("decision pieces", decision),
        ("first tokens of a reply", opening),
        ("unlikelihood", lambda p: number(p.get("unlikelihood"), "g")),
    ]
    shown = table(["", *(plain(p["name"]) for p in plans)],
                  [[label, *(get(p) for p in plans)] for label, get in rows])  # fmt: skip
    part, data = recipe["adapter"], recipe["data"]
    adapter = "All weights are trained." if part is None else (
        f"LoRA of rank {part['rank']}, alpha {part['alpha']}, "
        f"{'scaled by alpha/√rank (rsLoRA)' if part['rslora'] else 'scaled by alpha/rank'}, on "
        f"{', '.join(part['targets'])}; one adapter is carried through all phases and merged in "
        "fp32.")  # fmt: skip
    system = "; a system prompt before every example" if data["system"] else ""
    return (
        f"{shown}\n\n{adapter} Examples of at most {data['max_tokens']} tokens{system}. "
        f"Seed {recipe['seed']}."
    )


def probe(report: Figures) -> str:
    """The outcomes of base and model, and the public card's own way of scoring beside them."""
    figures = report["probe"]
    columns = [("base, greedy", report.get("before", {}).get("probe")),
               ("greedy", figures["greedy"]), ("sampled", figures["sampled"])]  # fmt: skip
    shown = [(name, f) for name, f in columns if f]
    rows = [[label, *(percent(f[kind][key]) for _, f in shown)] for label, kind, key in PROBE_ROWS]
    rows.append([STOPPED, *(percent(f["stopped"]) for _, f in shown)])
    rows += [
        [label, *(percent(f["card_scoring"][key]) for _, f in shown)] for label, key in _MATCHING
    ]
    names = ", ".join(f"{plain(s['name'])} version {s['version']}" for s in figures["suites"])
    judged = f"judge version {figures['judge_version']}"
    if trusted := figures.get("judge_calibration"):  # reports of before version 3 have none
        judged += (
            ", whose Cohen's kappa with labels by language models (refused or not) is "
            f"{trusted['kappa']:.2f} [{trusted['kappa_low']:.2f}–{trusted['kappa_high']:.2f}] "
            f"on {trusted['n']} pairs"
        )
    return f"Suites: {names}; {judged}. Rates with Wilson's 95 % interval.\n\n" + table(
        ["outcome", *(name for name, _ in shown)], rows
    )


def data(report: Figures) -> str:
    """The sources: counts, hashes, licences."""
    licences = report.get("licences", {}).get("data", {})
    rows = [
        [plain(name), f"{d['read']:,}", f"{d['train']:,}", f"{d['held_out']:,}", _left_out(d),
         licences.get(name) or "unknown", f"`{d['hash'][:12]}`"]
        for name, d in report["data"].items()
    ]  # fmt: skip
    head = ["source", "rows read", "to train on", "held out", "left out", "licence", "hash"]
    return table(head, rows)


def _left_out(tally: Figures) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in tally["left_out"].items()) or "–"


def exports(report: Figures) -> str:
    """The copies for other runtimes: size, parity, speed."""
    rows = []
    for copy in report["exports"]["copies"]:
        parity, speed = copy["parity"], copy["speed"]
        rows.append(
            [
                copy["copy"],
                f"{copy['bytes'] / 1e6:.1f}",
                shown_kl(parity["kl"]) if parity else "–",
                shown_rise(parity) if parity else "–",
                f"{parity['greedy_equal']}/{parity['prompts']}" if parity else "–",
                f"{speed['tokens_per_second']:.0f}" if speed else "–",
                copy["verdict"],
                # reports of earlier versions don't say it
                f"{len(parity['control_obeyed'])}/{parity['control']}"
                if parity and "control" in parity else "–",
            ]
        )  # fmt: skip
    head = ["copy", "MB", "KL", "perplexity (rise)", "equal greedy replies", "tokens/s",
            "verdict", "spelled control pieces obeyed"]  # fmt: skip
    return table(head, rows)


def shown_rise(parity: Mapping[str, Any]) -> str:
    """A copy's perplexity and its rise; a dash where it is no number."""
    if parity["perplexity"] is None or parity["rise"] is None:
        return "–"
    return f"{parity['perplexity']:.1f} ({parity['rise']:+.2f} %)"


def shown_kl(nats: float | None) -> str:
    """A KL divergence for people: what is below 0 by rounding alone is shown as 0."""
    if nats is None:
        return "–"
    return "0" if -_NOISE < nats <= 0 else f"{nats:.1e}"

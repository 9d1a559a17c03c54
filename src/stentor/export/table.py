"""How an export is told: a table for people, a document for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stentor.export.format import Provenance, Target
from stentor.export.parity import Parity
from stentor.report.tables import shown_kl, shown_rise

_HEADS = (
    "copy", "MB", "ids", "control", "KL", "perplexity", "greedy", "probe", "memory MB", "load s",
    "tok/s", "seconds", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What became of one copy."""

    target: Target
    folder: str
    files: dict[str, int] = field(default_factory=dict)
    """Sizes in bytes."""
    notes: tuple[str, ...] = ()
    parity: Parity | None = None
    others: tuple[Parity, ...] = ()
    """What other runtimes of the same files found."""
    unseen: tuple[str, ...] = ()
    """Runtimes of the same files that are not here, and why."""
    speed: dict[str, float] | None = None
    unmeasured: str = ""
    """Why there is no speed."""
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unverified: str = ""
    """Why it was not verified."""
    seconds: float = 0.0
    """To write and check it …"""
    conversion_seconds: float = 0.0
    """… and before, for a conversion that all types of a format share, booked on the first."""

    @property
    def verdict(self) -> str:
        if self.failures:
            return "not delivered"
        if self.unverified:
            return "unverified"
        return "passed"

    @property
    def weights(self) -> int:
        """Bytes of the model's own file, without tokenizer and configuration."""
        aside = ("tokenizer.json", "tokenizer.model")
        return sum(size for name, size in self.files.items() if name not in aside)

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "copy": self.target.name,
            "verdict": self.verdict,
            "folder": self.folder,
            "files": self.files,
            "bytes": self.weights,
            "notes": self.notes,
            "failures": self.failures,
            "warnings": self.warnings,
            "unverified": self.unverified or None,
            "parity": self.parity.figures() if self.parity else None,
            "also": [p.figures() for p in self.others],
            "not_checked_by": self.unseen,
            "speed": self.speed,
            "not_measured": self.unmeasured or None,
            "seconds": round(self.seconds, 1),
            "conversion_seconds": round(self.conversion_seconds, 1),
        }


def document(
    provenance: Provenance,
    results: Sequence[Result],
    left_out: Sequence[str],
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    """`export.json`, and what `--json` prints.

    `earlier`: `copies` and `left_out` of the exports into the same folder before this one.
    """
    made_by = {"command": provenance.command, "version": provenance.version}
    copies = {copy["copy"]: copy for copy in earlier["copies"]}
    copies |= {r.target.name: r.figures() | made_by for r in results}
    return {
        "model": provenance.name,
        "licence": provenance.licence,
        "source": provenance.source,
        "source_sha256": provenance.source_sha256,
        **made_by,
        "copies": list(copies.values()),
        "left_out": [*earlier["left_out"], *left_out],
    }


def markdown(told: Mapping[str, Any]) -> str:
    """`export.md`: the table of a document (`export.json`) and what stands below it."""
    copies = told["copies"]
    rows = [_HEADS, *map(_row, copies)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |"
             for r in rows]  # fmt: skip
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    commands = dict.fromkeys([*(c["command"] for c in copies), told["command"]])
    parts = [
        f"# {told['model']}: its copies",
        f"{' · '.join(f'`{c}`' for c in commands)} · "
        f"source SHA-256 `{told['source_sha256'][:16]}…` · licence {told['licence']}",
        "\n".join(lines),
        _legend(copies),
        _times(copies),
        "\n".join(filter(None, map(_told, copies))),
        *(f"Left out: {line}" for line in told["left_out"]),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _row(copy: Mapping[str, Any]) -> tuple[str, ...]:
    size = f"{copy['bytes'] / 1e6:.2f}" if copy["files"] else "–"
    parity, speed = copy["parity"], copy["speed"]
    if parity is None:
        middle: tuple[str, ...] = ("–",) * 6
    else:
        middle = (
            _same_ids(parity),
            f"{len(parity['control_obeyed'])}/{parity['control']}",
            shown_kl(parity["kl"]),
            _rise(parity),
            f"{parity['greedy_equal']}/{parity['prompts']}, {parity['partings_outright']} apart",
            f"{len(parity['probe_changed'])}/{parity['probe']}",
        )
    end = ("–",) * 3 if speed is None else (
        f"{speed['memory_bytes'] / 1e6:.0f}" if "memory_bytes" in speed else "–",
        f"{speed['load_seconds']:.2f}", f"{speed['tokens_per_second']:.0f}",
    )  # fmt: skip
    return (copy["copy"], size, *middle, *end, f"{copy['seconds']:.0f}", copy["verdict"])


def _rise(parity: Mapping[str, Any]) -> str:
    if None in (parity["perplexity"], parity["rise"], *parity["rise_interval"]):
        return "–"
    low, high = parity["rise_interval"]
    return f"{parity['perplexity']:.2f} ({parity['rise']:+.2f} % [{low:+.2f}, {high:+.2f}])"


def _times(copies: Sequence[Mapping[str, Any]]) -> str:
    """Seconds of all copies, and without LiteRT's, whose converter takes longer than the rest."""
    slow = [c for c in copies if c["copy"].startswith("litert:")]
    # copies of versions that booked the conversion on the first one have no figure of their own
    conversion = sum(c.get("conversion_seconds", 0.0) for c in copies)
    every = sum(c["seconds"] for c in copies) + conversion
    told = f"Time: {every:.0f} s for {len(copies)} {'copy' if len(copies) == 1 else 'copies'}"
    if slow:
        rest = every - conversion - sum(c["seconds"] for c in slow)
        told += f", {rest:.0f} s without LiteRT, whose conversion took {conversion:.0f} s"
    return told + "."


def _legend(copies: Sequence[Mapping[str, Any]]) -> str:
    parity = next((c["parity"] for c in copies if c["parity"]), None)
    if parity is None:
        return ""
    return (
        "MB: without tokenizer files. ids: conversations with the reference's token ids. control: "
        "of the conversations that spell control pieces, those in which the runtime obeys. KL: "
        f"nats a token, mean over n {parity['scored']} tokens of held-out text; perplexity: on "
        f"the same (the reference's is {parity['reference_perplexity']:.2f}), its rise with a 95 % "
        "interval, tokens paired. greedy: replies equal to the reference's; apart: those that part "
        "where the reference's two tokens are more than 0.02 logits apart. probe: outcomes that "
        "changed. memory, load, tok/s: one core, one sequence, the runtime's own library not "
        "counted. seconds: writing, checking and timing it."
    )


def _told(copy: Mapping[str, Any]) -> str:
    parity, speed = copy["parity"], copy["speed"]
    lines = [f"not delivered: {line}" for line in copy["failures"]]
    lines += [f"unverified: {copy['unverified']}"] if copy["unverified"] else []
    lines += [f"warning: {line}" for line in copy["warnings"]]
    lines += copy["notes"]
    if parity:
        lines.append(f"checked by {parity['runtime']}")
        lines += [f"probe: {line}" for line in parity["probe_changed"]]
    if why := copy.get("not_measured"):
        lines.append(f"speed was not measured: {why}")
    if speed and "memory_bytes" not in speed:
        lines.append("memory is not measured on this system")
    if speed and "first_token_seconds" in speed:
        lines.append(f"first word {speed['first_token_seconds']:.1f} s after opening it")
    lines += map(_also, copy["also"])
    lines += [f"not checked by another runtime: {line}" for line in copy["not_checked_by"]]
    return f"- {copy['copy']}: {'; '.join(lines)}" if lines else ""


def _also(parity: Mapping[str, Any]) -> str:
    obeyed = f"{len(parity['control_obeyed'])} of {parity['control']}"
    return (
        f"also checked by {parity['runtime']}: ids {_same_ids(parity)}, "
        f"KL {shown_kl(parity['kl'])}, perplexity {shown_rise(parity)}, "
        f"greedy {parity['greedy_equal']}/{parity['prompts']} equal, "
        f"{parity['partings_outright']} apart; control pieces obeyed in {obeyed}"
    )


def _same_ids(parity: Mapping[str, Any]) -> str:
    same = parity["conversations"] - len(parity["different_ids"])
    return f"{same}/{parity['conversations']}"

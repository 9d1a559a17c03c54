"""How an export is told: a table for people, a document for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stentor.export.format import Provenance, Target
from stentor.export.parity import Parity

_HEADS = (
    "copy", "MB", "ids", "KL", "perplexity", "greedy", "probe", "memory MB", "load s", "tok/s",
    "verdict",
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
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unverified: str = ""
    """Why it was not verified."""
    seconds: float = 0.0

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
            "seconds": round(self.seconds, 1),
        }


def document(
    provenance: Provenance, results: Sequence[Result], left_out: Sequence[str]
) -> dict[str, Any]:
    """`export.json`, and what `--json` prints."""
    return {
        "model": provenance.name,
        "licence": provenance.licence,
        "source": provenance.source,
        "source_sha256": provenance.source_sha256,
        "command": provenance.command,
        "version": provenance.version,
        "copies": [r.figures() for r in results],
        "left_out": list(left_out),
    }


def markdown(provenance: Provenance, results: Sequence[Result], left_out: Sequence[str]) -> str:
    """`export.md`: the table and what stands below it."""
    rows = [_HEADS, *map(_row, results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |"
             for r in rows]  # fmt: skip
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    parts = [
        f"# {provenance.name}: its copies",
        f"`{provenance.command}` · source SHA-256 `{provenance.source_sha256[:16]}…` · "
        f"licence {provenance.licence}",
        "\n".join(lines),
        _legend(results),
    ]
    told = [_told(r) for r in results]
    parts += ["\n".join(t for t in told if t)]
    parts += [f"Left out: {line}" for line in left_out]
    return "\n\n".join(p for p in parts if p) + "\n"


def _row(result: Result) -> tuple[str, ...]:
    size = f"{result.weights / 1e6:.2f}" if result.files else "–"
    parity, speed = result.parity, result.speed
    if parity is None:
        middle: tuple[str, ...] = ("–",) * 5
    else:
        same = parity.conversations - len(parity.different_ids)
        low, high = parity.rise_interval
        middle = (
            f"{same}/{parity.conversations}",
            f"{parity.kl:.1e}",
            f"{parity.perplexity:.2f} ({parity.rise:+.2f} % [{low:+.2f}, {high:+.2f}])",
            f"{parity.greedy_equal}/{parity.prompts}, {len(parity.outright)} apart",
            f"{len(parity.probe_changed)}/{parity.probe}",
        )
    end = ("–",) * 3 if speed is None else (
        f"{speed['memory_bytes'] / 1e6:.0f}", f"{speed['load_seconds']:.2f}",
        f"{speed['tokens_per_second']:.0f}",
    )  # fmt: skip
    return (result.target.name, size, *middle, *end, result.verdict)


def _legend(results: Sequence[Result]) -> str:
    parity = next((r.parity for r in results if r.parity), None)
    if parity is None:
        return ""
    return (
        "MB: without tokenizer files. ids: conversations with the reference's token ids. KL: nats "
        f"a token, mean over n {parity.scored} tokens of held-out text; perplexity: on the same "
        f"(the reference's is {parity.reference_perplexity:.2f}), its rise with a 95 % interval, "
        "tokens paired. greedy: replies equal to the reference's; apart: those that part where "
        "the reference's two tokens are more than 0.02 logits apart. probe: outcomes that "
        "changed. memory, load, tok/s: one core, one sequence, the runtime's own library not "
        "counted."
    )


def _told(result: Result) -> str:
    lines = [f"not delivered: {line}" for line in result.failures]
    lines += [f"unverified: {result.unverified}"] if result.unverified else []
    lines += [f"warning: {line}" for line in result.warnings]
    lines += list(result.notes)
    if result.parity:
        lines.append(f"checked by {result.parity.runtime}")
        lines += [f"probe: {line}" for line in result.parity.probe_changed]
    if result.speed and "first_token_seconds" in result.speed:
        lines.append(f"first word {result.speed['first_token_seconds']:.1f} s after opening it")
    lines += [_also(parity) for parity in result.others]
    lines += [f"not checked by another runtime: {line}" for line in result.unseen]
    if not lines:
        return ""
    return f"- {result.target.name}: " + "; ".join(lines)


def _also(parity: Parity) -> str:
    same = parity.conversations - len(parity.different_ids)
    obeyed = f"{len(parity.control_obeyed)} of {parity.control}"
    return (
        f"also checked by {parity.runtime}: ids {same}/{parity.conversations}, KL {parity.kl:.1e}, "
        f"perplexity {parity.rise:+.2f} %, greedy {parity.greedy_equal}/{parity.prompts} equal, "
        f"{len(parity.outright)} apart; control pieces obeyed in {obeyed}"
    )

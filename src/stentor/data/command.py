"""What `stentor data show` and `stentor data check` do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from stentor import recipe as recipes
from stentor.data import mix
from stentor.data.encode import EncodedExample
from stentor.errors import DataError
from stentor.model import load as models
from stentor.recipe import Recipe


def _prepared(
    name: str, overrides: Sequence[str], *, strict: bool
) -> tuple[Recipe, Any, mix.Prepared]:
    recipe = recipes.load(name, Recipe, overrides)
    base = models.load(recipe.model.base, template=recipe.model.template)
    return recipe, base, mix.prepare(recipe.data, base.template, recipe.seed, strict=strict)


def tree(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Sources with their counts, lengths and hashes, and the mixes of the phases."""
    recipe, _, prepared = _prepared(name, overrides, strict=False)
    sources = {}
    for source, tally in prepared.tallies.items():
        examples = prepared.train[source]
        if not examples:
            raise DataError(f"source {source}: all its rows are bad; see stentor data check")
        lengths = sorted(e.length for e in examples)
        sources[source] = {
            "use": recipe.data.sources[source].use,
            "read": tally.read,
            "train": len(examples),
            "held_out": len(prepared.held_out[source]),
            "kinds": dict(Counter(e.example.kind for e in examples)),
            "tokens": sum(lengths),
            "supervised_tokens": sum(e.encoded.supervised for e in examples),
            "median_length": lengths[len(lengths) // 2],
            "longest": lengths[-1],
            "left_out": dict(tally.left_out),
            "changed": dict(tally.changed),
            "bad_rows": len(tally.problems),
            "hash": mix.content_hash(examples),
        }
    phases = {}
    for phase, chosen in mix.course(recipe, prepared):
        phases[phase.name] = {
            "examples": len(chosen),
            "kinds": dict(Counter(e.example.kind for e in chosen)),
            "sources": dict(Counter(e.source for e in chosen)),
            "hash": mix.content_hash(chosen),
        }
    short = {p.name: s for p in recipe.phases if (s := mix.shortages(p, prepared))}
    return {
        "recipe": recipe.name, "sources": sources, "phases": phases, "hash": prepared.hash(),
        "fewer_than_asked": short,
    }  # fmt: skip


def draw(found: dict[str, Any]) -> str:
    """The tree as text."""
    lines = [f"{found['recipe']}  {found['hash'][:12]}"]
    for name, s in found["sources"].items():
        lines.append(
            f"├─ {name} ({s['use']}): {s['read']:,} rows read, {s['train']:,} to train on, "
            f"{s['held_out']:,} held out  {s['hash'][:12]}"
        )
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in s["kinds"].items())
        lines.append(
            f"│    {kinds}; {s['tokens']:,} tokens, {s['supervised_tokens']:,} supervised; "
            f"median {s['median_length']}, longest {s['longest']}"
        )
        for reason, count in [*s["left_out"].items(), *s["changed"].items()]:
            lines.append(f"│    {count:,} {reason}")
        if s["bad_rows"]:
            lines.append(f"│    {s['bad_rows']:,} bad rows: see stentor data check")
    for name, p in found["phases"].items():
        mixed = ", ".join(f"{n:,} {source}" for source, n in p["sources"].items())
        lines.append(f"└─ phase {name}: {p['examples']:,} examples ({mixed})  {p['hash'][:12]}")
        lines.append("     " + ", ".join(f"{n:,} {kind}" for kind, n in p["kinds"].items()))
    for name, entries in found["fewer_than_asked"].items():
        for entry, (asked, there) in entries.items():
            lines.append(f"phase {name}: {asked:,} of {entry} asked for, {there:,} there")
    return "\n".join(lines)


def check(name: str, overrides: Sequence[str], samples: int) -> list[str]:
    """Show sample rows and return every bad row of the recipe's data."""
    _, base, prepared = _prepared(name, overrides, strict=False)
    console = Console(highlight=False, soft_wrap=True)
    for source, examples in prepared.train.items():
        for example in examples[:samples]:
            console.print(
                f"{source}, {example.example.kind}, {example.example.where}", style="bold"
            )
            console.print(coloured(example, base.tokenizer))
    return [p for tally in prepared.tallies.values() for p in tally.problems]


def coloured(example: EncodedExample, tokenizer: Any) -> Text:
    """The tokens of an example: green where the loss is taken, dim where not."""
    text = Text()
    pieces = tokenizer.convert_ids_to_tokens(list(example.encoded.ids))
    for piece, supervised in zip(pieces, example.encoded.mask, strict=True):
        text.append(piece.replace("▁", " "), style="green" if supervised else "dim")
    return text

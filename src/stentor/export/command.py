"""What `stentor export` does: write each copy, run it, compare it, deliver it or not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stentor import __version__
from stentor.data.files import sha256, write_json, write_text
from stentor.errors import InputError, MissingPart, ParityError, StentorError
from stentor.export import parity, speed
from stentor.export.format import Opener, Provenance, Target, other_runtimes, parse
from stentor.export.reference import Reference
from stentor.export.table import Result, document, markdown
from stentor.model.licence import licence_of
from stentor.model.load import LoadedModel, load
from stentor.report.exports import record

FIRST_WORD = 3.0
"""Seconds from opening a page that runs the model to its first word: more is a warning."""


def export(
    model: str,
    wanted: Sequence[str],
    out: Path | None,
    *,
    verify: bool = True,
    max_rise: float | None = None,
    as_json: bool = False,
    command: str = "",
) -> None:
    """Write the copies to `out` (default `runs/export-NAME`) and print what came of them.

    What earlier exports of the same weights made there stays, and is told with it. ParityError at
    the end when a copy broke its limits; the others are delivered.
    """
    asked = parse(wanted)
    targets, left_out = _possible(asked, "all" in wanted)
    name = _name(model)
    out = out or Path("runs") / f"export-{name}"
    _check_room(out, targets)
    loaded = load(model)
    provenance = _provenance(loaded, model, name, command)
    _earlier(out, provenance, asked)  # another model's copies there are told before the work
    reference = Reference(loaded) if verify else None
    results: list[Result] = []
    for target in targets:
        print(f"{target.name}: writing and checking …", file=sys.stderr)
        try:
            results.append(_one(target, loaded, provenance, reference, out, max_rise))
            print(f"{target.name}: {results[-1].verdict}", file=sys.stderr)
        except InputError as error:  # a program is missing, or the format can't hold this model
            if "all" not in wanted:
                raise
            left_out.append(f"{target.name}: {error}")
        # after each, so that what an interrupted export has delivered has its figures beside it;
        # read anew, since another export may write there meanwhile
        told = document(provenance, results, left_out, _earlier(out, provenance, asked))
        write_json(out / "export.json", told)
        text = markdown(told)
        write_text(out / "export.md", text)
    if (run := record(model, told)) is not None:
        print(f"{run}: the copies stand in its report.json, card and page now", file=sys.stderr)
    print(json.dumps(told, ensure_ascii=False) if as_json else f"{text}\n{out}")
    broken = [r for r in results if r.failures]
    if broken:
        lines = "".join(f"\n  {r.target.name}: {'; '.join(r.failures)}" for r in broken)
        noun = "copy is" if len(broken) == 1 else "copies are"
        raise ParityError(f"{len(broken)} {noun} not the same model, and not delivered{lines}")


def _possible(targets: Sequence[Target], every: bool) -> tuple[list[Target], list[str]]:
    """Targets whose packages are there; what is missing is refused, or told under `--to all`."""
    possible, left_out = [], []
    for target in targets:
        try:
            target.format.require(target.kind)
        except MissingPart as error:
            if not every:
                raise
            left_out.append(f"{target.name}: {error}")
        else:
            possible.append(target)
    if not possible:
        raise InputError("export: nothing can be made\n  " + "\n  ".join(left_out))
    return possible, left_out


def _name(model: str) -> str:
    """What the files are called: the model's or the run's name."""
    path = Path(model)
    name = path.resolve().parent.name if path.name == "model" else path.name
    return re.sub(r"[^\w.-]+", "-", name.removesuffix(".gguf")).strip("-.") or "model"


def _check_room(out: Path, targets: Sequence[Target]) -> None:
    """InputError where a copy is there already; leftovers of killed exports are removed."""
    there = [str(out / t.folder) for t in targets if (out / t.folder).exists()]
    if there:
        raise InputError(
            f"{', '.join(there)}: there already; remove it, or give another folder with --out"
        )
    for left in out.glob(".*.tmp"):
        owner = left.name.split(".")[-2]
        # in a container every process may have the number of the one that was killed
        if owner.isdecimal() and (int(owner) == os.getpid() or not _alive(int(owner))):
            shutil.rmtree(left, ignore_errors=True)
            with contextlib.suppress(OSError):  # a file
                left.unlink()


def _earlier(out: Path, provenance: Provenance, asked: Sequence[Target]) -> dict[str, list[Any]]:
    """What `export.json` in the folder tells of other copies than those asked for now.

    `copies`: the figures of those that are there, or were not delivered; `left_out`: its lines.
    InputError where they are of other weights: the table of a folder tells of one model.
    """
    file = out / "export.json"
    if not file.is_file():
        return {"copies": [], "left_out": []}
    elsewhere = "remove the folder, or give another with --out"
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: it is not valid JSON: {error}; {elsewhere}") from None
    theirs, ours = told["source_sha256"], provenance.source_sha256
    if theirs != ours:
        raise InputError(
            f"{out}: the copies there are of other weights (from {told['source']}, SHA-256 "
            f"{theirs[:16]}…, where {provenance.source} has {ours[:16]}…); {elsewhere}"
        )
    made_by = {"command": told["command"], "version": told["version"]}  # once for all, formerly
    names = {target.name for target in asked}
    return {
        "copies": [
            made_by | copy
            for copy in told["copies"]
            if (out / copy["folder"]).exists()
            or (copy["verdict"] == "not delivered" and copy["copy"] not in names)
        ],
        "left_out": [line for line in told["left_out"] if line.partition(": ")[0] not in names],
    }


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _one(
    target: Target, loaded: LoadedModel, provenance: Provenance, reference: Reference | None,
    out: Path, max_rise: float | None,
) -> Result:  # fmt: skip
    """One copy: written beside its place, checked there, and renamed when it may be delivered."""
    conversion = 0.0
    temporary = out / f".{target.folder}.{os.getpid()}.tmp"
    temporary.mkdir(parents=True)
    try:
        writer = target.format.writer()
        notes: tuple[str, ...] = ()
        found: dict[str, Any] = {"unverified": "--no-verify was given"}
        start = time.perf_counter()
        try:
            if prepare := getattr(writer, "prepare", None):  # what all types of a format share
                prepare(loaded, provenance)
                conversion, start = time.perf_counter() - start, time.perf_counter()
            notes = tuple(writer.write(loaded, temporary, target.kind, provenance))
        except ParityError as error:  # its converter failed
            found = {"failures": (str(error),)}
        if reference is not None and not found.get("failures"):
            found = _checked(target, temporary, reference, max_rise)
        files = {
            f.relative_to(temporary).as_posix(): f.stat().st_size
            for f in sorted(temporary.rglob("*")) if f.is_file()
        }  # fmt: skip
        if not found.get("failures"):
            temporary.rename(out / target.folder)
        picture = out / speed.picture(target)
        if "first_token_seconds" in (found.get("speed") or {}) and picture.is_file():
            notes += (f"the page, answering: {picture.name}",)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    seconds = time.perf_counter() - start
    return Result(
        target, target.folder, files, notes, seconds=seconds, conversion_seconds=conversion, **found
    )


def _checked(
    target: Target, folder: Path, reference: Reference, max_rise: float | None
) -> dict[str, Any]:
    writer = target.format.writer()
    try:
        found = _compared(writer, target, folder, reference)
    except MissingPart as error:
        return {"unverified": str(error)}
    except ParityError as error:
        return {"failures": (str(error),)}
    longest = max(range(len(reference.greedy)), key=lambda i: len(reference.greedy[i]))
    others, failures, unseen = [], parity.failures(found, target.tier, max_rise), []
    for other in other_runtimes(target.format):
        try:
            others.append(_compared(other, target, folder, reference, brief=True))
        except MissingPart as error:
            unseen.append(str(error))
        except ParityError as error:
            failures.append(str(error))
    for seen in others:
        told = parity.failures(seen, target.tier, max_rise)
        failures += [f"in {seen.runtime}: {line}" for line in told]
    timed = _timed(target, folder, reference.prompts[longest])
    warnings = parity.warnings(found, target.tier)
    first = timed.get("speed", {}).get("first_token_seconds", 0.0)
    if first > FIRST_WORD:
        warnings.append(
            f"its first word came {first:.1f} s after opening the page, more than {FIRST_WORD:g} s"
        )
    return {
        "parity": found,
        "others": tuple(others),
        "unseen": tuple(unseen),
        **timed,
        "failures": tuple(failures),
        "warnings": tuple(warnings),
    }


def _timed(target: Target, folder: Path, prompt: Sequence[int]) -> dict[str, Any]:
    """`speed`, or `unmeasured` and why: a copy is delivered without it."""
    try:
        return {"speed": speed.measure(target, folder, prompt)}
    except speed.NotMeasured as error:
        return {"unmeasured": str(error)}


def _compared(
    opener: Opener, target: Target, folder: Path, reference: Reference, *, brief: bool = False
) -> parity.Parity:
    """MissingPart when the runtime is not there; ParityError when it can't run the copy."""
    try:
        runtime = opener.open_runtime(folder, target.kind)
        try:
            return parity.compare(runtime, reference, brief=brief)
        finally:
            runtime.close()
    except StentorError:
        raise
    except Exception as error:  # each runtime has its own kinds
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ParityError(f"its runtime can't run it: {first}") from error


def _provenance(loaded: LoadedModel, model: str, name: str, command: str) -> Provenance:
    folder = Path(loaded.origin)
    weights = folder / "model.safetensors"
    return Provenance(
        name=name,
        licence=licence_of(model) or "unknown",
        source=model,
        source_sha256=sha256(weights) if weights.is_file() else _tensor_hash(loaded.model),
        command=command,
        version=__version__,
        system=loaded.generation.get("system"),
    )


def _tensor_hash(model: Any) -> str:
    """A hash of the weights in fp32, for models that come from no safetensors file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

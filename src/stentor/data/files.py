"""Reading rows from files and from the hub, and writing files so that none is ever half there."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import zstandard

from stentor.errors import DataError, InputError, MissingExtra

try:
    import fcntl
except ImportError:  # not on Windows: two processes must not work at the same thing there
    fcntl = None  # type: ignore[assignment]

_UNREADABLE = (OSError, EOFError, ValueError, RecursionError, zlib.error, zstandard.ZstdError)


@dataclass(frozen=True)
class Row:
    """One row of a file: its fields, and where it stands."""

    fields: dict[str, Any]
    where: str


def cache_folder() -> Path:
    """Where things that can be made again are kept: STENTOR_CACHE or ~/.cache/stentor."""
    return Path(os.environ.get("STENTOR_CACHE") or Path.home() / ".cache" / "stentor")


def expand(path: Path) -> list[Path]:
    """The files that a path or glob names, sorted; DataError when there is none."""
    if path.is_file():
        return [path]
    anchor = Path(path.anchor) if path.is_absolute() else Path()
    pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
    files = sorted(p for p in anchor.glob(pattern) if p.is_file()) if pattern != "." else []
    if not files:
        raise DataError(
            f"{path}: no such file; relative paths start from data.root or STENTOR_DATA"
        )
    return files


def read_rows(path: Path, *, problems: list[str] | None = None) -> Iterator[Row]:
    """Rows of a JSON lines file (.gz and .zst too), a JSON array, a CSV or a Parquet file.

    A bad line is added to `problems` with file and line, or raises DataError without it.
    """
    suffixes = [s for s in path.suffixes if s not in (".gz", ".zst")]
    kind = suffixes[-1] if suffixes else ""
    if kind in (".csv", ".parquet"):
        yield from _read_table(path, kind)
        return
    try:
        with open_text(path) as stream:
            if kind == ".json" and _begins_with_a_list(stream):
                stream.seek(0)
                for number, fields in enumerate(json.load(stream), start=1):
                    yield from _checked(fields, f"{path}:row {number}", problems)
                return
            stream.seek(0)
            yield from read_lines(stream, str(path), problems=problems)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except _UNREADABLE as error:
        raise _cut_off(str(path), error) from error


def _begins_with_a_list(stream: IO[str]) -> bool:
    first = " "
    while first.isspace():
        first = stream.read(1)
    return first == "["


def read_lines(
    lines: Iterable[str], name: str, *, problems: list[str] | None = None
) -> Iterator[Row]:
    """Rows of JSON lines, which messages call `name`; bad ones are told as by `read_rows`."""
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield from _parsed(line.rstrip(), f"{name}:{number}", problems)
    except _UNREADABLE as error:
        raise _cut_off(name, error) from error


def _cut_off(name: str, error: Exception) -> DataError:
    return DataError(f"{name}: it can't be read to its end: {error}")


def _parsed(line: str, where: str, problems: list[str] | None) -> Iterator[Row]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        _report(f"{where}: not JSON: {error.msg} at column {error.colno}", problems)
        return
    except (ValueError, RecursionError) as error:  # numbers and nesting have limits in Python
        _report(f"{where}: not JSON that can be read: {error}", problems)
        return
    yield from _checked(fields, where, problems)


def _checked(fields: Any, where: str, problems: list[str] | None) -> Iterator[Row]:
    if not isinstance(fields, dict):
        _report(f"{where}: a {type(fields).__name__} where an object with fields is due", problems)
    elif _has_half_characters(fields):
        _report(f"{where}: it holds half a character (a lone surrogate such as \\ud83d)", problems)
    else:
        yield Row(fields, where)


def _has_half_characters(fields: Any) -> bool:
    """JSON can spell what is no Unicode text; tokenizers refuse it without saying where."""
    try:
        json.dumps(fields, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _report(text: str, problems: list[str] | None) -> None:
    if problems is None:
        raise DataError(text)
    problems.append(text)


def _read_table(path: Path, kind: str) -> Iterator[Row]:
    loader = {".csv": "csv", ".parquet": "parquet"}[kind]
    datasets = _datasets()
    try:
        table = datasets.load_dataset(loader, data_files=str(path), split="train")
    except Exception as error:  # the package raises whatever its readers raise
        raise DataError(f"{path}: it can't be read: {error.__cause__ or error}") from error
    for number, fields in enumerate(table, start=1):
        yield Row(fields, f"{path}:row {number}")


def read_hub(
    name: str,
    config: str | None,
    split: str,
    *,
    streaming: bool = False,
    revision: str | None = None,
    start: int = 0,
) -> Iterator[Row]:
    """Rows of a data set on the hub, through the package `datasets`, from row `start` (0-based).

    `revision`: a commit, tag or branch; None: the newest. DataError when the hub does not give the
    set, or breaks off amid its rows.
    """
    try:
        table = _datasets().load_dataset(
            name, config, split=split, streaming=streaming, revision=revision
        )
    except MissingExtra:
        raise
    except Exception as error:  # the package raises whatever its transport raises
        raise DataError(f"{name} ({split}): the hub did not give it: {error}") from error
    number = start
    try:
        # Not the package's own `skip`: some of its versions give rows twice where a block ends
        # before the row (huggingface/datasets#8236), and it downloads what it skips all the same.
        for number, fields in enumerate(islice(table, start, None), start=start + 1):
            yield Row(fields, f"{name}/{split}:row {number}")
    except Exception as error:
        raise DataError(
            f"{name} ({split}): the hub broke off after row {number:,}: {error}; run it again"
        ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "hub", "reading the hub, CSV or Parquet") from None
    return datasets


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A text stream over a file that may be gzip'ed or zstd-compressed."""
    with path.open("rb") as raw:
        stream: Any = raw
        if path.suffix == ".gz":
            stream = gzip.GzipFile(fileobj=raw)
        elif path.suffix == ".zst":
            # read whole: the reader can't seek back, which telling JSON from JSON lines needs
            stream = io.BytesIO(_unzstd(raw))
        with io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
            yield text


def _unzstd(raw: IO[bytes]) -> bytes:
    """All frames of a zstd file; EOFError where the last is cut off, which zstandard lets pass."""
    whole = io.BytesIO()
    frame: Any = None
    while chunk := raw.read(1 << 20):
        while chunk:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            whole.write(frame.decompress(chunk))
            chunk = b""
            if frame.eof:
                chunk, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("Compressed file ended before the end of its last frame")
    return whole.getvalue()


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream whose content replaces `path` only once it is whole and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def lock(file: IO[str], *, wait: bool) -> bool:
    """Lock an open file until it is closed; False where it can't be: unless told to wait, because
    another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as stream:
        stream.write(text.encode("utf-8"))


def check_rows_name(path: Path) -> None:
    """InputError unless `write_rows` can write a file of that name."""
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{path}: the output is JSON lines; name it .jsonl or .jsonl.gz")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines atomically, .jsonl or .jsonl.gz; equal rows are equal files."""
    check_rows_name(path)
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    with atomic(path) as stream:
        stream.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

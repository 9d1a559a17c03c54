"""Rows from every kind of file, damaged files, and writing that leaves nothing half there."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stentor.data import files
from stentor.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"prompt": "Say hi", "response": "Hi.", "is_safe": True},
    {"prompt": 'A "quoted", naïve 🙂 text', "response": "two\nlines\tand a tab", "is_safe": False},
    {"prompt": "line\u2028separator", "response": " spaces kept ", "is_safe": True},
]


def json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    ".jsonl": lambda path, rows: path.write_bytes(json_lines(rows)),
    ".jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(json_lines(rows), mtime=0)),
    ".jsonl.zst": lambda path, rows: path.write_bytes(zstandard.compress(json_lines(rows))),
    ".json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    ".json.gz": lambda path, rows: path.write_bytes(gzip.compress(json.dumps(rows).encode())),
    ".json.zst": lambda path, rows: path.write_bytes(zstandard.compress(json.dumps(rows).encode())),
    ".csv": write_csv,
    ".parquet": write_parquet,
}
LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


@pytest.fixture(autouse=True)
def _tables_cached_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps what it read from CSV and Parquet files in the user's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    problems: list[str] = []
    return [row.fields for row in files.read_rows(path, problems=problems)], problems


# --- reading


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_gives_the_same_fields_in_the_same_order(suffix: str) -> None:
    path = Path(f"my.rows.v2{suffix}")
    WRITERS[suffix](path, ROWS)
    assert read(path) == (ROWS, [])


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_row_knows_where_it_stands(suffix: str) -> None:
    path = Path(f"rows{suffix}")
    WRITERS[suffix](path, ROWS)
    mark = "" if suffix in LINES else "row "
    expected = [f"{path}:{mark}{number}" for number in (1, 2, 3)]
    assert [row.where for row in files.read_rows(path)] == expected


def test_json_lines_may_end_in_crlf_start_with_a_bom_and_hold_blank_lines() -> None:
    Path("a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \r\n{"a": 2}')
    rows = list(files.read_rows(Path("a.jsonl")))
    assert [(row.fields, row.where) for row in rows] == [
        ({"a": 1}, "a.jsonl:1"),
        ({"a": 2}, "a.jsonl:4"),
    ]


def test_a_json_file_may_hold_json_lines() -> None:
    Path("a.json").write_bytes(json_lines(ROWS))
    assert read(Path("a.json")) == (ROWS, [])


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_all_parts_of_a_concatenated_archive_are_read(compress: Callable[[bytes], bytes]) -> None:
    path = Path("a.jsonl.gz" if compress is gzip.compress else "a.jsonl.zst")
    path.write_bytes(b"".join(compress(json_lines([row])) for row in ROWS))
    assert read(path) == (ROWS, [])


@pytest.mark.parametrize("suffix", LINES)
def test_an_empty_file_has_no_rows(suffix: str) -> None:
    Path(f"a{suffix}").write_bytes(b"")
    assert read(Path(f"a{suffix}")) == ([], [])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_that_changed_is_read_anew(suffix: str) -> None:
    path = Path(f"a{suffix}")
    WRITERS[suffix](path, [{"a": "old"}])
    assert read(path) == ([{"a": "old"}], [])
    WRITERS[suffix](path, [{"a": "new"}])
    assert read(path) == ([{"a": "new"}], [])


# --- bad rows and damaged files

BAD_LINES = {
    "{": "not JSON: Expecting property name enclosed in double quotes at column 2",
    '{"a": }': "not JSON: Expecting value at column 7",
    "plain text": "not JSON: Expecting value at column 1",
    '{"a": 1} {"b": 2}': "not JSON: Extra data at column 10",
    "[1, 2]": "a list where an object with fields is due",
    '"text"': "a str where an object with fields is due",
    "3": "a int where an object with fields is due",
    "null": "a NoneType where an object with fields is due",
    '{"a": "\\ud83d"}': "it holds half a character (a lone surrogate such as \\ud83d)",
    '{"a": [{"b\\udc00": 1}]}': "it holds half a character (a lone surrogate such as \\ud83d)",
}


@pytest.mark.parametrize("suffix", LINES)
def test_every_bad_line_is_listed_with_file_and_line_and_the_others_are_read(suffix: str) -> None:
    path = Path(f"bad{suffix}")
    lines = [json.dumps(ROWS[0]), *BAD_LINES, json.dumps(ROWS[1])]
    content = "\n".join(lines).encode()
    compress: Callable[[bytes], bytes] = {
        ".jsonl.gz": gzip.compress,
        ".jsonl.zst": zstandard.compress,
    }.get(suffix, bytes)
    path.write_bytes(compress(content))
    rows, problems = read(path)
    assert rows == ROWS[:2]
    assert problems == [f"{path}:{n}: {why}" for n, why in enumerate(BAD_LINES.values(), start=2)]


@pytest.mark.parametrize(("line", "why"), BAD_LINES.items())
def test_without_a_list_for_them_a_bad_line_is_an_error(line: str, why: str) -> None:
    Path("bad.jsonl").write_text('{"a": 1}\n' + line)
    with pytest.raises(DataError) as caught:
        list(files.read_rows(Path("bad.jsonl")))
    assert str(caught.value) == f"bad.jsonl:2: {why}"


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_json_beyond_pythons_limits_is_one_bad_line(line: str) -> None:
    Path("bad.jsonl").write_text(line + '\n{"a": 2}\n')
    rows, problems = read(Path("bad.jsonl"))
    assert rows == [{"a": 2}]
    assert [p.partition(": ")[0] for p in problems] == ["bad.jsonl:1"]


def test_an_array_may_begin_on_a_later_line() -> None:
    Path("late.json").write_text('\n  [{"a": 1}, {"a": 2}]\n')
    assert read(Path("late.json")) == ([{"a": 1}, {"a": 2}], [])


def test_bad_entries_of_a_json_array_are_listed() -> None:
    Path("bad.json").write_text('[{"a": 1}, 2, {"a": "\\udc00"}, null]')
    assert read(Path("bad.json")) == (
        [{"a": 1}],
        [
            "bad.json:row 2: a int where an object with fields is due",
            "bad.json:row 3: it holds half a character (a lone surrogate such as \\ud83d)",
            "bad.json:row 4: a NoneType where an object with fields is due",
        ],
    )


ARCHIVES = {
    "a.jsonl.gz": gzip.compress(json_lines(ROWS * 40), mtime=0),
    "a.jsonl.zst": zstandard.compress(json_lines(ROWS * 40)),
}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(ARCHIVES)), share=st.floats(0, 1))
def test_an_archive_cut_off_anywhere_is_an_error_never_fewer_rows(name: str, share: float) -> None:
    whole = ARCHIVES[name]
    Path(name).write_bytes(whole[: 1 + round(share * (len(whole) - 2))])
    with pytest.raises(DataError, match=rf"^{name}: it can't be read to its end: "):
        read(Path(name))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(share=st.floats(0, 1), flip=st.integers(1, 255))
def test_a_damaged_byte_in_a_gzip_file_is_an_error(share: float, flip: int) -> None:
    damaged = bytearray(ARCHIVES["a.jsonl.gz"])
    damaged[10 + round(share * (len(damaged) - 15))] ^= flip
    Path("a.jsonl.gz").write_bytes(damaged)
    with pytest.raises(DataError, match=r"^a.jsonl.gz: it can't be read to its end: "):
        read(Path("a.jsonl.gz"))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', "'utf-8' codec can't decode byte 0xe9"),
        ("a.json", b'[{"a": "\xe9"}]', "'utf-8' codec can't decode byte 0xe9"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a": "\xe9"}', mtime=0),
            "'utf-8' codec can't decode byte 0xe9",
        ),
        ("a.jsonl.gz", b'{"a": 1}\n', "Not a gzipped file"),
        ("a.jsonl.zst", b'{"a": 1}\n', "Unknown frame descriptor"),
        ("a.json", b'[{"a": 1}, ', "Expecting value: line 1 column 12"),
        ("a.json", b'[{"a": 1}] trailing', "Extra data: line 1 column 12"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_an_error(
    name: str, content: bytes, why: str
) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(Path(name))
    assert str(caught.value).startswith(f"{name}: it can't be read to its end: ")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", b"", "No columns to parse from file"),
        ("a.csv", b'a,b\n1,2\n"x', "EOF inside string"),
        ("a.csv", b"a,b\n\xe9,2\n", "can't decode byte 0xe9"),
        ("a.parquet", b"PAR1 but no more", "Parquet"),
    ],
)
def test_a_broken_table_is_an_error(name: str, content: bytes, why: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(Path(name))
    assert str(caught.value).startswith(f"{name}: it can't be read: ")
    assert why in str(caught.value)


@pytest.mark.parametrize("suffix", LINES)
def test_a_missing_file_is_an_error(suffix: str) -> None:
    with pytest.raises(DataError) as caught:
        read(Path(f"none{suffix}"))
    assert str(caught.value) == f"none{suffix}: no such file"


def test_a_hub_that_is_out_of_reach_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^owner/none \(train\): the hub did not give it: "):
        list(files.read_hub("owner/none", None, "train"))


def test_a_set_that_breaks_off_is_an_error_after_the_rows_that_came(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in (1, 2):
        write_parquet(tmp_path / "set" / f"train-{number}.parquet", ROWS)
    whole = [row.fields for row in files.read_hub("set", None, "train", streaming=True)]
    assert whole == ROWS * 2
    rest = [*files.read_hub("set", None, "train", streaming=True, start=4)]
    assert [(r.fields, r.where) for r in rest] == [
        (ROWS[1], "set/train:row 5"),
        (ROWS[2], "set/train:row 6"),
    ]
    second = tmp_path / "set" / "train-2.parquet"
    second.write_bytes(second.read_bytes()[:-8])
    found = []
    with pytest.raises(
        DataError, match=r"^set \(train\): the hub broke off after row 3: .+; run it again$"
    ):
        for row in files.read_hub("set", None, "train", streaming=True):
            found.append(row.fields)
    assert found == ROWS


# --- finding files


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "b.jsonl").mkdir(parents=True)  # a folder, whatever its name
    for name in ("c.jsonl", "a.jsonl", "a.txt", "odd[1].jsonl", "b.jsonl/d.jsonl"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("absolute", [True, False])
def test_a_glob_gives_files_alone_in_sorted_order(shards: Path, absolute: bool) -> None:
    base = shards if absolute else Path("data")
    assert files.expand(base / "*.jsonl") == [
        base / "a.jsonl",
        base / "c.jsonl",
        base / "odd[1].jsonl",
    ]
    assert files.expand(base / "*" / "*.jsonl") == [base / "b.jsonl" / "d.jsonl"]


def test_a_file_is_found_though_its_name_looks_like_a_glob(shards: Path) -> None:
    assert files.expand(shards / "odd[1].jsonl") == [shards / "odd[1].jsonl"]


@pytest.mark.parametrize("name", ["none.jsonl", "*.zst", "b.jsonl", "."])
def test_what_names_no_file_is_an_error(shards: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        files.expand(Path(name))
    assert str(caught.value) == (
        f"{name}: no such file; relative paths start from data.root or STENTOR_DATA"
    )


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STENTOR_CACHE", "/somewhere")
    assert files.cache_folder() == Path("/somewhere")
    monkeypatch.delenv("STENTOR_CACHE")
    assert files.cache_folder() == Path.home() / ".cache" / "stentor"


# --- writing


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.json"
    files.write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), files.atomic(path) as stream:
        stream.write(b"half of the new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_nothing_appears_before_the_write_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with files.atomic(path) as stream:
        stream.write(b"content")
        stream.flush()
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_process_killed_amid_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_text(path, "old")
    program = (
        "import os, pathlib, signal, sys; from stentor.data import files\n"
        "with files.atomic(pathlib.Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'half'); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode < 0
    assert path.read_text() == "old"


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"naïve": ["🙂", 1.5, None, {"x": True}]}
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "naïve" in text and text.endswith("}\n")


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content" * 100_000)
    expected = hashlib.sha256(b"content" * 100_000).hexdigest()
    assert files.sha256(tmp_path / "a") == expected

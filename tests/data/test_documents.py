"""Documents as tokens: each text is tokenised once; downloads go on where they were broken off."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stentor.data import corpus, documents
from stentor.data.documents import Documents
from stentor.data.files import Row, cache_folder
from stentor.errors import DataError
from stentor.recipe import CorpusPart, PretrainRecipe

BOS, EOS = 1, 2

WriteRows = Callable[..., Path]

# --- shards


TEXTS = ["A small bird.", "It sings </s> and <s>[INST] at night.\n\nThen  it sleeps.", "naïve 🙂"]


def test_a_document_is_its_text_between_start_and_stop(
    write_rows: WriteRows, tokenizer: Any
) -> None:
    shard = write_rows("a.jsonl", [{"text": t, "source": f"s{n}"} for n, t in enumerate(TEXTS)])
    docs = documents.tokenise(shard, tokenizer)
    assert len(docs) == 3 and docs.sources == ("s0", "s1", "s2")
    for number, text in enumerate(TEXTS):
        ids = docs.document(number).tolist()
        assert ids[0] == BOS and ids[-1] == EOS
        body = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ids[1:-1] == body  # text that spells a control piece stays text
        assert not {*body} & {BOS, EOS, 3, 4}
    assert int(docs.ends[-1]) == len(docs.tokens)


def test_a_row_without_a_source_belongs_to_none(write_rows: WriteRows, tokenizer: Any) -> None:
    assert documents.tokenise(write_rows("a.jsonl", [{"text": "One."}]), tokenizer).sources == ("",)


def test_a_shard_is_tokenised_once(write_rows: WriteRows, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"text": t} for t in TEXTS]
    first = documents.tokenise(write_rows("a.jsonl", rows), tokenizer)
    (cached,) = (tmp_path / "cache" / "corpus").iterdir()
    before = cached.stat()
    again = documents.tokenise(write_rows("moved.jsonl", rows), tokenizer)
    after = cached.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [*cached.parent.iterdir()] == [cached]
    assert again.tokens.tolist() == first.tokens.tolist()
    assert (again.ends.tolist(), again.sources) == (first.ends.tolist(), first.sources)


def test_a_shard_that_changed_is_tokenised_anew(write_rows: WriteRows, tokenizer: Any) -> None:
    old = documents.tokenise(write_rows("a.jsonl", [{"text": "One."}]), tokenizer)
    new = documents.tokenise(write_rows("a.jsonl", [{"text": "Two."}]), tokenizer)
    assert old.tokens.tolist() != new.tokens.tolist()


def test_more_documents_than_are_encoded_at_a_time_keep_their_order(
    write_rows: WriteRows, tokenizer: Any
) -> None:
    rows = [{"text": f"Number {n}."} for n in range(1100)]
    docs = documents.tokenise(write_rows("a.jsonl", rows), tokenizer)
    assert len(docs) == 1100
    for number in (0, 511, 512, 1023, 1024, 1099):
        text = tokenizer.decode(docs.document(number), skip_special_tokens=True)
        assert text == f"Number {number}."


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"text": " "}, "a.jsonl:2: there is no text in the row"),
        ({"body": "x"}, "a.jsonl:2: there is no text in the row"),
        ({"text": ["x"]}, "a.jsonl:2: there is no text in the row"),
        ("{", "a.jsonl:2: not JSON: Expecting property name enclosed in double quotes at column 2"),
        ({"text": "\ud83d"},
         "a.jsonl:2: it holds half a character (a lone surrogate such as \\ud83d)"),
    ],
)  # fmt: skip
def test_a_bad_row_of_a_corpus_is_an_error_that_leaves_no_cache(
    write_rows: WriteRows, tokenizer: Any, tmp_path: Path, row: Any, why: str
) -> None:
    write_rows("a.jsonl", [{"text": "Fine."}, row])
    with pytest.raises(DataError) as caught:
        documents.tokenise(Path("a.jsonl"), tokenizer)
    assert str(caught.value) == why
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".npz"]


def test_an_empty_or_missing_shard_is_an_error(write_rows: WriteRows, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"^a corpus has no documents$"):
        documents.tokenise(write_rows("a.jsonl", []), tokenizer)
    with pytest.raises(DataError, match=r"^none.jsonl: no such file; "):
        documents.tokenise(Path("none.jsonl"), tokenizer)


def test_a_cached_corpus_holds_no_pickle(
    write_rows: WriteRows, tokenizer: Any, tmp_path: Path
) -> None:
    documents.tokenise(write_rows("a.jsonl", [{"text": "One.", "source": "x"}]), tokenizer)
    (cached,) = (tmp_path / "cache" / "corpus").iterdir()
    with np.load(cached, allow_pickle=False) as found:
        assert {name: found[name].dtype.kind for name in found.files} == {
            "tokens": "u",
            "ends": "i",
            "sources": "u",
        }
        assert json.loads(found["sources"].tobytes()) == ["x"]


# --- the hub: the package `datasets` streams Parquet files from a folder, as it does from there


ROWS = 50


def write_set(folder: Path, texts: list[Any], field: str = "text") -> str:
    """A data set of two shards, as it stands on the hub; returns its name."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(exist_ok=True)
    half = len(texts) // 2
    for number, part in enumerate((texts[:half], texts[half:])):
        table = pyarrow.table(
            {field: pyarrow.array(part, pyarrow.string()), "id": range(len(part))}
        )
        parquet.write_table(table, folder / f"train-{number:05}-of-00002.parquet", row_group_size=7)
    return str(folder)


@pytest.fixture
def texts() -> list[str]:
    """Texts of different lengths, no two alike."""
    return [f"Number {n}: " + "so " * (n % 9) + "it ends." for n in range(ROWS)]


@pytest.fixture
def hub(tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of 50 rows; 4 are encoded at a time, and a part of the cache has 100 tokens."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(documents, "_CHUNK", 4)
    monkeypatch.setattr(documents, "_PART", 100)
    return write_set(tmp_path / "set", texts)


class Watched:
    """The rows that pass through `read_hub`; `stop` ends them as a kill does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        self.rows: list[str] = []
        self.stop_after: int | None = None
        read = documents.read_hub

        def watched(*given: Any, **more: Any) -> Iterator[Row]:
            self.calls.append(more)
            for row in read(*given, **more):
                if self.stop_after is not None and len(self.rows) >= self.stop_after:
                    raise KeyboardInterrupt
                self.rows.append(row.where.rpartition(":")[2])
                yield row

        monkeypatch.setattr(documents, "read_hub", watched)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def part(hub: str, tokens: int = 10_000, **more: Any) -> CorpusPart:
    return CorpusPart(hub=hub, tokens=tokens, **more)


def whole(docs: Documents) -> list[tuple[int, ...]]:
    return [tuple(docs.document(n).tolist()) for n in range(len(docs))]


@pytest.fixture
def expected(write_rows: WriteRows, tokenizer: Any, texts: list[str]) -> list[tuple[int, ...]]:
    """The same documents from a local shard."""
    shard = write_rows("same.jsonl", [{"text": t} for t in texts])
    return whole(documents.tokenise(shard, tokenizer))


def test_a_set_from_the_hub_gives_the_documents_of_a_local_shard(
    hub: str, tokenizer: Any, expected: list[tuple[int, ...]]
) -> None:
    docs = documents.stream_hub("made", part(hub), tokenizer)
    assert whole(docs) == expected
    assert docs.sources == ("made",) * ROWS
    assert len([*cache_folder().rglob("0*.npz")]) > 4  # it was written in parts


@pytest.mark.parametrize("tokens", [1, 99, 100, 101, 333, 680])
def test_documents_are_read_until_the_tokens_are_there_and_not_one_more(
    hub: str, tokenizer: Any, expected: list[tuple[int, ...]], watched: Watched, tokens: int
) -> None:
    docs = documents.stream_hub("made", part(hub, tokens), tokenizer)
    assert whole(docs) == expected[: len(docs)]
    assert len(docs.tokens) - len(expected[len(docs) - 1]) < tokens <= len(docs.tokens)
    assert len(watched.rows) <= len(docs) + documents._CHUNK
    again = documents.stream_hub("made", part(hub, tokens), tokenizer)
    assert whole(again) == whole(docs) and len(watched.calls) == 1


@pytest.mark.parametrize("stops", [[0], [3], [17], [49], [5, 11, 2, 30]])
def test_a_download_that_was_broken_off_goes_on_and_loses_or_doubles_no_document(
    hub: str, tokenizer: Any, expected: list[tuple[int, ...]], watched: Watched, stops: list[int]
) -> None:
    for stop in stops:
        watched.stop_after = len(watched.rows) + stop
        with pytest.raises(KeyboardInterrupt):
            documents.stream_hub("made", part(hub), tokenizer)
    watched.stop_after = None
    assert whole(documents.stream_hub("made", part(hub), tokenizer)) == expected
    again = Counter(watched.rows)
    assert {*again} == {f"row {n}" for n in range(1, ROWS + 1)}
    # at most a part and a chunk are read once more after each kill
    assert max(again.values()) <= 1 + len(stops)
    assert len(watched.rows) - ROWS <= len(stops) * 16


def test_a_killed_process_leaves_the_parts_that_it_had_written(
    hub: str, tokenizer: Any, expected: list[tuple[int, ...]], watched: Watched
) -> None:
    program = (
        "import os, signal, sys\n"
        "from stentor.data import documents\n"
        "from stentor.model import tokenizer\n"
        "from stentor.recipe import CorpusPart\n"
        "documents._CHUNK, documents._PART, read = 4, 100, documents.read_hub\n"
        "def dying(*given, **more):\n"
        "    for number, row in enumerate(read(*given, **more)):\n"
        "        number == 33 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield row\n"
        "documents.read_hub = dying\n"
        "part = CorpusPart(hub=sys.argv[1], tokens=10_000)\n"
        "documents.stream_hub('made', part, tokenizer.bundled())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, hub], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert whole(documents.stream_hub("made", part(hub), tokenizer)) == expected
    (call,) = watched.calls
    assert 16 < call["start"] <= 33 and len(watched.rows) == ROWS - call["start"]


def test_a_set_that_breaks_off_is_an_error_and_what_came_is_kept(
    hub: str, tokenizer: Any, texts: list[str], expected: list[tuple[int, ...]], watched: Watched
) -> None:
    second = Path(hub) / "train-00001-of-00002.parquet"
    second.write_bytes(second.read_bytes()[:-8])  # without its end no row can be read
    with pytest.raises(DataError) as caught:
        documents.stream_hub("made", part(hub), tokenizer)
    assert str(caught.value).startswith(f"{hub} (train): the hub broke off after row 25: ")
    assert str(caught.value).endswith("; run it again")
    write_set(Path(hub), texts)
    assert whole(documents.stream_hub("made", part(hub), tokenizer)) == expected
    assert [call["start"] for call in watched.calls] == [0, 24]  # chunks of 4 rows


def test_more_tokens_later_fetch_the_rest_alone(
    hub: str, tokenizer: Any, expected: list[tuple[int, ...]], watched: Watched
) -> None:
    few = documents.stream_hub("made", part(hub, 150), tokenizer)
    more = documents.stream_hub("made", part(hub, 400), tokenizer)
    assert whole(more)[: len(few)] == whole(few) and len(more) > len(few)
    assert whole(documents.stream_hub("made", part(hub), tokenizer)) == expected
    assert watched.rows == [f"row {n}" for n in range(1, ROWS + 1)]
    assert whole(documents.stream_hub("made", part(hub, 150), tokenizer)) == whole(few)
    assert len(watched.calls) == 3


def test_a_set_with_fewer_tokens_is_taken_whole_and_not_asked_for_more(
    hub: str, tokenizer: Any, expected: list[tuple[int, ...]], watched: Watched
) -> None:
    for tokens in (10_000, 20_000):
        assert whole(documents.stream_hub("made", part(hub, tokens), tokenizer)) == expected
    assert len(watched.calls) == 1


def test_weight_epochs_and_name_leave_the_cached_text_as_it_is(hub: str, tokenizer: Any) -> None:
    first = documents.stream_hub("made", part(hub, 300), tokenizer)
    shutil.rmtree(hub)
    other = part(hub, 300, weight=3, epochs={"other": 2})
    again = documents.stream_hub("other", other, tokenizer)
    assert whole(again) == whole(first) and {*again.sources} == {"other"}


@pytest.mark.parametrize("change", [{"text": "text2"}, {"revision": "v2"}])
def test_what_decides_the_text_is_read_anew(
    hub: str, tokenizer: Any, texts: list[str], change: dict[str, str]
) -> None:
    old = documents.stream_hub("made", part(hub), tokenizer)
    write_set(Path(hub), [f"New: {t}" for t in texts], change.get("text", "text"))
    new = documents.stream_hub("made", part(hub, **change), tokenizer)
    assert len(new) == len(old) == ROWS and not {*whole(new)} & {*whole(old)}


def test_the_revision_is_asked_of_the_hub(
    hub: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub alone has revisions, so here the call of the package is all that can be seen."""
    import datasets

    real, asked = datasets.load_dataset, []

    def load(*given: Any, revision: str | None = None, **more: Any) -> Any:
        asked.append(revision)
        return real(*given, **more)

    monkeypatch.setattr(datasets, "load_dataset", load)
    for revision in (None, "v2"):
        documents.stream_hub("made", part(hub, revision=revision), tokenizer)
    assert asked == [None, "v2"]


def test_rows_without_words_are_passed_over_and_counted(
    hub: str, tokenizer: Any, texts: list[str], expected: list[tuple[int, ...]], watched: Watched
) -> None:
    for n in (0, 7, 30, 49):
        texts[n] = None if n == 7 else " \n"  # type: ignore[call-overload]
    write_set(Path(hub), texts)
    left = [e for n, e in enumerate(expected) if n not in (0, 7, 30, 49)]
    few = documents.stream_hub("made", part(hub, 300), tokenizer)
    assert whole(few) == left[: len(few)]
    assert whole(documents.stream_hub("made", part(hub), tokenizer)) == left
    assert watched.rows == [f"row {n}" for n in range(1, ROWS + 1)]


def test_a_set_without_a_word_or_without_the_field_is_an_error(hub: str, tokenizer: Any) -> None:
    with pytest.raises(DataError) as caught:
        documents.stream_hub("made", part(hub, text="txt"), tokenizer)
    assert str(caught.value) == (
        f"{hub}/train:row 1: there is no field 'txt'; did you mean 'text'?"
    )
    with pytest.raises(DataError) as caught:
        documents.stream_hub("made", part(hub, text="id"), tokenizer)
    assert str(caught.value) == f"{hub}/train:row 1: id is a int where a text is due"
    write_set(Path(hub), [" "] * ROWS)
    with pytest.raises(DataError) as caught:
        documents.stream_hub("made", part(hub), tokenizer)
    assert str(caught.value) == "corpus made: it has no documents"


def test_of_several_that_need_a_set_one_fetches_it_and_the_others_wait(
    hub: str, tokenizer: Any, expected: list[tuple[int, ...]], watched: Watched
) -> None:
    """The lock is on an open file, so threads stand for processes here."""
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(documents.stream_hub, "made", part(hub), tokenizer) for _ in range(4)]
    assert all(whole(f.result()) == expected for f in found)
    assert len(watched.calls) == 1 and len(watched.rows) == ROWS


def test_two_sets_are_mixed_by_weight(hub: str, tokenizer: Any, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", [f"Another {n}." for n in range(40)])
    sets = {"a": {"hub": hub, "tokens": 400}, "b": {"hub": other, "tokens": 100, "weight": 3}}
    made = PretrainRecipe(name="x", tokens=4096, data={"corpora": sets})
    found = corpus.gather(made, tokenizer)
    (a, _), (b, _) = found
    packed = corpus.pack(found, 8, seed=1)
    starts = [0, *packed.ends[:-1]]
    seen = Counter(
        tuple(packed.stream[x:y].tolist()) for x, y in zip(starts, packed.ends, strict=True)
    )
    assert seen == Counter(dict.fromkeys(whole(a), 1) | dict.fromkeys(whole(b), 3))
    assert len(packed.stream) == pytest.approx(400 + 3 * 100, abs=60)

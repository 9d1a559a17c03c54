"""Minimal pairs: the sentence that the model finds likelier must be the good one; a tie loses."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import build_tiny_model
from stentor.errors import DataError
from stentor.evaluate.minimal_pairs import accuracy
from stentor.recipe import TrainPart
from stentor.train.device import Machine, machine


@pytest.fixture(scope="module")
def model() -> Any:
    return build_tiny_model()


@pytest.fixture(scope="module")
def computer() -> Machine:
    return machine(TrainPart(device="cpu", precision="fp32"))


def pair(good: str, bad: str) -> dict[str, str]:
    return {"sentence_good": good, "sentence_bad": bad, "field": "syntax"}


def words(number: int) -> str:
    """Some sentence, another one for each number."""
    known = ["whale", "owl", "sea", "desert", "night", "sings", "sleeps", "red", "blue", "why"]
    return " ".join(known[(number * step + step) % 10] for step in range(1, number % 9 + 2))


def likelihood(model: Any, tokenizer: Any, sentence: str) -> float:
    """The sum of the log probabilities of transformers."""
    ids = torch.tensor([[1, *tokenizer(sentence, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        each = model(input_ids=ids).logits[0, :-1].double().log_softmax(dim=-1)
    return float(each.gather(1, ids[0, 1:, None]).sum())


def test_accuracy_equals_that_of_transformers(
    model: Any, computer: Machine, tokenizer: Any, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    sets = {}
    for name, numbers in (("one", range(0, 60, 2)), ("two", range(100, 124, 2))):
        pairs = [pair(words(n), words(n + 1)) for n in numbers]
        write_rows(f"{name}.jsonl", pairs)
        won = sum(
            likelihood(model, tokenizer, p["sentence_good"])
            > likelihood(model, tokenizer, p["sentence_bad"])
            for p in pairs
        )
        sets[name] = {"accuracy": won / len(pairs), "n": len(pairs)}
        assert 0 < won < len(pairs)
    right = sum(s["accuracy"] * s["n"] for s in sets.values())
    assert accuracy(model, tokenizer, tmp_path, computer) == {
        "overall": {"accuracy": pytest.approx(right / 42), "n": 42},
        "sets": sets,
    }


def test_swapped_pairs_turn_the_accuracy_over(
    model: Any, computer: Machine, tokenizer: Any, tmp_path: Path
) -> None:
    found = []
    for name in ("there", "back"):
        (tmp_path / name).mkdir()
        rows = [(words(n), words(n + 1)) for n in range(20)]
        lines = [pair(*(row if name == "there" else row[::-1])) for row in rows]
        file = tmp_path / name / "a.jsonl"
        file.write_text("".join(f"{line}\n".replace("'", '"') for line in lines))
        found.append(accuracy(model, tokenizer, tmp_path / name, computer)["overall"]["accuracy"])
    assert 0 < found[0] < 1 and found[0] + found[1] == pytest.approx(1)


def test_a_tie_counts_as_wrong(
    model: Any, computer: Machine, tokenizer: Any, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    """Computed twice, in batches of other widths, a sentence may differ in the last digit."""
    for number in range(2):
        sentences = [f"{words(n)} {'so ' * (n * (7 + number) % 13)}{n}" for n in range(70)]
        write_rows(f"{number}.jsonl", [pair(s, s) for s in sentences])
    assert accuracy(model, tokenizer, tmp_path, computer)["overall"] == {"accuracy": 0.0, "n": 140}


def test_sets_are_named_by_folder_and_file_whatever_their_format(
    model: Any, computer: Machine, tokenizer: Any, tmp_path: Path
) -> None:
    row = '{"sentence_good": "a", "sentence_bad": "b"}'
    (tmp_path / "inner").mkdir()
    (tmp_path / "x.json").write_text(f"[{row}, {row}]")
    (tmp_path / "inner" / "y.jsonl").write_text(row)
    with gzip.open(tmp_path / "z.jsonl.gz", "wt") as stream:
        stream.write(row)
    (tmp_path / "README.md").write_text("not a set")
    found = accuracy(model, tokenizer, tmp_path, computer)
    assert {name: s["n"] for name, s in found["sets"].items()} == {"x": 2, "inner/y": 1, "z": 1}
    assert found["overall"]["n"] == 4


def test_a_folder_without_files_is_an_error(
    model: Any, computer: Machine, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        accuracy(model, tokenizer, tmp_path, computer)
    assert str(caught.value) == (
        f"{tmp_path}: there are no JSON lines files of minimal pairs in it"
    )


def test_a_file_without_pairs_is_an_error_and_no_accuracy_of_0(
    model: Any, computer: Machine, tokenizer: Any, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    path = write_rows("a.jsonl", [])
    with pytest.raises(DataError) as caught:
        accuracy(model, tokenizer, tmp_path, computer)
    assert str(caught.value) == f"{path}: the file has no rows"


@pytest.mark.parametrize("row", [{"sentence_good": "a"}, {"sentence_bad": "b"}, pair("", "b")])
def test_a_row_without_both_sentences_is_named(
    model: Any,
    computer: Machine,
    tokenizer: Any,
    tmp_path: Path,
    write_rows: Callable[..., Path],
    row: Any,
) -> None:
    path = write_rows("a.jsonl", [pair("a", "b"), row])
    with pytest.raises(DataError) as caught:
        accuracy(model, tokenizer, tmp_path, computer)
    assert str(caught.value) == f"{path}:2: sentence_good or sentence_bad is missing"

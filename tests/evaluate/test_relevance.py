"""Which of ten prompts does a reply answer?"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stentor.chat import SegmentTemplate
from stentor.errors import InputError
from stentor.evaluate import relevance as measured
from stentor.evaluate.probe import ProbeResult, Record
from stentor.evaluate.relevance import OF, relevance
from stentor.model.load import LoadedModel
from stentor.train.device import Machine


def record(number: int, response: str = "", **changes: Any) -> Record:
    fields = {
        "id": f"p{number}", "suite": "s", "sample": 0, "prompt": f"What is {number} and a bird?",
        "kind": "benign", "category": "", "family": "", "form": "", "seen": True,
        "response": response or f"It is {number}.", "outcome": "answer", "supportive": False,
        "reason": "", "stopped": True, "tokens": 1,
    }  # fmt: skip
    return Record(**(fields | changes))


@pytest.fixture
def guesser(tiny_model: Any, tokenizer: Any, template: SegmentTemplate) -> LoadedModel:
    return LoadedModel(tiny_model, tokenizer, template, "tiny", {})


@torch.no_grad()
def test_scores_are_the_log_probabilities_of_each_reply_after_each_prompt(
    guesser: LoadedModel, cpu: Machine
) -> None:
    records = [record(1), record(2, "A robin sings at night."), record(3, "No.", prompt="Well")]
    found = measured._scores(records, records[:2], guesser, cpu)
    assert found.shape == (3, 2)
    for i, asked in enumerate(records):
        for j, answered in enumerate(records[:2]):
            encoded = guesser.template.encode(
                [
                    {"role": "user", "content": asked.prompt},
                    {"role": "assistant", "content": answered.response},
                ]
            )
            ids = torch.tensor([encoded.ids])
            logits = guesser.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            each = logits.gather(1, ids[0, 1:, None])[:, 0]
            wanted = each[torch.tensor(encoded.mask[1:], dtype=torch.bool)].sum()
            assert float(found[i, j]) == pytest.approx(float(wanted), rel=1e-4)


def test_a_reply_is_relevant_when_its_own_prompt_makes_it_likeliest(
    monkeypatch: pytest.MonkeyPatch, guesser: LoadedModel, cpu: Machine
) -> None:
    """The guess is replaced by a rule that is known: a prompt likes the reply of its number."""

    def scores(asked: list[Record], answered: list[Record], *_: Any) -> torch.Tensor:
        return torch.tensor(
            [[-abs(int(a.id[1:]) - int(b.response[6:-1])) for b in answered] for a in asked]
        ).double()

    monkeypatch.setattr(measured, "_scores", scores)
    right = [record(n) for n in range(20)]
    wrong = [record(n, f"It is {n + 1}.") for n in range(20, 24)]
    found = relevance([*right, *wrong], guesser, cpu)
    assert all(found[r.key] for r in right) and len(found) == 24
    # a wrong reply fits the next number's prompt better, if that one is among its ten
    assert not all(found[r.key] for r in wrong)


def test_what_is_harmful_or_silent_is_not_asked_about(guesser: LoadedModel, cpu: Machine) -> None:
    records = [record(n) for n in range(OF)]
    left_out = [record(90, kind="harmful"), record(91, outcome="silent")]
    assert relevance([*records, *left_out], guesser, cpu).keys() == {r.key for r in records}
    assert relevance(records[1:], guesser, cpu) == {}


def grouped(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A list that fills with the prompts of each group; the guess is left out."""
    groups: list[list[str]] = []

    def scores(asked: list[Record], answered: list[Record], *_: Any) -> torch.Tensor:
        groups.append([r.id for r in asked])
        return torch.zeros(len(asked), len(answered)).double()

    monkeypatch.setattr(measured, "_scores", scores)
    return groups


def test_who_stands_together_is_decided_by_the_seed_alone(
    monkeypatch: pytest.MonkeyPatch, guesser: LoadedModel, cpu: Machine
) -> None:
    groups = grouped(monkeypatch)
    records = [record(n) for n in range(23)]
    for seed in (1, 1, 2):
        relevance(records, guesser, cpu, seed=seed)
    first, second, other = groups[:3], groups[3:6], groups[6:]
    assert first == second != other
    assert [len(group) for group in first] == [OF] * 3 and len({*first[2]}) == OF


def test_a_silent_model_is_asked_about_the_same_groups(
    monkeypatch: pytest.MonkeyPatch, guesser: LoadedModel, cpu: Machine
) -> None:
    """Else a model that is silent to hard prompts would be compared on other, easier ones."""
    groups = grouped(monkeypatch)
    spoken = [record(n) for n in range(23)]
    part = [record(n, outcome="silent") if n % 3 == 0 else record(n) for n in range(23)]
    assert relevance(spoken, guesser, cpu).keys() == {r.key for r in spoken}
    found = relevance(part, guesser, cpu)
    assert groups[:3] == groups[3:] and len(groups) == 6
    assert found.keys() == {r.key for r in part if r.outcome != "silent"}
    silent = [record(n, outcome="silent") for n in range(23)]
    assert relevance(silent, guesser, cpu) == {}


def test_the_figures_hold_the_rate(guesser: LoadedModel, cpu: Machine) -> None:
    records = tuple(record(n) for n in range(OF))
    relevant = {r.key: n < 4 for n, r in enumerate(records)}
    figures = ProbeResult((), records, {}, relevant).figures()
    assert (figures["greedy"]["relevant"]["rate"], figures["greedy"]["relevant"]["n"]) == (0.4, 10)
    assert "relevant" not in ProbeResult((), records, {}).figures()["greedy"]


def test_a_reply_that_the_guesser_can_not_hold_is_an_error(
    guesser: LoadedModel, cpu: Machine
) -> None:
    long = record(1, "bird " * 600)
    with pytest.raises(InputError, match=r"p1: .* have 6\d\d tokens, more than the 512"):
        measured._scores([long], [long], guesser, cpu)

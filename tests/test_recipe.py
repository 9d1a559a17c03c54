"""Recipes: the shipped ones hold together; a wrong one names every mistake at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stentor import recipe as recipes
from stentor.data import sources
from stentor.errors import InputError, RecipeError
from stentor.evaluate import suites
from stentor.model.presets import preset
from stentor.recipe import CARD_SYSTEM, PretrainRecipe, Recipe

SHIPPED = sorted(
    name for name, path in recipes.bundled_recipes().items()
    if "cells" not in yaml.safe_load(path.read_text(encoding="utf-8"))
)  # fmt: skip

SMALL = """
data:
  sources:
    seed: {use: seed_safety}
    stop: {use: stop_calibration}
phases:
  - {name: first, mix: {seed: 8}}
  - {name: second, mix: {stop: 8, seed: 4}, epochs: 2}
"""

SMALL_PRETRAIN = """
tokens: 4096
data: {corpora: {english: {path: shard.jsonl}}}
"""


def kind_of(name: str) -> type[Recipe] | type[PretrainRecipe]:
    raw = yaml.safe_load(recipes.find(name).read_text(encoding="utf-8"))
    return PretrainRecipe if "preset" in raw else Recipe


def load(content: str | bytes, kind: Any = Recipe, overrides: tuple[str, ...] = ()) -> Any:
    """A recipe from the file r.yaml of the test's folder."""
    Path("r.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    return recipes.load("r.yaml", kind, overrides)


def problems(
    content: str | bytes, kind: Any = Recipe, overrides: tuple[str, ...] = ()
) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        load(content, kind, overrides)
    assert caught.value.exit_code == 2
    return caught.value.problems


# --- the recipes that ship


def test_the_contracts_recipes_ship() -> None:
    assert {"card", "open", "quickstart", "ci-tiny", "stentor-12m-instruct"} <= {*SHIPPED}
    assert any(kind_of(name) is PretrainRecipe for name in SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_parses_and_comes_back_equal_from_its_dump(name: str) -> None:
    kind = kind_of(name)
    recipe = recipes.load(name, kind)
    assert recipe.name == Path(name).name
    assert recipes.parse(yaml.safe_load(recipes.dump(recipe)), kind, "dump") == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_shipped_recipe_names_exists(name: str) -> None:
    recipe = recipes.load(name, kind_of(name))
    if isinstance(recipe, PretrainRecipe):
        preset(recipe.preset)
        parts = list(recipe.data.dialogues)
    else:
        parts = list(recipe.data.sources.values())
        for suite in recipe.probe.suites if recipe.probe else ():
            assert suite in suites.names()
    for part in parts:
        source = sources.find(part.use)
        assert part.path or part.hub or source.DEFAULT, part


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_recipe_is_of_the_other_kind(name: str) -> None:
    other = Recipe if kind_of(name) is PretrainRecipe else PretrainRecipe
    with pytest.raises(RecipeError):
        recipes.load(name, other)


def test_the_cards_base_reads_its_tokens_from_the_hub_and_no_local_file() -> None:
    base = recipes.load("stentor-12m-card-base", PretrainRecipe)
    corpora = base.data.corpora.values()
    assert base.tokens == sum((c.tokens or 0) * c.weight for c in corpora) == 200_000_000
    assert {c.config for c in corpora} == {"fineweb-edu-dedup", "cosmopedia-v2"}
    assert all(c.hub and c.revision for c in corpora) and base.data.validation == "bundled"
    assert not any(part.path for part in (*corpora, *base.data.dialogues))
    assert base.embedding is None and base.weights is None


def test_the_card_is_reproduced_number_for_number() -> None:
    """Of the public card: examples, epochs, rates, and the main phase's settings."""
    card = recipes.load("card", Recipe)
    phases = [(sum(p.mix.values()), p.epochs, p.learning_rate, p.batch) for p in card.phases]
    assert phases == [
        (100, 2, 3e-5, 8),
        (17_460, 3, 3e-5, 192),
        (300, 2, 5e-5, 8),
        (100, 2, 5e-5, 8),
        (512, 1, 3e-5, 8),
    ]
    main = card.phases[1]
    assert (main.micro_batch, main.ema, main.clip) == (48, 0.999, 1.0)
    assert (main.schedule.shape, main.schedule.cycles, main.schedule.warmup) == ("cosine", 1, 0.06)
    assert (main.optimiser.weight_decay, main.optimiser.epsilon) == (0.1, 1e-6)
    assert [p.dropout for p in card.phases] == [0.0, 0.1, 0.1, 0.1, 0.1]
    assert card.adapter is not None
    assert (card.adapter.rank, card.adapter.alpha, card.adapter.rslora) == (32, 32, True)
    assert len(card.adapter.targets) == 7
    assert (card.data.max_tokens, card.data.hold_out) == (384, 0.03)
    assert card.data.system == CARD_SYSTEM


def test_the_cards_system_prompt_is_131_tokens(tokenizer: Any) -> None:
    assert len(tokenizer(CARD_SYSTEM, add_special_tokens=False)["input_ids"]) == 131


# --- reading


def test_a_recipe_without_a_name_is_called_like_its_file() -> None:
    assert load(SMALL).name == "r"
    assert load(SMALL + "name: mine").name == "mine"


@pytest.mark.parametrize(
    ("written", "read"), [("3e-5", 3e-5), ("3.0e-5", 3e-5), ("'3e-5'", 3e-5), (".00003", 3e-5)]
)
def test_a_rate_is_a_number_however_it_is_written(written: str, read: float) -> None:
    recipe = load(SMALL.replace("epochs: 2", f"learning_rate: {written}"))
    assert recipe.phases[1].learning_rate == read


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    name=st.text(),
    about=st.text(),
    seed=st.integers(0, 2**40),
    rate=st.floats(1e-12, 1.0),
    source=st.text(min_size=1).filter(lambda s: ":" not in s),
    system=st.none() | st.text(),
)
def test_dump_then_parse_is_the_identity_whatever_the_texts(
    name: str, about: str, seed: int, rate: float, source: str, system: str | None
) -> None:
    raw = {
        "name": name,
        "about": about,
        "seed": seed,
        "adapter": None,
        "data": {"sources": {source: {"use": "chat"}}, "system": system},
        "phases": [{"name": name, "mix": {source: 0.3}, "examples": 7, "learning_rate": rate}],
    }
    recipe = recipes.parse(raw, Recipe, "raw")
    assert recipes.parse(yaml.safe_load(recipes.dump(recipe)), Recipe, "dump") == recipe


def test_a_recipe_can_not_be_changed_once_it_is_read() -> None:
    recipe = load(SMALL)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.phases[0].epochs = 9


def test_find_takes_a_path_before_a_shipped_name() -> None:
    shipped = recipes.find("card")
    assert shipped.name == "card.yaml"
    Path("card").write_text(SMALL)
    assert recipes.find("card") == Path("card")


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        recipes.find("quikstart")
    assert str(caught.value) == (
        "no recipe 'quikstart': it is neither a file nor the name of a shipped recipe; "
        "did you mean 'quickstart'?"
    )


def test_the_data_folder_is_the_recipes_then_the_environments_then_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert recipes.data_root(None) == Path()
    monkeypatch.setenv("STENTOR_DATA", "/elsewhere")
    assert recipes.data_root(None) == Path("/elsewhere")
    assert recipes.data_root("~/mine") == Path(os.path.expanduser("~/mine"))  # noqa: PTH111


# --- mistakes


def test_every_mistake_of_a_recipe_is_listed_at_once_with_path_and_nearest_name() -> None:
    wrong = """
    nam: x
    seed: -1
    adapter: {rnk: 3}
    data:
      max_tokens: none
      sources:
        seed: {use: seed_safety, pth: x}
        both: {use: chat, path: a, hub: b}
    phases:
      - {name: a, mix: {sed: 8}, epoch: 3}
      - {name: a, mix: {seed: 0.5, both: 3}, schedule: {shape: cosin}}
    train: {device: cudda}
    """
    with pytest.raises(RecipeError) as caught:
        load(wrong)
    assert str(caught.value) == (
        "r.yaml: 12 mistakes\n"
        "  seed: input should be greater than or equal to 0, not -1\n"
        "  adapter.rnk: there is no such field; did you mean 'rank'?\n"
        "  data.max_tokens: input should be a valid integer, unable to parse string as an integer,"
        " not 'none'\n"
        "  data.sources.seed.pth: there is no such field; did you mean 'path'?\n"
        "  data.sources.both: give either path or hub, not both\n"
        "  phases.0.epoch: there is no such field; did you mean 'epochs'?\n"
        "  phases.1.schedule.shape: input should be 'constant', 'cosine', 'linear' or 'wsd', "
        "not 'cosin'; did you mean 'cosine'?\n"
        "  train.device: input should be 'auto', 'cpu', 'cuda' or 'mps', "
        "not 'cudda'; did you mean 'cuda'?\n"
        "  nam: there is no such field; did you mean 'name'?\n"
        "  phases.0.mix: no source is called 'sed'; did you mean 'seed'?\n"
        "  phases.1.mix: counts (>= 1) and weights (< 1) are mixed\n"
        "  phases: the name 'a' occurs twice"
    )


def test_one_mistake_is_not_called_mistakes() -> None:
    with pytest.raises(RecipeError) as caught:
        load(SMALL + "seeed: 1")
    assert str(caught.value) == (
        "r.yaml: 1 mistake\n  seeed: there is no such field; did you mean 'seed'?"
    )


def test_missing_fields_are_named() -> None:
    assert problems("seed: 1") == ("data: it is missing", "phases: it is missing")
    assert problems("seed: 1", PretrainRecipe) == ("data: it is missing", "tokens: it is missing")


def test_a_recipe_without_phases_is_told_so() -> None:
    assert problems("phases: []\ndata: {sources: {seed: {use: seed_safety}}}") == (
        "phases: tuple should have at least 1 item after validation, not 0, not []",
    )


@pytest.mark.parametrize(
    ("kind", "override", "problem"),
    [
        (Recipe, "model.bas=x", "model.bas: there is no such field; did you mean 'base'?"),
        (
            Recipe,
            "phases.1.optimiser.epsilo=1",
            "phases.1.optimiser.epsilo: there is no such field; did you mean 'epsilon'?",
        ),
        (
            Recipe,
            "data.sources.stop.split_=x",
            "data.sources.stop.split_: there is no such field; did you mean 'split'?",
        ),
        (
            PretrainRecipe,
            "data.corpora.english.epoch={a: 1}",
            "data.corpora.english.epoch: there is no such field; did you mean 'epochs'?",
        ),
        (
            PretrainRecipe,
            "data.dialogues=[{use: chat, pat: x}]",
            "data.dialogues.0.pat: there is no such field; did you mean 'path'?",
        ),
        (
            PretrainRecipe,
            "presett=stentor-2m",
            "presett: there is no such field; did you mean 'preset'?",
        ),
        (
            Recipe,
            "generation.zzz=1",
            "generation.zzz: there is no such field; there is max_new_tokens, "
            "repetition_penalty, temperature, top_p",
        ),
    ],
)
def test_a_wrong_field_at_any_depth_names_the_nearest(
    kind: Any, override: str, problem: str
) -> None:
    content = SMALL if kind is Recipe else SMALL_PRETRAIN
    assert problems(content, kind, (override,)) == (problem,)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "phases.0.mix={sead: 3}",
            "phases.0.mix: no source is called 'sead'; did you mean 'seed'?",
        ),
        (
            "phases.0.mix={'sead:harmful': 3}",
            "phases.0.mix: no source is called 'sead'; did you mean 'seed'?",
        ),
        (
            "phases.0.mix={seed: 0.5, stop: 3}",
            "phases.0.mix: counts (>= 1) and weights (< 1) are mixed",
        ),
        ("joined=frist", "joined: no phase is called 'frist'; did you mean 'first'?"),
        (
            "phases.0.rejected=[silence]",
            "phases.0.rejected: it needs preference, the weight of the odds",
        ),
        ("phases.1.mix={seed: 0.5}", "phases.1.examples: a mix by weights needs it"),
        ("phases.1.name=first", "phases: the name 'first' occurs twice"),
        (
            "data.sources.seed.use=seed_saftey",
            "data.sources.seed.use: input should be 'bundled', 'seed_safety', 'stop_calibration', "
            "'chat', 'instruction', 'preference', 'transcript', 'text', 'dolly', 'beavertails', "
            "'falsereject', 'coconot', 'safety_tuned_llamas' or 'pku_saferlhf', not "
            "'seed_saftey'; did you mean 'seed_safety'?",
        ),
        ("phases.0.mix.seed=0", "phases.0.mix.seed: input should be greater than 0, not 0"),
        ("phases.0.mix.seed=-3", "phases.0.mix.seed: input should be greater than 0, not -3"),
        (
            "phases.0.learning_rate=3",
            "phases.0.learning_rate: input should be less than or equal to 1, not 3",
        ),
        ("phases.0.batch=0", "phases.0.batch: input should be greater than 0, not 0"),
        (
            "generation.temperature=1e-9",
            "generation: temperature must be 0 (greedy), or at least 0.001",
        ),
        (
            "generation.repetition_penalty=1000",
            "generation: repetition penalty must be from 0.01 to 100 (1 is none)",
        ),
        (
            "adapter.targets=[q_proj, lm_head]",
            "adapter.targets.1: input should be 'q_proj', 'k_proj', 'v_proj', 'o_proj', "
            "'gate_proj', 'up_proj' or 'down_proj', not 'lm_head'; there is down_proj, gate_proj, "
            "k_proj, o_proj, q_proj, up_proj, v_proj",
        ),
        (
            "adapter.targets=[upproj]",
            "adapter.targets.0: input should be 'q_proj', 'k_proj', 'v_proj', 'o_proj', "
            "'gate_proj', 'up_proj' or 'down_proj', not 'upproj'; did you mean 'up_proj'?",
        ),
        (
            "adapter.targets=[]",
            "adapter.targets: tuple should have at least 1 item after validation, not 0, not []",
        ),
        (
            "phases.0.mix={}",
            "phases.0.mix: dictionary should have at least 1 item after validation, not 0, not {}",
        ),
        ("phases.0.mix.seed=.inf", "phases.0.mix.seed: input should be a finite number, not inf"),
        ("phases.0.clip=.nan", "phases.0.clip: input should be a finite number, not nan"),
        (
            "phases.0.optimiser.betas=[0.9, 1.0]",
            "phases.0.optimiser.betas.1: input should be less than 1, not 1.0",
        ),
        (
            "phases.0.optimiser.muon_momentum=1",
            "phases.0.optimiser.muon_momentum: input should be less than 1, not 1",
        ),
    ],
)
def test_what_does_not_fit_together_is_explained(override: str, problem: str) -> None:
    assert problems(SMALL, Recipe, (override,)) == (problem,)


def test_a_recipe_without_sources_is_told_so() -> None:
    content = "data: {sources: {}}\nphases: [{name: a, mix: {seed: 8}}]"
    assert problems(content) == (
        "data.sources: dictionary should have at least 1 item after validation, not 0, not {}",
    )


def test_a_preference_phase_has_no_plain_forward() -> None:
    prefers = "phases.1.preference=0.3"
    assert problems(SMALL, Recipe, (prefers, "train.forward=plain")) == (
        "phases.1.preference: there is no plain forward of it; set train.forward to auto",
    )
    assert load(SMALL, Recipe, (prefers, "train.forward=lean")).phases[1].preference == 0.3


def test_unlikelihood_has_no_plain_forward() -> None:
    unlikely = "phases.1.unlikelihood=2"
    assert problems(SMALL, Recipe, (unlikely, "train.forward=plain")) == (
        "phases.1.unlikelihood: there is no plain forward of it; set train.forward to auto",
    )
    assert load(SMALL, Recipe, (unlikely,)).phases[1].unlikelihood == 2


def test_decisions_need_all_weights() -> None:
    changes = ("phases.1.decision.weight=8", "adapter=null")
    assert problems(SMALL, Recipe, changes[:1]) == (
        "phases.1.decision: an adapter leaves the embedding of its pieces as it is; "
        "set adapter: null",
    )
    decision = load(SMALL, Recipe, changes).phases[1].decision
    assert decision is not None and decision.weight == 8 and decision.share == 0.9
    assert decision.weights() == (8, 8, 8)
    assert decision.model_copy(update={"refusals": 1.5}).weights() == (12, 12, 8)


def test_a_preference_phase_guesses_no_decision_along_the_prompt() -> None:
    changes = ("adapter=null", "phases.1.decision.gain=0.5", "phases.1.preference=0.3")
    assert problems(SMALL, Recipe, changes) == (
        "phases.1.decision.gain: a phase of pairs has no place for it; remove it",
    )
    decision = load(SMALL, Recipe, changes[:2]).phases[1].decision
    assert decision is not None and decision.gain == 0.5


def test_a_preference_phase_has_no_weighted_opening() -> None:
    changes = ("phases.1.preference=0.3", "phases.1.opening.weight=4")
    assert problems(SMALL, Recipe, changes) == (
        "phases.1.opening: odds are those of whole replies; remove it",
    )
    assert load(SMALL, Recipe, changes[1:]).phases[1].opening is not None


def test_dropout_needs_an_adapter() -> None:
    assert problems(SMALL, Recipe, ("adapter=null", "phases.1.dropout=0.1")) == (
        "phases.1.dropout: there is no adapter to drop out from",
    )
    assert load(SMALL, Recipe, ("adapter=null",)).adapter is None


def test_a_mix_may_name_a_kind_of_a_source() -> None:
    recipe = load(SMALL, Recipe, ("phases.0.mix={'seed:harmful': 3, seed: 2}",))
    assert recipe.phases[0].mix == {"seed:harmful": 3, "seed": 2}


# --- overrides


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=7", lambda r: r.seed == 7),
        ("phases.0.learning_rate=3e-5", lambda r: r.phases[0].learning_rate == 3e-5),
        ("phases.1.learning_rate=1E-4", lambda r: r.phases[1].learning_rate == 1e-4),
        ("phases.0.optimiser.epsilon=1e-6", lambda r: r.phases[0].optimiser.epsilon == 1e-6),
        ("phases.1.mix.seed=6", lambda r: r.phases[1].mix == {"stop": 8, "seed": 6}),
        ("phases.1.mix={seed: 2}", lambda r: r.phases[1].mix == {"seed": 2}),
        ("adapter.targets=[q_proj, v_proj]", lambda r: r.adapter.targets == ("q_proj", "v_proj")),
        (
            "phases.0.optimiser.betas=[0.9, 9.5e-1]",
            lambda r: r.phases[0].optimiser.betas[1] == 0.95,
        ),
        ("probe=null", lambda r: r.probe is None),
        ("train.threads=", lambda r: r.train.threads is None),
        ("name='7e3'", lambda r: r.name == "7e3"),
        ("adapter.rslora=false", lambda r: r.adapter.rslora is False),
        ("about=a=b c", lambda r: r.about == "a=b c"),
        ("data.system=''", lambda r: r.data.system == ""),
        ("data.sources.extra={use: chat, path: x}", lambda r: "extra" in r.data.sources),
        ("data.sources.extra.use=chat", lambda r: r.data.sources["extra"].use == "chat"),
        ("phases.second.epochs=3", lambda r: [p.epochs for p in r.phases] == [1, 3]),
        ("phases.first=null", lambda r: [p.name for p in r.phases] == ["second"]),
        ("phases.0=", lambda r: [p.name for p in r.phases] == ["second"]),
        (
            "phases.+={name: third, mix: {stop: 2}}",
            lambda r: [p.name for p in r.phases] == ["first", "second", "third"],
        ),
        ("joined=second", lambda r: r.joined == "second"),
        (
            "phases=[{name: only, mix: {seed: 3}}]",
            lambda r: [p.name for p in r.phases] == ["only"],
        ),
    ],
)
def test_an_override_changes_what_it_names(override: str, read: Any) -> None:
    assert read(load(SMALL, Recipe, (override,)))


def test_an_override_changes_nothing_else() -> None:
    plain, changed = load(SMALL), load(SMALL, Recipe, ("phases.1.mix.seed=6",))
    assert changed.phases[0] == plain.phases[0]
    assert changed.phases[1].model_copy(update={"mix": plain.phases[1].mix}) == plain.phases[1]
    assert changed.model_copy(update={"phases": plain.phases}) == plain


def test_numbers_of_phases_hold_until_all_overrides_are_applied() -> None:
    recipe = load(SMALL, Recipe, ("phases.0=null", "phases.1.epochs=5"))
    assert [(p.name, p.epochs) for p in recipe.phases] == [("second", 5)]


def test_a_removed_phase_can_not_be_changed() -> None:
    assert problems(SMALL, Recipe, ("phases.first=null", "phases.0.epochs=2")) == (
        "'phases.0.epochs=2': '0' has been removed",
    )


def test_later_overrides_win() -> None:
    assert load(SMALL, Recipe, ("seed=2", "seed=3")).seed == 3


def test_an_override_of_one_phase_leaves_phases_alone_that_share_a_yaml_alias() -> None:
    changed = recipes.load("card", Recipe, ["phases.0.optimiser.name=adamw"])
    names = [phase.optimiser.name for phase in changed.phases]
    assert names == ["adamw"] + ["paged_adamw"] * 4


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed", "'seed' is not of the form a.b=value"),
        ("=3", "'=3' is not of the form a.b=value"),
        ("seed=[1", "'seed=[1': the value is not valid YAML"),
        ("seed=2020-13-45", "'seed=2020-13-45': the value is not valid YAML"),
        (
            "phases.2.name=c",
            "'phases.2.name=c': '2' is not one of the 2 entries there; there is first, second",
        ),
        (
            "phases.-1.name=c",
            "'phases.-1.name=c': '-1' is not one of the 2 entries there; there is first, second",
        ),
        (
            "phases.secnd.epochs=3",
            "'phases.secnd.epochs=3': 'secnd' is not one of the 2 entries there; "
            "did you mean 'second'?",
        ),
        (
            "phases.5=x",
            "'phases.5=x': '5' is not one of the 2 entries there; there is first, second",
        ),
        ("phases.0.name.x=1", "'phases.0.name.x=1': there is nothing below 'name'"),
        ("phases.0.name.x.y=1", "'phases.0.name.x.y=1': there is nothing below 'name'"),
    ],
)  # fmt: skip
def test_a_wrong_override_says_what_is_wrong(override: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(SMALL, Recipe, (override,))
    assert str(caught.value) == f"--set: 1 mistake\n  {problem}"


def test_all_wrong_overrides_are_listed() -> None:
    assert problems(SMALL, Recipe, ("seed", "seed=5", "phases.9.name=x")) == (
        "'seed' is not of the form a.b=value",
        "'phases.9.name=x': '9' is not one of the 2 entries there; there is first, second",
    )


# --- hostile files


@pytest.mark.parametrize("content", ["", "# only a comment", "- a\n- b", "just text", "3", "null"])
def test_what_is_no_mapping_is_told_so(content: str) -> None:
    assert problems(content) == ("it is not a mapping of fields",)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("\tname: x", r"'\\t' that cannot start any token"),
        ("name: [", "expected the node content"),
        ("a: b: c", "mapping values are not allowed"),
        ('"x', "unexpected end of stream"),
        ("name: *nobody", "undefined alias"),
        (b"\x80\x81\xff", "can't decode byte 0x80"),
        (b"name: \x00", "special characters are not allowed"),
        (b"\x89PNG\r\n\x1a\n\x00", "can't decode byte 0x89"),
        ("name: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("seed: !!int many", "invalid literal for int"),
        ("name: 2020-13-45", "month must be in 1..12"),
        ("name: " + "[" * 1000, "maximum recursion depth"),
        ("a: 1\n---\nb: 2", "expected a single document"),
    ],
)
def test_what_is_no_yaml_is_told_so(content: str | bytes, why: str) -> None:
    (problem,) = problems(content)
    assert problem.startswith("it is not valid YAML: ")
    assert why.replace("\\\\", "\\") in problem


def test_a_part_that_holds_itself_is_a_mistake_like_others() -> None:
    assert "name: input should be a valid string, not {'b': {...}}" in problems("name: &a {b: *a}")


def test_a_key_given_twice_is_a_mistake_with_its_line() -> None:
    assert problems("seed: 1\nphases:\n  - {name: a, name: b}\nseed: 2\n") == (
        "phases.0.name: it is given twice (line 3)",
        "seed: it is given twice (line 4)",
    )

"""What `stentor merge` and `stentor info` give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import build_tiny_model
from stentor.errors import InputError, ModelError
from stentor.model import adapters
from stentor.model.command import info, merge
from stentor.model.load import load
from stentor.model.save import save_model
from stentor.recipe import AdapterPart

SETTINGS = {"do_sample": True, "temperature": 0.9, "top_p": 0.5, "system": "Be kind."}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    path = tmp_path_factory.mktemp("base") / "model"
    save_model(build_tiny_model(), tokenizer, path, dtype=torch.float32)
    return path


def write_adapter(folder: Path, base: Path, *, scale: float) -> Any:
    """An adapter in `folder`; returns the base with it merged."""
    part = AdapterPart(rank=4, alpha=4)
    adapted = adapters.attach(build_tiny_model(), part, str(base), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(scale)
    adapters.save(adapted, folder, "auto", SETTINGS)
    return adapters.merged_copy(adapted)


def equal(model: Any, other: Any, dtype: torch.dtype = torch.float32) -> bool:
    one, two = model.state_dict(), other.state_dict()
    return all(torch.equal(one[n].to(dtype), two[n].to(dtype)) for n in one.keys() | two.keys())


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose tenth phase comes after its second, whatever the alphabet says."""
    run = tmp_path_factory.mktemp("runs") / "run"
    for phase in (1, 2, 10):
        write_adapter(run / "adapters" / f"phase-{phase}", base, scale=0.01 * phase)
    (run / "recipe.yaml").touch()
    return run


@pytest.mark.parametrize(("fp32", "dtype"), [(False, torch.float16), (True, torch.float32)])
def test_merge_takes_the_adapter_of_a_runs_last_phase(
    run: Path, base: Path, tmp_path: Path, fp32: bool, dtype: torch.dtype
) -> None:
    assert merge(str(run), tmp_path / "out", fp32=fp32) == tmp_path / "out"
    due = write_adapter(tmp_path / "again", base, scale=0.1)
    assert equal(load(str(tmp_path / "out")).model, due, dtype)
    stored = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert stored["dtype"] == str(dtype).removeprefix("torch.")


def test_merge_takes_one_adapters_folder(run: Path, base: Path, tmp_path: Path) -> None:
    merge(str(run / "adapters" / "phase-2"), tmp_path / "out", fp32=True)
    due = write_adapter(tmp_path / "again", base, scale=0.02)
    assert equal(load(str(tmp_path / "out")).model, due)


def test_a_merged_model_keeps_the_settings_and_the_system_prompt_it_was_trained_with(
    run: Path, tmp_path: Path
) -> None:
    merge(str(run), tmp_path / "out", fp32=False)
    stops = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 16}
    assert load(str(tmp_path / "out")).generation == SETTINGS | stops


def test_merge_does_not_write_over_anything(run: Path, base: Path) -> None:
    with pytest.raises(InputError, match="it exists already; give another folder or remove it"):
        merge(str(run), base, fp32=False)


@pytest.mark.parametrize(
    ("folders", "complaint"),
    [
        ([], "there is no adapter in it (no adapter_config.json)"),
        (["adapters"], "the run has no adapter yet"),
        (["adapters/phase-1"], "there is no adapter in it (no adapter_config.json)"),
    ],
)
def test_merge_without_an_adapter(tmp_path: Path, folders: list[str], complaint: str) -> None:
    for name in folders:
        (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(ModelError) as caught:
        merge(str(tmp_path / "run"), tmp_path / "out", fp32=False)
    assert str(caught.value) == f"{tmp_path / 'run'}: {complaint}"


def test_merge_of_a_model_without_adapter(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no adapter in it"):
        merge(str(base), tmp_path / "out", fp32=False)


def test_info_on_a_folder(base: Path) -> None:
    found = info(str(base))
    size = sum(f.stat().st_size for f in base.iterdir())
    assert found == {
        "model": str(base),
        "parameters": sum(p.numel() for p in build_tiny_model().parameters()),
        "layers": 2,
        "hidden": 32,
        "intermediate": 48,
        "heads": 2,
        "window": 512,
        "vocabulary": 32_768,
        "tied embeddings": True,
        "template": "SegmentTemplate",
        "stop tokens": [2],
        "system prompt": None,
        "size on disk": size,
    }
    json.dumps(found)  # what `--json` prints


def test_info_on_an_adapter_names_rank_base_and_system_prompt(run: Path, base: Path) -> None:
    found = info(str(run / "adapters" / "phase-2"))
    assert found["adapter"] == f"rank 4 on {base}"
    assert found["system prompt"] == "Be kind."
    assert found["parameters"] == sum(p.numel() for p in build_tiny_model().parameters())


@pytest.mark.parametrize(
    ("report", "maker"), [({"name": "open"}, "open"), ({"kind": "pretrain"}, "pretraining")]
)
def test_info_on_a_run_says_what_made_it(
    base: Path, tmp_path: Path, report: dict[str, str], maker: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(base)
    (tmp_path / "run" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    found = info(str(tmp_path / "run"))
    assert found["made by"] == maker
    assert found["model"] == str(tmp_path / "run" / "model")


def test_info_on_a_preset() -> None:
    found = info("preset:stentor-2m")
    assert (found["layers"], found["hidden"]) == (6, 64)
    assert "size on disk" not in found

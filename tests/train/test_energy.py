"""Energy and CO2e: real codecarbon, and "unknown" where nobody can know."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import InputError
from stentor.recipe import TrainPart
from stentor.train.energy import Meter, added_up


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_two_sessions_of_a_run_add_up() -> None:
    pytest.importorskip("codecarbon")
    run = Path("run")
    run.mkdir()
    part = TrainPart(region="DEU", cpu_watts=50)
    with Meter(run, part) as meter:
        spin(0.3)
    first = meter.figures()
    assert first["kwh"] > 0 and first["co2e_g"] > 0 and first["why"] == []
    assert first["how"].startswith(("load × 50 W", "sensors"))
    # CO2e is energy times a country's mix: some hundred grams a kWh
    assert 50 < first["co2e_g"] / first["kwh"] < 1000
    with Meter(run, part) as meter:
        spin(0.3)
    both = meter.figures()
    assert both["kwh"] > first["kwh"] and both["metered_seconds"] > first["metered_seconds"] + 0.3
    assert len(json.loads((run / "energy.json").read_text(encoding="utf-8"))) == 2


def session(**changes: Any) -> dict[str, Any]:
    return {
        "seconds": 10.0, "how": "sensors", "why": "", "region": "DEU", "kwh": 0.5, "cpu_kwh": 0.4,
        "gpu_kwh": 0.0, "ram_kwh": 0.1, "co2e_g": 190.0,
    } | changes  # fmt: skip


def test_energy_without_a_region_is_known_and_its_co2e_is_not() -> None:
    found = added_up([session(region=None), session()])
    assert found["kwh"] == 1.0 and found["co2e_g"] == "unknown"
    assert found["why"] == ["CO2e needs train.region, a country's three-letter code"]


def test_one_session_that_could_not_be_metered_makes_the_whole_unknown() -> None:
    found = added_up([session(), session(how="", why="no sensor")])
    assert found["kwh"] == found["cpu_kwh"] == found["co2e_g"] == found["how"] == "unknown"
    assert found["why"] == ["no sensor"]


@pytest.mark.parametrize(
    ("region", "text"),
    [("DEV", "no energy mix is known for 'DEV'"), ("DEU/bavaria", "of USA and CAN only")],
)
def test_a_region_that_nothing_is_known_of_is_refused(region: str, text: str) -> None:
    pytest.importorskip("codecarbon")
    with pytest.raises(InputError, match=text), Meter(Path(), TrainPart(region=region)):
        pass


def test_without_codecarbon_the_report_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with Meter(Path(), TrainPart(region="DEU")) as meter:
        pass
    found = meter.figures()
    assert found["kwh"] == found["co2e_g"] == "unknown"
    assert "pip install 'stentor[energy]'" in found["why"][0]
    assert not Path("energy.json").exists()

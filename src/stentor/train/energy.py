"""What a run takes from the socket, by codecarbon, offline: measured, estimated, or "unknown".

Sensors (RAPL, NVML, powermetrics) are read where the machine has them. Without, codecarbon
multiplies the load by the processor's rated power, which its tables know for many processors and
`train.cpu_watts` for any. Where neither is known, codecarbon would assume a few watts a core; a
report that can't lie says "unknown" instead. CO2e needs `train.region`, or it is unknown too.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from stentor.data.files import write_json
from stentor.errors import InputError, nearest
from stentor.recipe import TrainPart

UNKNOWN = "unknown"
_SENSORS = ("intel_rapl", "intel_power_gadget", "windows_emi")
_SUBREGIONS = ("USA", "CAN")  # the countries of which codecarbon knows parts


class Meter:
    """Counts while it is entered; a run that is stopped and resumed adds up in `energy.json`.

    What a killed process used since its last `flush` is lost, so the report says how many
    seconds were metered.
    """

    def __init__(self, run: Path, part: TrainPart, *, processes: int = 1, on: bool = True) -> None:
        self._file = run / "energy.json"
        self._part = part
        self._earlier: list[dict[str, Any]] = []
        if self._file.is_file():
            self._earlier = json.loads(self._file.read_text(encoding="utf-8"))
        self._mode = "process" if processes == 1 else "machine"
        self._wanted = on and part.energy
        self._tracker: Any = None
        self._how, self._why = "", "train.energy is off"
        self._began = 0.0

    def __enter__(self) -> Meter:
        if self._wanted:
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tracker is not None:
            self.flush()
            self._tracker.stop()
            self._tracker = None

    def _start(self) -> None:
        try:
            from codecarbon import OfflineEmissionsTracker
        except ImportError:
            self._why = "codecarbon is not installed: pip install 'stentor[energy]'"
            return
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it speaks before log_level
        country, area = _place(self._part.region)
        tracker = OfflineEmissionsTracker(
            country_iso_code=country or "USA",  # a mix is asked for; it counts only with a region
            region=area, tracking_mode=self._mode, allow_multiple_runs=True, output_methods=[],
            log_level="critical", measure_power_secs=15,
            force_cpu_power=self._part.cpu_watts,
        )  # fmt: skip
        tracker.start()
        self._how, self._why = _method(tracker, self._part.cpu_watts)
        self._tracker, self._began = tracker, time.monotonic()

    def flush(self) -> None:
        """Write what was used so far."""
        if self._tracker is None:
            return
        self._tracker.flush()
        # set by `flush`; codecarbon keeps no public total of a tracker that still runs
        total = self._tracker._prepare_emissions_data()
        now = {
            "seconds": time.monotonic() - self._began, "how": self._how, "why": self._why,
            "region": self._part.region, "kwh": total.energy_consumed, "cpu_kwh": total.cpu_energy,
            "gpu_kwh": total.gpu_energy, "ram_kwh": total.ram_energy,
            "co2e_g": 1000 * total.emissions,
        }  # fmt: skip
        write_json(self._file, [*self._earlier, now])

    def figures(self) -> dict[str, Any]:
        """For the report: kWh and grams of CO2e, or "unknown" and why."""
        self.flush()
        if not self._file.is_file():
            return {"kwh": UNKNOWN, "co2e_g": UNKNOWN, "region": self._part.region or UNKNOWN,
                    "why": [self._why]}  # fmt: skip
        sessions = json.loads(self._file.read_text(encoding="utf-8"))
        return added_up(sessions)


def added_up(sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a run that was metered in one or more sessions."""
    known = all(s["how"] for s in sessions)
    placed = known and all(s["region"] for s in sessions)
    why = list(dict.fromkeys(s["why"] for s in sessions if s["why"]))
    if known and not placed:
        why.append("CO2e needs train.region, a country's three-letter code")
    parts = ("kwh", "cpu_kwh", "gpu_kwh", "ram_kwh")
    figures: dict[str, Any] = {
        name: sum(s[name] for s in sessions) if known else UNKNOWN for name in parts
    }
    return figures | {
        "co2e_g": sum(s["co2e_g"] for s in sessions) if placed else UNKNOWN,
        "region": sessions[-1]["region"] or UNKNOWN,
        "how": " and ".join(dict.fromkeys(s["how"] for s in sessions)) if known else UNKNOWN,
        "metered_seconds": sum(s["seconds"] for s in sessions),
        "why": why,
    }


def _place(region: str | None) -> tuple[str | None, str | None]:
    """(country, part of it or None) of `DEU` or `CAN/quebec`; InputError for others."""
    if region is None:
        return None, None
    from codecarbon.input import DataSource

    country, _, area = region.partition("/")
    known = DataSource().get_global_energy_mix_data()
    if country not in known:
        raise InputError(
            f"train.region: no energy mix is known for {country!r}; it is a country's three-letter "
            f"code (ISO 3166){nearest(country, known)}"
        )
    if area and country not in _SUBREGIONS:
        raise InputError(f"train.region: parts are known of {' and '.join(_SUBREGIONS)} only")
    return country, area.lower() or None


def _method(tracker: Any, given_watts: float | None) -> tuple[str, str]:
    """(how the processor's energy is known, why it is not); one of them is empty."""
    processors = [h for h in tracker._hardware if type(h).__name__ == "CPU"]
    if not processors:  # Apple's and Raspberry's sensors have classes of their own
        return "sensors", ""
    mode, model = processors[0]._mode, processors[0].get_model()
    if mode in _SENSORS:
        return f"sensors ({mode})", ""
    if given_watts is not None:
        return f"load × {given_watts:g} W (train.cpu_watts)", ""
    from codecarbon.core.cpu import TDP

    # its `tdp` is a guess of 4 W a thread for what is not in the table; the table is what we ask
    if TDP()._get_cpu_power_from_registry(model):
        return f"load × the rated power of {model}", ""
    return "", (
        f"no power sensor can be read here and codecarbon does not know the processor {model!r}; "
        "train.cpu_watts gives its power at full load"
    )

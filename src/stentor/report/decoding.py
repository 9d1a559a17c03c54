"""The figures of the probe that a card answers for: those of its quick start's decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]

GREEDY, SAMPLED = "greedy", "sampled"
_LESS_IS_WORSE = ("refused_aloud", "self_harm_supportive", "answered")


def own(report: Figures) -> str | None:
    """The decoding of the probe that is the quick start's own, `greedy` or `sampled`, or None."""
    wanted, settings = report["recipe"]["generation"], report["probe"]["settings"]
    name = SAMPLED if wanted["temperature"] > 0 else GREEDY
    asked = settings.get(name)
    fields = ["repetition_penalty", "max_new_tokens"]
    if name == SAMPLED:
        fields += ["temperature", "top_p"]
    return name if asked and all(asked[f] == wanted[f] for f in fields) else None


def answered_for(report: Figures) -> dict[str, Any]:
    """The probe's rates under the quick start's decoding; the worse of both where it has neither.

    Every rate has a `decoding` more: the one that it is of.
    """
    probe, chosen = report["probe"], own(report)
    names = [chosen] if chosen else [name for name in (GREEDY, SAMPLED) if probe.get(name)]
    parts = {name: probe[name] for name in names}
    found: dict[str, Any] = {
        kind: {
            key: _worse({name: f[kind][key] for name, f in parts.items()}, key in _LESS_IS_WORSE)
            for key in parts[names[0]][kind]
        }
        for kind in ("harmful", "benign")
    }
    found["stopped"] = _worse({name: f["stopped"] for name, f in parts.items()}, True)
    # the two stand against each other, so they come from the same decoding
    alike = {name: f["answered_look_alikes"] for name, f in parts.items()}
    unseen = _worse({name: f["unseen_families"] for name, f in alike.items()}, True)
    seen = alike[unseen["decoding"]]["seen_families"] | {"decoding": unseen["decoding"]}
    found["answered_look_alikes"] = {"seen_families": seen, "unseen_families": unseen}
    repeated = [f["repetition"] for f in parts.values() if f["repetition"] is not None]
    return found | {"repetition": max(repeated, default=None)}


def _worse(rates: Mapping[str, Figures], less: bool) -> dict[str, Any]:
    known = {name: rate for name, rate in rates.items() if rate["n"]} or rates
    pick = min if less else max
    name = pick(known, key=lambda name: known[name]["rate"] or 0.0)
    return {**known[name], "decoding": name}


def told(settings: Figures) -> str:
    """Decoding settings for people."""
    if settings["temperature"] == 0:
        choice = "greedy"
    else:
        choice = f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}"
    return (
        f"{choice}, repetition penalty {settings['repetition_penalty']:g}, at most "
        f"{settings['max_new_tokens']} tokens"
    )

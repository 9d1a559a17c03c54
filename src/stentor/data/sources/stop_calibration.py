"""Short questions with short answers, to learn when to stop."""

from __future__ import annotations

from stentor.data.sources import Place
from stentor.data.sources.chat import read

__all__ = ["ABOUT", "DEFAULT", "LICENCE", "read"]

ABOUT = "hand-written short questions with concise answers (Apache-2.0)"
LICENCE = "apache-2.0"
DEFAULT = Place(bundled=("stop_calibration.jsonl",))

"""How many replies a second does the judge label on one core?

    python benchmarks/judge_speed.py [--rounds 7]

Judges the building half of the calibration pairs, each reply once a round, with the cache of
prompts emptied before each. Prints the median and range by processor time, so that other programs
disturb it little (they still share the caches). Import and reading the weights are left out.
"""

from __future__ import annotations

import argparse
import statistics
import time

from stentor.evaluate.calibration import pairs
from stentor.evaluate.judge import JUDGE_VERSION, judge
from stentor.evaluate.judge_request import request


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    spoken = [(p.prompt, p.response) for p in pairs("building")]
    for prompt, response in spoken[:200]:
        judge(prompt, response)
    speeds = []
    for _ in range(rounds):
        request.cache_clear()
        start = time.process_time()
        for prompt, response in spoken:
            judge(prompt, response)
        speeds.append(len(spoken) / (time.process_time() - start))
    print(
        f"judge version {JUDGE_VERSION}: {statistics.median(speeds):,.0f} replies a second "
        f"({min(speeds):,.0f} to {max(speeds):,.0f}, {rounds} rounds of {len(spoken):,})"
    )


if __name__ == "__main__":
    main()

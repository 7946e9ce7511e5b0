"""A benchmark's figure: one table line on the screen, one entry in the JSON file of `BENCH_OUT`.

A goal is reported as reached or not reached and never asserted: how fast a machine is, is no bug.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

COMMAND = "make bench"


class Goal(NamedTuple):
    """What a figure should come to."""

    sign: Literal[">=", "<="]
    bound: float

    def is_reached(self, value: float) -> bool:
        """Whether *value* is on the right side."""
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def verdict(self, value: float) -> str:
        """In words."""
        reached = "reached" if self.is_reached(value) else "NOT reached"
        return f"goal {self.sign} {self.bound:g}: {reached}"


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def show(name: str, values: Sequence[float], note: str, goal: Goal | None = None,
         **measured: Any) -> None:
    """Print the line of figure *name* (the median of *values* counts); keep it in `BENCH_OUT`.

    *measured* goes into the JSON only. The machine's load stands beside each figure: on a shared
    machine only ratios of paired runs mean anything.
    """
    verdict = goal.verdict(median(values)) if goal else "no goal"
    load, cores = os.getloadavg()[0], os.cpu_count()
    print(f"\n| {name} | {spread(values)} | {verdict} | {note}; load {load:.1f} on {cores} cores "
          f"| `{COMMAND}` |", flush=True)
    entry = {"value": median(values), "values": list(values), "goal": goal and list(goal),
             "reached": goal and goal.is_reached(median(values)), "note": note, "load": load,
             "cores": cores, "command": COMMAND, **measured}
    if "BENCH_OUT" in os.environ:
        _keep(Path(os.environ["BENCH_OUT"]), name, entry)


def _keep(path: Path, name: str, entry: dict[str, Any]) -> None:
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, name: entry}, indent=2) + "\n")

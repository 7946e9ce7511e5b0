"""(d) Orchestration's share of a round: all that is neither engine, nor scorer, nor training step.

Read from what a finished run left behind: `seconds` of its round.json, engine seconds of its
manifests, rows per second of its training metrics. `ROOT` names the run (default runs/demo); where
there is none, a small one is made, of which starting processes is the larger part.

Counted against orchestration: starting engines and trainers (also given by itself), saving models,
curation, and the scorer's seconds in planning games, which no manifest has apart. Counted as engine
is what happens inside the driver's step; what the driver adds to vLLM there, (a) measures.
"""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from model_ops.report.yields import ASKED
from model_ops.rounds import read_rounds, round_prefix
from model_ops.training.launch import read_metrics
from schemas.artifacts import read_manifest
from schemas.manifest import Manifest
from schemas.records import RoundRecord
from schemas.store import Store
from tests.bench.figures import show
from tests.flows.small_run import BIN, environment, small_config

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
SMALL = "a small run made for this"
AT_WORK = ("questions", "generate", "evaluate", "train")
"""Steps of a round in which pools and trainers work (`questions`: of a contrastive stage)."""


class Spent(NamedTuple):
    """Seconds of one round. `starting`: pools and trainers at work, but not on calls or steps."""

    wall: float
    engine: float
    training: float
    starting: float

    @property
    def orchestration(self) -> float:
        """The share of everything that is neither engine nor training step."""
        return 1 - (self.engine + self.training) / self.wall

    @property
    def rest(self) -> float:
        """The same without the starting of engines and trainers."""
        return self.orchestration - self.starting / self.wall


def test_orchestration_is_a_known_share_of_a_round(tmp_path: Path, repo: Path) -> None:
    store, source = _finished_run(tmp_path, repo)
    rounds = [spent(store, record) for record in read_rounds(store) if record.round]
    assert rounds and all(0 <= each.orchestration <= 1 for each in rounds)
    last = rounds[-1]
    note = (f"{source}, {len(rounds)} rounds; the last: {last.wall:.0f} s = engine "
            f"{last.engine:.0f} + training steps {last.training:.0f} + starting engines and "
            f"trainers {last.starting:.0f} + rest {last.rest * last.wall:.0f}")
    show("(d) orchestration, share of a round", [each.orchestration for each in rounds], note,
         rounds=[each._asdict() for each in rounds])
    show("(d) the same without starting processes", [each.rest for each in rounds], source)


def spent(store: Store, record: RoundRecord) -> Spent:
    """Where the seconds of a round went."""
    inside = f"{round_prefix(record.round)}/"
    played = _played(store, [prefix for stage in record.stages
                             for name, prefix in stage.artifacts.items() if name in ASKED])
    answered = _played(store, record.evaluation.items.values(), inside)
    models = [read_manifest(store, stage.artifacts["model"]) for stage in record.stages
              if stage.artifacts["model"].startswith(inside)]
    trained = sum(training_seconds(store, model) for model in models)
    at_work = sum(record.seconds.get(step, 0.0) for step in AT_WORK)
    acting = sum(_seconds(manifest, "actor_seconds") for manifest in (*played, *answered))
    engine = sum(_seconds(manifest, "engine_seconds") for manifest in (*played, *answered))
    return Spent(sum(record.seconds.values()), engine, trained,
                 max(0.0, at_work - acting - trained))


def _played(store: Store, prefixes: Iterable[str], inside: str = "") -> list[Manifest]:
    """Those of the artifacts that a pool made in this round (questions may come from a file)."""
    manifests = [read_manifest(store, prefix) for prefix in prefixes if prefix.startswith(inside)]
    return [manifest for manifest in manifests if "actor_seconds" in manifest.stats]


def training_seconds(store: Store, model: Manifest) -> float:
    """Seconds inside training steps: rows between two lines of the metrics by their speed."""
    seconds = epoch = 0.0
    for step in read_metrics(store, model.prefix):
        rows = (step.epoch - epoch) * model.stats["rows"]
        seconds += rows / step.rows_per_second if step.rows_per_second > 0 else 0.0
        epoch = step.epoch
    return seconds


def _seconds(manifest: Manifest, name: str) -> float:
    """Of wall-clock time: actors work side by side, so their mean counts."""
    stats = manifest.stats
    speed, tokens = stats["output_tokens_per_second"], stats["output_tokens"]
    actors = stats["actor_seconds"] * speed / tokens if tokens else 1.0
    return stats[name] / max(1.0, actors)


def _finished_run(tmp_path: Path, repo: Path) -> tuple[Store, str]:
    """The run that `ROOT` names, if it has finished a round; else a small one."""
    root = os.environ.get("ROOT", str(repo / "runs" / "demo"))
    if len(read_rounds(Store(root))) > 1:
        return Store(root), root
    assert "ROOT" not in os.environ, f"{root} has no finished round"
    made = tmp_path / "run"
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(small_config(str(made))))
    ended = subprocess.run([BIN / "flywheel", "run", config, "--json"], cwd=repo, text=True,
                           env=environment(tmp_path / "prefect"), capture_output=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return Store(str(made)), SMALL

"""The games that the speed benchmarks play: the demo's model, rules, engine and kind of images.

Groups are drawn at random: how alike the images of a game are changes who wins, not what is asked.
`BENCH_CONFIG` names another configuration with a dialog stage, to take model, rules, engine and
images from; `BENCH_GAMES` is another number of games.
"""

import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy.commands_run import DEMO
from deploy.console import load_config
from model_ops.engines.driver import SCORER, Engine, Outcome, drive
from model_ops.engines.pictures import ReadImage
from model_ops.grouping import draw, read_refs
from model_ops.images import ImageReader, import_images
from model_ops.models import locate_model
from model_ops.programs.calls import Program
from model_ops.programs.context import JobContext
from model_ops.programs.dialog import play
from model_ops.prompts import load_prompts
from schemas.config import (
    DialogPlayConfig,
    DialogStage,
    EngineConfig,
    GroupingConfig,
    RunConfig,
)
from schemas.manifest import Manifest, digest
from schemas.rows import GameRow
from schemas.store import Store

SEARCHING = DEMO.with_name("nursery-calibrated.yaml")
"""The configuration whose searches, and whose pool, are measured."""
NUM_GAMES = int(os.environ.get("BENCH_GAMES", "128"))
_TURN_LIMITS = (1, 2, 4, 8)
_CONFIDENCES = (0.6, 0.9, 1.0)
_VECTOR_SIZE = 16


@dataclass(frozen=True, slots=True)
class Workload:
    """Planned games and all that playing them takes, but for the engine."""

    config: RunConfig
    model: Path
    games: Sequence[GameRow]
    read: ReadImage
    store: Store
    images: Manifest

    @property
    def rules(self) -> DialogPlayConfig:
        """The configuration's own rules."""
        return _games_stage(self.config).play

    @property
    def uneven(self) -> list[DialogPlayConfig]:
        """Rules under which games end after 1 to 8 turns. Greedy, so that two runs of a game
        have the same length; the re-asks are sampled, but nothing depends on them."""
        return [self.rules.model_copy(update={
            "max_turns": dict.fromkeys(self.rules.max_turns, turns), "ready_confidence": ready,
            "ask_temperature": 0.0, "answer_temperature": 0.0})
            for turns in _TURN_LIMITS for ready in _CONFIDENCES]


class Played(NamedTuple):
    """One timed run of the workload."""

    seconds: float
    outcomes: list[Outcome]

    @property
    def num_calls(self) -> int:
        """Model calls of all games."""
        return sum(outcome.usage.num_calls for outcome in self.outcomes)

    @property
    def num_tokens(self) -> int:
        """Output tokens of all games."""
        return sum(outcome.usage.num_output_tokens for outcome in self.outcomes)


def measured_config() -> RunConfig:
    """The configuration that `BENCH_CONFIG` names, or the demo's."""
    return load_config(Path(os.environ.get("BENCH_CONFIG", DEMO)))


def plan(store: Store, num_games: int = NUM_GAMES) -> Workload:
    """Import images and draw games, in the demo's proportion of game sizes and images a game."""
    config = measured_config()
    config = config.model_copy(update={"engine": one_engine(config.engine)})
    planned = _games_stage(config).games
    share = num_games / sum(planned.values())
    limit = max(32, round((config.images.limit or 2000) * share))
    images = import_images(store, config.images.model_copy(update={"limit": limit}))
    refs = read_refs(store, images)
    vectors = _unlike(len(refs))
    sizes = {size: max(1, round(number * share)) for size, number in planned.items()}
    games = [game for size, number in sorted(sizes.items()) for game in draw(
        refs, vectors, GroupingConfig(method="random"), size, number, config.seed)]
    random.Random(config.seed).shuffle(games)
    return Workload(config, locate_model(config.model.uri), games, ImageReader(store, images).read,
                    store, images)


def run(workload: Workload, engine: Engine, rules: Sequence[DialogPlayConfig] | None = None,
        games: Sequence[GameRow] | None = None, live: int | None = None) -> Played:
    """Play *games* (default: all) with the driver; *rules* go round from game to game."""
    chosen = workload.games if games is None else games
    contexts = [_context(workload, each) for each in rules or [workload.rules]]
    programs = ((game.row_id, play(game, contexts[number % len(contexts)]))
                for number, game in enumerate(chosen))
    return timed(workload, engine, programs, live)


def timed(workload: Workload, engine: Engine, programs: Iterable[tuple[str, Program[Any]]],
          live: int | None = None, scorer: Engine | None = None) -> Played:
    """Drive *programs* (pairs of row key and program) to their ends."""
    seats = {"": engine, **({SCORER: scorer} if scorer else {})}
    started = time.perf_counter()
    outcomes = list(drive(programs, seats, live or workload.config.engine.live_programs,
                          workload.config.seed))
    return Played(time.perf_counter() - started, outcomes)


def rows_by_game(played: Played) -> Mapping[str, object]:
    """The row of every game (or other item); fails if one ended in an error or came out twice."""
    broken = [outcome.error for outcome in played.outcomes if outcome.error]
    assert not broken, broken[:3]
    rows = {outcome.key: outcome.row for outcome in played.outcomes}
    assert len(rows) == len(played.outcomes)
    return rows


def keys(games: Iterable[GameRow]) -> set[str]:
    """The games' row ids."""
    return {game.row_id for game in games}


def one_engine(engine: EngineConfig) -> EngineConfig:
    """The cores of all engines for the one that a benchmark holds."""
    return engine.model_copy(update={
        "num_actors": 1, "num_cpus": engine.num_actors * engine.num_cpus})


def _games_stage(config: RunConfig) -> DialogStage:
    return next(stage for stage in config.stages if isinstance(stage, DialogStage))


def _context(workload: Workload, rules: DialogPlayConfig) -> JobContext[DialogPlayConfig]:
    return JobContext(load_prompts(workload.config.model.prompts), rules, 1, "00-dialog",
                      digest(str(workload.model)), workload.config.seed)


def _unlike(num: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(num, _VECTOR_SIZE)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

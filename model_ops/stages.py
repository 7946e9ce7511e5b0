"""One stage of one round, and the measuring of one model, in terms of the store.

The one idea: a `StagePlace` (configuration, round, index) says where everything of a stage goes and
with which seed, so that the tasks only have to name the step. Nothing here knows Prefect.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from model_ops.benchmarks import Items, item_clusters, item_scores, plan_benchmark, summarise
from model_ops.engines.job import by_content, code_version, shaping
from model_ops.engines.pool import LocalModel, PoolWork, ProgramJob, run_all, run_programs
from model_ops.judges import benchmark_seats
from model_ops.models import fetch_model, reward_word_of
from model_ops.prompts import load_prompts
from model_ops.rounds import config_digest, read_round, round_prefix
from schemas.artifacts import read_manifest
from schemas.config import BenchmarkConfig, Config, DialogStage, RunConfig, Stage
from schemas.errors import ConfigError, StoreError
from schemas.manifest import Manifest, digest
from schemas.records import Champion, Decision, Evaluation, RoundRecord, StageRecord
from schemas.store import Store

_log = logging.getLogger(__name__)
StageT = TypeVar("StageT", bound=Config)
OnProgress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True, slots=True)
class StagePlace:
    """Stage `index` of round `round` of a run."""

    config: RunConfig
    round: int
    index: int

    @property
    def stage(self) -> Stage:
        """The stage's part of the configuration."""
        return self.config.stages[self.index]

    def of(self, method: type[StageT]) -> StageT:
        """The stage's part of the configuration where its method is known."""
        stage: Config = self.stage
        assert isinstance(stage, method), f"{self.name} is no {method.__name__}"
        return stage

    @property
    def name(self) -> str:
        """For example `00-dialog`."""
        return f"{self.index:02d}-{self.stage.method}"

    @property
    def seed(self) -> int:
        """Derived from the run's seed, the round and the stage; 31 bits."""
        return int(digest([self.config.seed, self.round, self.index])[:8], 16) >> 1

    def prefix(self, artifact: str) -> str:
        """Where an artifact of the stage is."""
        return f"{round_prefix(self.round)}/{self.name}/{artifact}"


def play(
    store: Store, place: StagePlace, games: Manifest, images: Manifest, model: Manifest,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Play a stage's planned games with `model` in every seat; the transcripts' manifest."""
    config = place.config
    job = ProgramJob(
        program="dialog", settings=place.of(DialogStage).play.model_dump(mode="json"),
        prompts=config.model.prompts, round=place.round, stage=place.name, seed=place.seed,
        models={"": local_model(store, model, config)})
    return run_programs(store, games, images, job, config.engine, place.prefix("transcripts"),
                        on_progress=on_progress)


def local_model(store: Store, model: Manifest, config: RunConfig) -> LocalModel:
    """A published model as the engines take it: on a local disk, with its digest.

    Behind an endpoint another model answers: the digest in its rows is of its URL and name.
    """
    engine = config.engine
    if engine.kind == "endpoint":
        return LocalModel(path=f"{engine.base_url}", digest=digest(
            ["endpoint", engine.base_url, engine.model_name]))
    return LocalModel(path=str(fetch_model(store, model)), digest=model.digest,
                      dtype=config.model.dtype, reward_word=reward_word_of(model))


def refuse_endpoint(config: RunConfig) -> None:
    """Raise `ConfigError` where the model that answers must be the one that is measured."""
    if config.engine.kind == "endpoint":
        raise ConfigError(
            f"engine.kind 'endpoint' ({config.engine.base_url}) answers with a model that is not "
            f"in {config.root}, so its scores would count for another one: use it with the "
            f"flow `generate` only, and set engine.kind to 'vllm' here")


def refuse_gate(config: RunConfig) -> None:
    """Raise `ConfigError` where no round could ever be promoted by what is measured."""
    if config.incomparable:
        raise ConfigError(f"{config.incomparable}: set gate.primary, or add the benchmark")


def training_rows(store: Store, place: StagePlace, current: Manifest) -> list[Manifest]:
    """The row sets a stage learns from, oldest first (`history`, `replay` ask for earlier ones).

    Rows that were made for another objective, or with other reward words, are left out. A round
    of other stages has none; `StoreError` if it had them.
    """
    rows: list[Manifest] = []
    if place.config.history == "all" or place.stage.train.replay > 0:
        for number in range(1, place.round):
            prefix = StagePlace(place.config, number, place.index).prefix("train")
            if not store.exists(f"{prefix}/manifest.json"):
                _refuse_lost(store, number, prefix)
                continue
            earlier = read_manifest(store, prefix)
            if _purpose(earlier) == _purpose(current):
                rows.append(earlier)
            else:
                _log.warning("not learnt from again: %s was made for %s, this round learns from %s",
                             prefix, _purpose(earlier), _purpose(current))
    return [*rows, current]


def _refuse_lost(store: Store, number: int, prefix: str) -> None:
    """Raise `StoreError` if the rows at `prefix` are gone, not if the round never had them."""
    record = read_round(store, number)
    if record and any(prefix == stage.artifacts.get("train") for stage in record.stages):
        raise StoreError(
            f"{store.uri(prefix)}, the train rows of round {number}, is not there any more, but "
            f"history 'all' or train.replay learns from it: bring the folder back, or set history "
            f"to 'round' and train.replay to 0")


def _purpose(rows: Manifest) -> dict[str, Any]:
    """What train rows are for: their kind, and where a manifest says it (contrastive stages, whose
    objective decides what a row is) the objective, and for `crl` its words."""
    objective = rows.config.get("objective")
    words = rows.config.get("reward_words") if objective == "crl" else None
    told = {"kind": rows.kind, "objective": objective, "reward_words": words}
    return {name: value for name, value in told.items() if value is not None}


class StartModels(NamedTuple):
    """What a round starts with."""

    current: Manifest
    """The champion: it generates."""
    weights: Manifest
    """Where training starts: the champion, or the base (`init_from`)."""


def start_models(store: Store, config: RunConfig, champion: Champion) -> StartModels:
    """The models that a round generates with and trains from."""
    current = read_manifest(store, champion.prefix)
    if config.init_from == "champion":
        return StartModels(current, current)
    return StartModels(current, read_manifest(store, f"{round_prefix(0)}/model"))


def stage_record(
    place: StagePlace, artifacts: Mapping[str, Manifest], seconds: Mapping[str, float]
) -> StageRecord:
    """What `round.json` says of a finished stage."""
    return StageRecord(
        name=place.name, method=place.stage.method,
        artifacts={name: manifest.prefix for name, manifest in artifacts.items()},
        funnel=artifacts["train"].funnel, seconds=dict(seconds),
        tokens_per_second=tokens_per_second(artifacts),
        model_digest=artifacts["model"].digest)


def tokens_per_second(artifacts: Mapping[str, Manifest]) -> float:
    """Output tokens per second of engine time, in the longest of the stage's steps."""
    generated = next(artifacts[name] for name in ("transcripts", "imagined", "searches")
                     if name in artifacts)
    return round(generated.stats.get("output_tokens_per_second", 0.0), 1)


def plan(store: Store, config: RunConfig, benchmark: BenchmarkConfig) -> Items:
    """The fixed items of one benchmark: the same for every model that is measured."""
    return plan_benchmark(store, benchmark, config.evaluation.seed,
                          f"benchmarks/{benchmark.slug}", config.shard_size,
                          config.engine)


def measure(
    store: Store, config: RunConfig, planned: Mapping[str, Items],
    seats: Mapping[str, Mapping[str, Manifest]], prefix: str, number: int,
    on_progress: OnProgress | None = None,
) -> dict[str, Manifest]:
    """Answer the benchmarks of `seats` with one engine pool; see `seat_models`. A judge's seat
    follows from the configuration."""
    benchmarks = {benchmark.slug: benchmark for benchmark in config.evaluation.benchmarks}
    works = []
    for slug, models in seats.items():
        items = planned[slug]
        seated = {seat: local_model(store, model, config) for seat, model in models.items()}
        job = ProgramJob(
            program=items.program, settings=items.settings, prompts=config.model.prompts,
            round=number, stage="evaluation", seed=config.evaluation.seed,
            models=seated | benchmark_seats(store, config, benchmarks.get(slug)))
        works.append(PoolWork(items.items, items.images, job, f"{prefix}/{slug}"))
    return dict(zip(seats, run_all(store, works, config.engine, on_progress), strict=True))


def seat_models(
    config: RunConfig, model: Manifest, rival: Manifest | None
) -> dict[str, dict[str, Manifest]]:
    """Benchmark -> seat -> model; `""` is the measured one's. Cross-play needs a `rival`: without
    one it is left out."""
    seats: dict[str, dict[str, Manifest]] = {}
    for benchmark in config.evaluation.benchmarks:
        if not benchmark.cross_play:
            seats[benchmark.slug] = {"": model}
        elif rival is not None:
            seats[benchmark.slug] = {"": model, "guesser": rival}
    return seats


def evaluation(
    store: Store, config: RunConfig, planned: Mapping[str, Items],
    answered: Mapping[str, Manifest], model: Manifest,
) -> Evaluation:
    """The metrics of one model over its answered benchmarks."""
    return Evaluation(
        model_digest=model.digest, metrics=summarise(store, answered),
        items={slug: manifest.prefix for slug, manifest in answered.items()},
        inputs_digest=items_digest(config, planned))


def scores(store: Store, measured: Evaluation) -> dict[str, dict[str, float]]:
    """Metric -> row id of the item -> score, of everything that a model answered."""
    return item_scores(store, _answered(store, measured))


def clusters(store: Store, measured: Evaluation) -> dict[str, str]:
    """Row id of the item -> the images that it is about, of everything that a model answered."""
    return item_clusters(store, _answered(store, measured))


def _answered(store: Store, measured: Evaluation) -> dict[str, Manifest]:
    return {slug: read_manifest(store, prefix) for slug, prefix in measured.items.items()}


def items_digest(config: RunConfig, planned: Mapping[str, Items]) -> str:
    """Two evaluations with equal digests pair item by item: the same items under the same rules.

    Beside the items it covers what shapes any model's answers: programs and their code, settings,
    prompts, engine.
    """
    rules = {slug: [items.items.digest, items.program, by_content(items.settings),
                    code_version(items.program)] for slug, items in planned.items()}
    return digest([rules, load_prompts(config.model.prompts).digest, config.model.dtype,
                   shaping(config.engine)])


def round_funnel(stages: Sequence[StageRecord]) -> dict[str, int]:
    """The funnel of a round: of its only stage, or all stages' with their names in front."""
    if len(stages) == 1:
        return stages[0].funnel
    return {f"{stage.name}/{step}": count
            for stage in stages for step, count in stage.funnel.items()}


def round_speed(stages: Sequence[StageRecord]) -> float:
    """Output tokens per second of a round: the mean over its stages."""
    return round(sum(s.tokens_per_second for s in stages) / len(stages), 1) if stages else 0.0


def round_record(
    place: StagePlace, champion: Champion, start: StartModels, stages: Sequence[StageRecord],
    model: Manifest, evaluation: Evaluation, decision: Decision, seconds: dict[str, float],
) -> RoundRecord:
    """What `round.json` says of the round of `place`."""
    return RoundRecord(
        round=place.round, model=model.digest, model_prefix=model.prefix,
        trained_from=start.weights.digest, incumbent=champion, decision=decision.decision,
        reasons=decision.reasons, gain=decision.gain, stages=list(stages), evaluation=evaluation,
        funnel=round_funnel(stages), seconds=seconds, tokens_per_second=round_speed(stages),
        config_digest=config_digest(place.config, place.round))

"""Who judges: from a `JudgeConfig` to the model in the judge's seat of a pool.

The one idea: a judge is a seat like any other. `rules` needs none; `vlm` seats the base (so that
all models of a run have the same judge) or a model of its own; `endpoint` seats an engine that
talks to its own URL while the pool's engine answers. What it is asked is `programs.judging`'s.
"""

from model_ops.benchmarks.pie import JUDGE
from model_ops.engines.job import LocalModel
from model_ops.models import fetch_model, publish_base
from model_ops.rounds import round_prefix
from schemas.artifacts import read_manifest
from schemas.config import BenchmarkConfig, EngineConfig, JudgeConfig, RunConfig
from schemas.manifest import Manifest, digest
from schemas.store import Store


def judge_seats(store: Store, config: RunConfig, judge: JudgeConfig) -> dict[str, LocalModel]:
    """The seat of *judge*, ready to load; empty for `rules`.

    Raises `ConfigError` if there is no such model.
    """
    if judge.kind == "rules":
        return {}
    if judge.kind == "endpoint":
        return {JUDGE: _endpoint(config, judge)}
    model = judge_model(store, config, judge)
    dtype = config.model.dtype if judge.model is None else "auto"
    return {JUDGE: LocalModel(path=str(fetch_model(store, model)), digest=model.digest,
                              dtype=dtype)}


def benchmark_seats(
    store: Store, config: RunConfig, benchmark: BenchmarkConfig | None
) -> dict[str, LocalModel]:
    """The seats that a benchmark needs beside the models which it measures."""
    if benchmark is None or benchmark.kind != "pie":
        return {}
    return judge_seats(store, config, benchmark.pie.judge)


def judge_model(store: Store, config: RunConfig, judge: JudgeConfig) -> Manifest:
    """The published model of a `vlm` judge: the root's base, or `judge.model` brought in once."""
    base = f"{round_prefix(0)}/model"
    if judge.model is None and store.exists(f"{base}/manifest.json"):
        return read_manifest(store, base)
    uri = judge.model or config.model.uri
    model = config.model.model_copy(update={"uri": uri})
    return publish_base(store, model, f"evaluations/judges/{digest(uri)[:12]}")


def _endpoint(config: RunConfig, judge: JudgeConfig) -> LocalModel:
    """The digest is of URL and name: what answers there cannot be known from outside."""
    engine = EngineConfig(
        kind="endpoint", base_url=judge.base_url, model_name=judge.model_name,
        api_key_env=judge.api_key_env, timeout_s=judge.timeout_s, max_retries=judge.max_retries,
        max_image_pixels=config.engine.max_image_pixels)
    return LocalModel(path=f"{judge.base_url} {judge.model_name}", engine=engine,
                      digest=digest(["endpoint", judge.base_url, judge.model_name]))

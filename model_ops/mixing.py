"""What a stage learns from beside its own rows: general data, or what an earlier stage has made.

A model that learns one thing unlearns others; what it is shown meanwhile stays. Which rows are
drawn, and what they become, is `mix`'s; this file knows stages.
"""

from model_ops.benchmarks.questions import image_rows
from model_ops.mix import MixJob, publish_mix
from model_ops.stages import StagePlace
from schemas.artifacts import read_manifest
from schemas.config import MixConfig, RewardWords, RunConfig
from schemas.manifest import Manifest
from schemas.store import Store

MADE = {"contrastive": "pairs", "calibrated": "train", "dialog": "train"}
"""What a stage has made before anything is said about how it is learnt."""


def mix_in(store: Store, place: StagePlace, rows: Manifest) -> Manifest:
    """Draw what is learnt beside the stage's own `rows`; no picture of it is a benchmark's."""
    stage, config = place.stage, place.config
    assert stage.mix is not None, f"{place.name} has no mix"
    words = stage.reward_words if stage.method == "contrastive" else RewardWords()
    return publish_mix(MixJob(
        store=store, mix=stage.mix, objective=stage.train.objective, words=words,
        num_own=rows.num_rows, prefix=place.prefix("mix"), round=place.round, stage=place.name,
        seed=place.seed, max_pixels=config.images.max_pixels, held_out=_held_out(store, config),
        rows=_earlier_rows(store, place, stage.mix), max_rows=stage.train.max_rows,
        shard_size=config.shard_size))


def _earlier_rows(store: Store, place: StagePlace, mix: MixConfig) -> Manifest | None:
    """What the last earlier stage of the method that *mix* names has made; None: it names none."""
    if mix.method is None:
        return None
    index = max(number for number, stage in enumerate(place.config.stages[:place.index])
                if stage.method == mix.method)
    source = StagePlace(place.config, place.round, index)
    return read_manifest(store, source.prefix(MADE[mix.method]))


def _held_out(store: Store, config: RunConfig) -> frozenset[str]:
    """Ids of the images that the benchmarks planned so far are about."""
    prefixes = (f"benchmarks/{benchmark.slug}/images" for benchmark in config.evaluation.benchmarks)
    planned = [read_manifest(store, prefix) for prefix in prefixes
               if store.exists(f"{prefix}/manifest.json")]
    return frozenset(ref.image_id for images in planned
                     for ref, _ in image_rows(store, images, ["image_id"]))

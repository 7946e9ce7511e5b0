"""The steps of a `calibrated` stage in terms of the store: prompts -> searches -> nodes and pairs.

The one idea: only the search asks models; everything after it is arithmetic on what it scored, so
another lambda or reward mode costs no search.
"""

from model_ops.curation.preferences import write_nodes, write_preferences
from model_ops.descriptions import plan_prompts as plan
from model_ops.engines.clip_scorer import encoder_identity, resolve_encoder
from model_ops.engines.pool import LocalModel, ProgramJob, run_programs
from model_ops.prompts import load_prompts
from model_ops.rounds import round_prefix
from model_ops.stages import OnProgress, StagePlace, local_model
from schemas.artifacts import read_manifest
from schemas.config import CalibratedStage
from schemas.manifest import Manifest
from schemas.store import Store


def plan_prompts(store: Store, place: StagePlace, images: Manifest) -> Manifest:
    """What is asked about which image: the same in every round, as the seed is the run's."""
    config = place.config
    return plan(store, images, place.of(CalibratedStage).prompts,
                load_prompts(config.model.prompts), config.seed, place.prefix("prompts"),
                config.shard_size)


def search(
    store: Store, place: StagePlace, prompts: Manifest, images: Manifest, model: Manifest,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Let `model` search for replies, sentence by sentence, with the scorer beside it."""
    settings, config = place.of(CalibratedStage).search, place.config
    scorer = LocalModel(path=resolve_encoder(settings.scorer),
                        digest=encoder_identity(settings.scorer))
    settings = settings.model_copy(update={"scorer": scorer.digest})  # not where it lies
    job = ProgramJob(
        program="search", settings=settings.model_dump(mode="json"), prompts=config.model.prompts,
        round=place.round, stage=place.name, seed=place.seed,
        models={"": local_model(store, model, config)}, scorer=scorer)
    return run_programs(store, prompts, images, job, config.engine, place.prefix("searches"),
                        on_progress=on_progress)


def judge_nodes(store: Store, place: StagePlace, searches: Manifest) -> Manifest:
    """Every node with its ranks, its cost and its key."""
    return write_nodes(store, searches, place.of(CalibratedStage).preference,
                       place.prefix("nodes"), place.seed)


def choose_pairs(
    store: Store, place: StagePlace, searches: Manifest, images: Manifest
) -> Manifest:
    """The preference pairs: what the objective learns from."""
    return write_preferences(store, searches, images, place.of(CalibratedStage).preference,
                             load_prompts(place.config.model.prompts), place.prefix("train"),
                             place.config.shard_size, place.seed)


def reference_model(store: Store, place: StagePlace) -> Manifest | None:
    """The model that objective `dpo` compares with; None: the one that training starts from."""
    if place.config.reference == "previous" or place.stage.train.objective != "dpo":
        return None
    return read_manifest(store, f"{round_prefix(0)}/model")

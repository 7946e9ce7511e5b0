"""The steps of a `contrastive` stage in terms of the store: slots -> asked -> questions -> imagined
-> pairs -> train rows.

The one idea: each step takes from the configuration only what shapes its artifact, so that changing
a later step's settings (a cap, a filter, the objective) asks the model nothing again.
"""

from model_ops.criteria import load_criteria, portable_criteria
from model_ops.curation import pairs as pair_curation
from model_ops.curation.pairs import Wording, write_train
from model_ops.curation.questions import select_questions
from model_ops.engines.pool import ProgramJob, run_programs
from model_ops.programs.asking import AskSettings
from model_ops.prompts import load_prompts
from model_ops.questions import plan_slots
from model_ops.stages import OnProgress, StagePlace, local_model
from schemas.config import Config, ContrastiveStage, QuestionsConfig
from schemas.manifest import Manifest
from schemas.store import Store


def plan_questions(store: Store, place: StagePlace, images: Manifest) -> Manifest:
    """Which kinds are asked about which images. `ConfigError` also for a bad criteria set: before
    anything is asked."""
    stage = place.of(ContrastiveStage)
    load_criteria(stage.imagine.criteria)
    return plan_slots(store, images, stage.questions, place.seed, place.prefix("slots"),
                      place.config.shard_size)


def ask(
    store: Store, place: StagePlace, slots: Manifest, images: Manifest, model: Manifest,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Let `model` fill the slots with questions, and check their kind."""
    stage = place.of(ContrastiveStage)
    shaping = {"source", "uri", "temperature", "top_p", "min_type_probability"}
    settings = AskSettings(
        questions=QuestionsConfig(**stage.questions.model_dump(include=shaping)),
        criteria=portable_criteria(stage.imagine.criteria))
    job = _job(store, place, "ask_question", settings, model)
    return run_programs(store, slots, images, job, place.config.engine, place.prefix("asked"),
                        on_progress=on_progress)


def select(store: Store, place: StagePlace, asked: Manifest) -> Manifest:
    """The questions without repeats."""
    config = place.of(ContrastiveStage).questions
    return select_questions(store, asked, config, place.prefix("questions"),
                            place.config.shard_size, place.seed)


def imagine(
    store: Store, place: StagePlace, questions: Manifest, images: Manifest, model: Manifest,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Let `model` reply to every question as it should and as it should not."""
    config = place.of(ContrastiveStage).imagine
    settings = config.model_copy(update={"criteria": portable_criteria(config.criteria)})
    job = _job(store, place, "imagine", settings, model)
    return run_programs(store, questions, images, job, place.config.engine,
                        place.prefix("imagined"), on_progress=on_progress)


def _job(
    store: Store, place: StagePlace, program: str, settings: Config, model: Manifest
) -> ProgramJob:
    config = place.config
    return ProgramJob(
        program=program, settings=settings.model_dump(mode="json"), prompts=config.model.prompts,
        round=place.round, stage=place.name, seed=place.seed,
        models={"": local_model(store, model, config)})


def curate(
    store: Store, place: StagePlace, questions: Manifest, imagined: Manifest, images: Manifest
) -> Manifest:
    """The pairs worth learning from."""
    stage, config = place.of(ContrastiveStage), place.config
    wording = Wording(load_prompts(config.model.prompts), load_criteria(stage.imagine.criteria),
                      stage.reward_words)
    return pair_curation.curate(store, questions, imagined, images, stage.curation, wording,
                                place.prefix("pairs"), config.shard_size, place.seed)


def training_rows_of(store: Store, place: StagePlace, pairs: Manifest) -> Manifest:
    """What the stage's objective learns from the pairs."""
    stage = place.of(ContrastiveStage)
    return write_train(store, pairs, stage.train.objective, stage.reward_words,
                       place.prefix("train"), place.seed)


def reward_word(place: StagePlace) -> str | None:
    """The word that a model trained in this stage is asked with; None: as the one before it."""
    stage = place.stage
    if stage.method == "contrastive" and stage.train.objective == "crl":
        return stage.reward_words.good
    return None

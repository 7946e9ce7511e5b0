"""What a run will take, before it starts: the plan behind `flywheel run --dry-run`.

No model is loaded and no picture decoded. The arithmetic of games is `workload`'s, the counting of
images `collection`'s; here both become one frozen `Estimate` with notes and warnings in words.
"""

import json
from math import ceil
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from model_ops.benchmarks.questions import read_entries
from model_ops.collection import Collection, survey
from model_ops.root_survey import survey_root
from model_ops.sources import open_source
from model_ops.workload import WORDINGS, Calls, Lesson, lesson, play_calls, vqa_calls
from model_ops.workload_calibrated import (
    SEARCH_BYTES,
    calibrated_lesson,
    chair_calls,
    num_chair,
    num_pope,
    pope_calls,
    rehearsal_calls,
    search_calls,
)
from model_ops.workload_contrastive import (
    contrastive_calls,
    contrastive_lesson,
    num_questions,
    pie_calls,
)
from schemas.config import BenchmarkConfig, DescriptionPromptsConfig, RunConfig, Stage
from schemas.errors import ConfigError
from schemas.store import Store

NURSERY_IMAGE_TOKENS = 9
"""Image tokens of the nursery's model: 48 px, patch 8, four patches a token."""
PIXELS_PER_TOKEN = 28 * 28
"""Pixels behind one image token of Qwen2.5-VL (14 px patches, 2 x 2 merged): a usual figure."""
ASSUMED_PIXELS = 786_432
"""Pixels of an image whose size is not known: 1024 x 768."""
TRANSCRIPT_BYTES = 3_000
"""A stored game: a few turns of text and the references to its images."""
ROW_BYTES = 1_500
"""A training row or an evaluation item without its pictures."""
CHECKPOINT_FACTOR = 3
"""A checkpoint of all weights holds them and two moments of Adam."""
NURSERY_WEIGHTS = Path(__file__).parent / "nursery" / "weights"


class BenchmarkPlan(BaseModel):
    """One benchmark: its items, and the calls of one evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    items: int
    calls: list[Calls]


class StagePlan(BaseModel):
    """One stage of one round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    games: int
    """Games; questions of the contrastive, searches of the calibrated method."""
    calls: list[Calls]
    training: Lesson


class Estimate(BaseModel):
    """The plan of a run. Calls, tokens, rows and steps are per round; disk is for all rounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    image_bytes: int
    image_tokens: int
    """Expected tokens of a mean image."""
    rounds: int
    games: int
    stages: list[StagePlan]
    benchmarks: list[BenchmarkPlan]
    engines: int
    gpus: int
    """Most GPUs at a time: generation and training take turns."""
    training_rows: int
    training_steps: int
    evaluation_items: int
    evaluation_calls: int
    calls: int
    prompt_tokens: int
    """Prompt tokens as sent; prefix caching reads those of a game's images about once."""
    output_tokens: int
    disk_bytes: int
    """All rounds, without checkpoints' passing use; without weights where their size is unknown."""
    model_context: int | None
    notes: list[str]
    warnings: list[str]

    def render(self) -> list[tuple[str, str]]:
        """The plan as (label, value) lines for a console table."""
        lines = [
            ("images", f"{self.images:,} ({self.image_bytes / 1e6:,.1f} MB), "
                       f"about {self.image_tokens} tokens each"),
            ("rounds", f"at most {self.rounds}"),
            (self._counted, f"{self.games:,}"),
        ]
        for stage in self.stages:
            lines += [(f"  {c.step}", _calls_line(c)) for c in stage.calls]
        lines += [
            ("generation per round", f"{self.calls:,} calls, {self.prompt_tokens:,} prompt and "
                                     f"{self.output_tokens:,} output tokens"),
            ("training per round", f"{self.training_rows:,} rows, {self.training_steps:,} steps"),
            ("evaluation", f"{self.evaluation_items:,} items, {self.evaluation_calls:,} calls, "
                           f"{self.rounds + 1} times"),
            ("engines", f"{self.engines}, {self.gpus} GPUs at most"),
            ("disk", f"about {self.disk_bytes / 1e9:,.2f} GB"),
        ]
        lines += [("note", note) for note in self.notes]
        return lines + [("warning", warning) for warning in self.warnings]

    @property
    def _counted(self) -> str:
        """What `games` counts."""
        words = {"dialog": "games", "contrastive": "questions", "calibrated": "searches"}
        named = dict.fromkeys(words[stage.method] for stage in self.stages)
        return f"{' and '.join(named) or 'games'} per round"

    @property
    def text(self) -> str:
        """The lines of `render`, aligned."""
        return "\n".join(f"{label:<22} {value}" for label, value in self.render())


def _calls_line(calls: Calls) -> str:
    return (f"{calls.calls:,} calls, {calls.prompt_tokens:,} prompt and "
            f"{calls.output_tokens:,} output tokens")


def estimate(config: RunConfig) -> Estimate:
    """The plan of *config*. `ConfigError` if the run would be refused, or has too few images."""
    standing = survey_root(config)
    collection = survey(config.images, Store(config.root))
    tokens = _image_tokens(config, collection)
    stages = [_stage(config, stage, collection, tokens) for stage in config.stages]
    benchmarks = [_benchmark(config, each, tokens) for each in config.evaluation.benchmarks]
    calls = [each for stage in stages for each in stage.calls]
    context = _model_context(config)
    return Estimate(
        images=collection.num_images,
        image_bytes=collection.num_bytes,
        image_tokens=tokens,
        rounds=config.stop.rounds,
        games=sum(stage.games for stage in stages),
        stages=stages,
        benchmarks=benchmarks,
        engines=config.engine.num_actors,
        gpus=_gpus(config),
        training_rows=sum(stage.training.rows for stage in stages),
        training_steps=sum(stage.training.steps for stage in stages),
        evaluation_items=sum(each.items for each in benchmarks),
        evaluation_calls=sum(call.calls for each in benchmarks for call in each.calls),
        calls=sum(each.calls for each in calls),
        prompt_tokens=sum(each.prompt_tokens for each in calls),
        output_tokens=sum(each.output_tokens for each in calls),
        disk_bytes=_disk_bytes(config, collection, stages, benchmarks),
        model_context=context,
        notes=standing + _notes(config, collection, context),
        warnings=_warnings(config, collection, context),
    )


def _stage(config: RunConfig, stage: Stage, collection: Collection, tokens: int) -> StagePlan:
    words, num_images = config.model.prompts, collection.num_images
    if stage.method == "calibrated":
        num = _num_prompts(stage.prompts, num_images)
        return StagePlan(method=stage.method, games=num, training=calibrated_lesson(stage, num),
                         calls=search_calls(stage, num, tokens, words))
    kept = stage.rehearsal
    num_kept = _num_prompts(kept, num_images) if kept else 0
    rehearsed = [rehearsal_calls(kept, num_kept, tokens, words)] if kept else []
    if stage.method == "contrastive":
        calls = contrastive_calls(stage, tokens, words)
        return StagePlan(method=stage.method, games=num_questions(stage), calls=calls + rehearsed,
                         training=contrastive_lesson(stage, num_kept))
    needed = max(stage.games, default=0)
    if needed > num_images:
        raise ConfigError(
            f"games of {needed} images need at least as many, but images.uri "
            f"{config.images.uri!r} has {num_images}: add images or change stages.games")
    calls = play_calls(stage.play, stage.games, tokens, words)
    return StagePlan(method=stage.method, games=sum(stage.games.values()), calls=calls + rehearsed,
                     training=lesson(stage, num_images, num_kept))


def _num_prompts(prompts: DescriptionPromptsConfig, num_images: int) -> int:
    """Planned prompts: one an image, or one for each of a file's entries."""
    num = len(read_entries(prompts.uri)) if prompts.uri else num_images
    return min(num, prompts.limit or num)


def _benchmark(config: RunConfig, benchmark: BenchmarkConfig, tokens: int) -> BenchmarkPlan:
    """Calls of one evaluation: a game's as in a stage, one per question."""
    open_source(benchmark.images)  # a folder that is missing should not be noticed after a night
    prompts, num = config.model.prompts, benchmark.num_items
    if benchmark.kind == "game":
        name = f"{benchmark.domain}/game{benchmark.num_images}"
        calls = play_calls(benchmark.play, {benchmark.num_images: num}, tokens, prompts)
    elif benchmark.kind == "pie":
        name, calls = f"{benchmark.domain}/pie", pie_calls(benchmark, tokens, prompts)
        num += benchmark.pie.num_clear
    elif benchmark.kind == "pope":
        name, num = f"{benchmark.domain}/pope", num_pope(benchmark)
        calls = [pope_calls(benchmark, tokens, prompts)]
    elif benchmark.kind == "chair":
        name, num = f"{benchmark.domain}/chair", num_chair(benchmark)
        calls = [chair_calls(benchmark, tokens, prompts)]
    else:
        name, calls = f"{benchmark.domain}/vqa", [vqa_calls(num, tokens, prompts)]
    return BenchmarkPlan(name=name, items=num, calls=calls)


def _tokens_of(config: RunConfig, pixels: int) -> int:
    """Image tokens: one per `PIXELS_PER_TOKEN` pixels, after the engine's own shrinking."""
    if config.model.uri.startswith("nursery://"):
        return NURSERY_IMAGE_TOKENS
    return ceil(min(pixels, config.engine.max_image_pixels or pixels) / PIXELS_PER_TOKEN)


def _image_tokens(config: RunConfig, collection: Collection) -> int:
    sizes = collection.pixels or [ASSUMED_PIXELS]
    return round(sum(_tokens_of(config, pixels) for pixels in sizes) / len(sizes))


def _gpus(config: RunConfig) -> int:
    """The larger of generation (actors x GPUs each) and training (workers with one GPU each)."""
    generation = ceil(config.engine.num_actors * config.engine.num_gpus)
    training = [stage.train.num_workers for stage in config.stages if stage.train.use_gpu]
    return max([generation, *training])


def _disk_bytes(
    config: RunConfig, collection: Collection, stages: list[StagePlan],
    benchmarks: list[BenchmarkPlan],
) -> int:
    """images + weights of the base + rounds * (games + rows with their pictures + weights) +
    (rounds + 1) * items. A LoRA adapter is published merged, so it counts as all weights."""
    mean_bytes = collection.num_bytes / collection.num_images
    weights = _weight_bytes(config) or 0
    made = 0.0
    for stage in stages:
        each = SEARCH_BYTES if stage.method == "calibrated" else TRANSCRIPT_BYTES
        made += stage.games * each + stage.training.rows * ROW_BYTES
        made += stage.training.pictures * mean_bytes + weights
    items = sum(benchmark.items for benchmark in benchmarks) * ROW_BYTES
    rounds = config.stop.rounds
    return round(collection.num_bytes + weights + rounds * made + (rounds + 1) * items)


def _model_folder(config: RunConfig) -> Path | None:
    """The model's folder if it is on this machine; nothing is downloaded for a plan."""
    uri = config.model.uri
    if uri.startswith("nursery://"):
        folder = NURSERY_WEIGHTS / uri.removeprefix("nursery://")
    else:
        folder = Path(uri.removeprefix("file://")).expanduser()
    return folder if folder.is_dir() else None


def _weight_bytes(config: RunConfig) -> int | None:
    folder = _model_folder(config)
    return sum(f.stat().st_size for f in folder.glob("*.safetensors")) if folder else None


def _model_context(config: RunConfig) -> int | None:
    """`max_position_embeddings` of the model's config.json, if that is on this machine."""
    folder = _model_folder(config)
    if folder is None or not (folder / "config.json").is_file():
        return None
    settings = json.loads((folder / "config.json").read_text())
    text = settings.get("text_config") or {}
    context = text.get("max_position_embeddings", settings.get("max_position_embeddings"))
    return int(context) if context else None


def _notes(config: RunConfig, collection: Collection, context: int | None) -> list[str]:
    notes = []
    if not collection.imported and not config.images.uri.startswith("nursery://"):
        notes.append("the images are not imported yet: files that are no pictures still count")
    if not collection.pixels:
        notes.append(f"image sizes are not known: {ASSUMED_PIXELS:,} pixels are assumed")
    if not any(known in config.model.uri.lower() for known in ("nursery://", "qwen")):
        notes.append(f"image tokens are counted as Qwen2.5-VL has them, one per {PIXELS_PER_TOKEN} "
                     f"pixels; other models may have two or three times as many")
    if collection.num_unusable:
        notes.append(f"{collection.num_unusable:,} files cannot be used and were not counted")
    if context is None:
        notes.append(f"the context of {config.model.uri} is not known without downloading it: "
                     f"engine.max_model_len {config.engine.max_model_len:,} is taken for it")
    weights = _weight_bytes(config)
    if weights is None:
        notes.append("disk is without model weights: their size is not known")
    elif any(stage.train.adapter == "full" for stage in config.stages):
        gigabytes = CHECKPOINT_FACTOR * weights / 1e9
        notes.append(f"while it trains, each kept checkpoint takes {gigabytes:,.2f} GB more")
    return notes


def _warnings(config: RunConfig, collection: Collection, context: int | None) -> list[str]:
    warnings = _context_warnings(config, collection)
    if collection.unreachable:
        warnings.append(f"{collection.unreachable}: images.limit is taken for their number")
    engine = config.engine
    if context is not None and engine.max_model_len > context:
        warnings.append(f"engine.max_model_len {engine.max_model_len:,} exceeds the model's "
                        f"context of {context:,}")
    if engine.num_gpus and engine.tensor_parallel_size > engine.num_gpus:
        warnings.append(f"engine.tensor_parallel_size {engine.tensor_parallel_size} needs as many "
                        f"GPUs per engine, engine.num_gpus is {engine.num_gpus:g}")
    if not config.evaluation.benchmarks:
        warnings.append(f"no benchmark measures gate.primary {config.gate.primary!r}: every round "
                        f"will be held")
    return warnings


def _context_warnings(config: RunConfig, collection: Collection) -> list[str]:
    """Images too large for a full game: N of them and the whole dialog must fit the context."""
    words, limit = WORDINGS[config.model.prompts], config.engine.max_model_len
    shown, turns = 1, 1
    for stage in config.stages:
        if stage.method != "dialog":  # its questions are about one image each
            continue
        for num_images in stage.games:
            turns = max(turns, stage.play.max_turns.get(num_images, 1))
            if stage.play.guesser == "joint":
                shown = max(shown, num_images)
    room = (limit - words.prompt - words.turn * turns - max(words.output.values())) / shown
    sizes = collection.pixels or [ASSUMED_PIXELS]
    share = sum(_tokens_of(config, pixels) > room for pixels in sizes) / len(sizes)
    if not share:
        return []
    num = round(share * collection.num_images)
    return [f"{num:,} images are too large for games of {shown} in a context of {limit:,} tokens "
            f"(room for {max(0, int(room)):,} tokens each): set engine.max_image_pixels to "
            f"{max(0, int(room)) * PIXELS_PER_TOKEN:,} or less, or raise engine.max_model_len"]

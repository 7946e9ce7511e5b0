"""The configuration of a run: what `flywheel run CONFIG.yaml` and every Prefect flow take.

Frozen, closed to unknown keys, with a docstring under each field. The hash of a part of it is what
decides whether a stage's finished work may be reused (see `schemas.manifest`).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Config(BaseModel):
    """Base of all configuration models."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ImagesConfig(Config):
    """Where the unlabelled images come from."""

    uri: str = "nursery://field"
    """A folder or bucket of pictures, or `nursery://home` / `nursery://field` (made here)."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many images (required for the nursery)."""
    seed: int = 0
    """Seed of the nursery's scenes; with a folder, of the order in which `limit` picks."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """An image that declares more pixels than this is quarantined, not decoded."""


class ModelConfig(Config):
    """The model that plays, learns and is measured."""

    uri: str = "nursery://vlm"
    """A local folder, a bucket, a hub id, or `nursery://vlm` (the shipped tiny model)."""
    prompts: Literal["nursery", "default"] = "default"
    """The prompt set: `default` for real models, `nursery` in the tiny model's vocabulary."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto"
    """The weights' type while generating and training."""


class EngineConfig(Config):
    """How model calls are answered."""

    kind: Literal["vllm", "endpoint"] = "vllm"
    """`vllm` in the actor's process, or an OpenAI-compatible `endpoint`."""
    num_actors: int = Field(default=1, ge=1)
    """How many engines work side by side (the Ray Data pool's size)."""
    num_cpus: float = Field(default=1, ge=0)
    """CPUs that Ray reserves for an engine; on a CPU machine also its number of threads."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for an engine."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one model."""
    max_model_len: int = Field(default=8192, ge=64)
    """Context length in tokens, image tokens included."""
    max_num_seqs: int = Field(default=128, ge=1)
    """Requests that the engine runs at a time."""
    live_programs: int = Field(default=256, ge=1)
    """Games (or benchmark items) that are in flight in one actor."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of GPU memory that vLLM may take."""
    kv_cache_gib: int = Field(default=1, ge=1)
    """GiB of KV cache per engine on a CPU."""
    enforce_eager: bool = False
    """Skip graph capture: starts faster; the only mode on a CPU."""
    max_image_pixels: int | None = Field(default=None, ge=64)
    """Shrink an image that has more pixels than this before the model sees it."""
    base_url: str | None = None
    """URL of the endpoint (kind `endpoint` only)."""
    model_name: str | None = None
    """The endpoint's name of the model (kind `endpoint` only)."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    timeout_s: float = Field(default=120, gt=0)
    """Seconds after which an endpoint call counts as failed."""
    max_concurrency: int = Field(default=32, ge=1)
    """Endpoint calls in flight."""
    max_retries: int = Field(default=4, ge=0)
    """Further tries of a failed endpoint call."""

    @model_validator(mode="after")
    def _endpoint_is_complete(self) -> "EngineConfig":
        if self.kind == "endpoint" and not (self.base_url and self.model_name):
            raise ValueError("engine.kind 'endpoint' needs engine.base_url and engine.model_name")
        return self


class GroupingConfig(Config):
    """How images are put together into games. Labels and facts are never looked at."""

    method: Literal["similarity", "cluster", "random"] = "similarity"
    """`similarity`: neighbours of a seed image; `cluster`: inside a k-means cluster."""
    encoder: str = "nursery://clip"
    """The image encoder: a CLIP or SigLIP folder or hub id, or `nursery://clip`."""
    nearest: int = Field(default=1, ge=1)
    """`similarity`: the closest neighbour rank that may be a distractor (1: the most alike)."""
    farthest: int = Field(default=12, ge=1)
    """`similarity`: the farthest neighbour rank that may be a distractor."""
    max_cosine: float = Field(default=0.999, gt=0, le=1)
    """Images more alike than this count as duplicates and never share a game."""


class DialogPlayConfig(Config):
    """The rules of the game (methods/dialog_games.md, section 3)."""

    guesser: Literal["joint", "per_image"] = "joint"
    """`joint`: all images in one prompt; `per_image`: one call per candidate, best fit wins."""
    max_turns: dict[int, int] = {2: 3, 4: 6}
    """Turn limit by number of images."""
    ready_confidence: float = Field(default=0.9, gt=0, le=1)
    """`per_image`: guess early once the best candidate's belief reaches this (in `joint` mode the
    model itself says when it is ready)."""
    verdict_scope: Literal["pair", "dialog"] = "pair"
    """`per_image`: judge a candidate by the newest question and answer only (beliefs multiply over
    turns), or by the whole dialog at every turn (the newest verdict is the belief)."""
    belief_clip: float = Field(default=0.02, gt=0, lt=0.5)
    """`per_image`: a verdict counts as at least this and at most 1 - this, so that one wrong
    verdict can be made good."""
    ask_temperature: float = Field(default=0.7, ge=0)
    """Temperature of questions."""
    answer_temperature: float = Field(default=0.3, ge=0)
    """Temperature of answers."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus of questions and answers."""
    rotations: bool = True
    """Replay the guess with the images in every other order (joint mode: extra calls)."""
    blind: bool = True
    """Guess once per order without the dialog: what could be known without asking."""
    reasks: int = Field(default=3, ge=0)
    """Ask the Describer each question again so many times (self-consistency); 0 is off."""
    reask_temperature: float = Field(default=0.7, ge=0)
    """Temperature of the re-asked answers."""
    counterfactual: bool = True
    """Ask the Describer the same questions about the nearest distractor."""


class DialogCurationConfig(Config):
    """Which games are learnt from (methods/dialog_games.md, section 4). Each check can be off."""

    select: Literal["curated", "unfiltered", "random"] = "curated"
    """`unfiltered` keeps all parsed games; `random` as many as `curated` would, picked blindly."""
    require_win: bool = True
    """Drop lost games."""
    min_rotation_pass: float | None = Field(default=0.75, ge=0, le=1)
    """Least share of image orders that lead to the target (2 images: always 1.0)."""
    max_blind_pass: float | None = Field(default=0.75, gt=0, le=1)
    """Drop a game whose target is guessed without the dialog at least this often."""
    forbid_leak: bool = True
    """Drop games that name positions or files, or whose answer dumps a caption."""
    max_answer_words: int = Field(default=25, ge=1)
    """A longer answer counts as a caption dump."""
    max_question_similarity: float | None = Field(default=0.9, gt=0, le=1)
    """Drop games with two questions more alike than this (edit ratio)."""
    max_cannot_tell: float | None = Field(default=0.5, ge=0, le=1)
    """Drop games in which more than this share of the answers is "cannot tell"."""
    min_consistency: float | None = Field(default=0.5, ge=0, le=1)
    """Every answer must be repeated by at least this share of its re-asks."""
    require_counterfactual: bool = True
    """At least one answer must differ for the nearest distractor."""
    difficulty: tuple[float, float] | None = None
    """Keep games whose pass rate over rotations lies in this band."""
    max_per_group: int | None = Field(default=3, ge=1)
    """Games kept per image group."""
    max_per_target: int | None = Field(default=2, ge=1)
    """Games kept per target image."""
    role_weights: dict[Literal["ask", "answer", "decide", "guess", "verdict"], float] = {
        "ask": 0.5, "answer": 1.0, "decide": 1.0, "guess": 1.0, "verdict": 1.0,
    }
    """Loss weight of each role's rows; 0 (or no entry) leaves the role out. In joint mode the
    private summary is part of the `decide` rows."""
    counterfactual_answers: bool = False
    """Also learn what the Describer said about the nearest distractor (further `answer` rows)."""
    guess_rotations: bool = True
    """Joint mode: repeat each `guess` row for all image orders, the position re-mapped."""
    max_distractor_belief: float = Field(default=0.05, ge=0, lt=1)
    """`per_image`: a distractor gives "no" rows only if its final belief is at most this."""
    min_target_fit: float | None = Field(default=None, ge=0, le=1)
    """`per_image`: learn nothing from a turn whose answer the Guesser, looking at the image that
    it took, believed less than this: both seats must agree."""
    closed_answers_only: bool = False
    """Learn yes and no answers only: an open question may presuppose what is not in the target."""
    balance_answers: bool = False
    """Keep equally many yes and no completions within each role (guards against collapse to one
    of them)."""


class SftConfig(Config):
    """Supervised fine-tuning with TRL (training/sft.py)."""

    objective: Literal["sft"] = "sft"
    """The training objective."""
    adapter: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter (published merged) or all weights."""
    lora_r: int = Field(default=32, ge=1)
    """LoRA rank."""
    lora_alpha: int = Field(default=64, ge=1)
    """LoRA scale."""
    lora_targets: str = r".*(language_model|text_model).*\.(q|k|v|o|gate|up|down)_proj"
    """Regular expression of the modules that get an adapter."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of steps with rising learning rate."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps."""
    batch_size: int = Field(default=8, ge=1)
    """Rows per worker and step."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Batches per optimizer step."""
    max_rows: int | None = Field(default=None, ge=1)
    """Train on at most so many rows (drawn by seed)."""
    replay: float = Field(default=0.0, ge=0, lt=1)
    """Share of rows taken from earlier rounds of the same stage."""
    freeze_vision: bool = True
    """Leave the vision tower as it is (adapter `full` only)."""
    save_steps: int = Field(default=100, ge=1)
    """Optimizer steps between checkpoints (a killed job resumes from the last)."""
    num_workers: int = Field(default=1, ge=1)
    """Ray Train workers."""
    num_cpus: float = Field(default=1, gt=0)
    """CPUs per worker."""
    use_gpu: bool = False
    """One GPU per worker."""
    gradient_checkpointing: bool = False
    """Trade compute for memory."""
    mixed_precision: Literal["auto", "off"] = "auto"
    """`auto`: matrix products in bfloat16 where the processor has them; weights keep their type."""


class DialogStage(Config):
    """Stage `dialog`: play games, keep the good ones, learn from them."""

    method: Literal["dialog"] = "dialog"
    """The method's name."""
    games: dict[int, int] = {4: 800, 2: 400}
    """Number of games by number of images."""
    grouping: GroupingConfig = GroupingConfig()
    """How images become games."""
    play: DialogPlayConfig = DialogPlayConfig()
    """The rules."""
    curation: DialogCurationConfig = DialogCurationConfig()
    """What is kept."""
    train: SftConfig = SftConfig()
    """How it is learnt."""




class BenchmarkConfig(Config):
    """One benchmark."""

    kind: Literal["game", "vqa"]
    """`game`: held-out games; `vqa`: questions with known answers."""
    images: ImagesConfig
    """Held-out images. An image that a training game used is refused."""
    domain: str = "field"
    """Prefix of the metric names."""
    num_items: int = Field(default=1000, ge=1)
    """Games or questions."""
    num_images: int = Field(default=4, ge=2)
    """`game`: images per game."""
    questions_uri: str | None = None
    """`vqa` on real images: a JSONL or Parquet file of `image` (path as in `images`), `question`,
    `answers` and perhaps `kind`; scored by VQA-accuracy. Without it the images must be the
    nursery's, whose questions are made from facts and scored by exact match."""
    play: DialogPlayConfig = DialogPlayConfig(rotations=True, blind=False, reasks=0,
                                              counterfactual=False)
    """`game`: the rules."""
    grouping: GroupingConfig = GroupingConfig()
    """`game`: how images become games."""
    cross_play: bool = False
    """`game`: the candidate describes, the champion guesses: gains that vanish with an older
    partner are a private code. The metric is `<domain>/game<N>_crossplay`."""


class EvaluationConfig(Config):
    """What every candidate is measured with."""

    benchmarks: list[BenchmarkConfig] = []
    """The benchmarks; the seeds are fixed, so that two evaluations pair item by item."""
    seed: int = 20_000
    """Seed of the items."""


class GatePolicy(Config):
    """When a candidate becomes the champion."""

    primary: str = "field/game4_success"
    """The metric that must rise."""
    min_gain: float = 0.0
    """The lower end of the paired bootstrap interval of the gain must exceed this."""
    guards: dict[str, float] = {}
    """Metric -> the largest fall that is tolerated (a fraction: 0.01 is one point)."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the intervals."""


class StopRule(Config):
    """When a run ends by itself."""

    rounds: int = Field(default=3, ge=1)
    """At most so many rounds."""
    budget_minutes: float | None = Field(default=None, gt=0)
    """Start no further round after so much wall-clock time."""
    plateau: int | None = Field(default=2, ge=1)
    """Stop after so many rounds in a row that were held."""


class RunConfig(Config):
    """A whole run: `improve` flow, `flywheel run`."""

    root: str
    """Where everything is written: a folder or `s3://bucket/prefix`."""
    seed: int = 0
    """The run's seed; all others derive from it."""
    model: ModelConfig = ModelConfig()
    """The base model."""
    images: ImagesConfig = ImagesConfig()
    """The unlabelled images."""
    engine: EngineConfig = EngineConfig()
    """How model calls are answered."""
    stages: list[DialogStage] = [DialogStage()]
    """The stages of a round, in order."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured."""
    gate: GatePolicy = GatePolicy()
    """When to promote."""
    stop: StopRule = StopRule()
    """When to end."""
    init_from: Literal["champion", "base"] = "champion"
    """The weights that a round's training starts from."""
    reference: Literal["previous", "base"] = "previous"
    """The model that preference objectives compare with."""
    history: Literal["round", "all"] = "round"
    """Train on this round's rows, or on those of all rounds."""
    shard_size: int = Field(default=128, ge=1)
    """Rows per shard: the unit of resume."""
    lease_minutes: float = Field(default=10, gt=0)
    """A lock that was not renewed for so long may be taken over."""

    @model_validator(mode="after")
    def _nursery_needs_a_limit(self) -> "RunConfig":
        sources = [self.images, *(b.images for b in self.evaluation.benchmarks)]
        for images in sources:
            if images.uri.startswith("nursery://") and images.limit is None:
                raise ValueError(f"images.limit is needed for {images.uri}: how many to draw")
        return self

"""How many calls and tokens the calibrated method and the benchmarks POPE and CHAIR will take.

As in `workload`, what only a run can tell is a named assumption. Per search of D sentences: one
call at the first, one per kept prefix at each further one, each for k continuations, and all of
them again in each further look; the scorer is called once a level and encodes the image once a
search.
"""

from model_ops.workload import WORDINGS, Calls, Lesson, mixed, num_steps
from schemas.config import BenchmarkConfig, CalibratedStage, RehearsalConfig

SENTENCES = 6
"""Sentences of a description (methods/calibrated_csr.md, section 2: about 6 to 9)."""
SENTENCE_TOKENS = {"nursery": 7, "default": 20}
"""Tokens of a sentence of a description."""
DESCRIBE_TOKENS = {"nursery": 6, "default": 40}
"""The question with the chat template around it."""
PAIR_SHARE = 0.95
"""Share of searches with two finished replies that differ."""
SEARCH_BYTES = 12_000
"""A stored search and its node rows: some forty sentences, compressed."""
YES_NO_TOKENS = 2
"""`yes` or `no`, and the end of the text."""


def search_calls(
    stage: CalibratedStage, num: int, image_tokens: float, prompts: str
) -> list[Calls]:
    """Calls of *num* searches: what the model writes, and what the scorer scores."""
    settings = stage.search
    depth = min(SENTENCES, settings.max_sentences)
    kept = settings.keep_top + settings.keep_bottom
    asked = 1 + kept * (depth - 1)
    said = min(SENTENCE_TOKENS[prompts], settings.max_sentence_tokens)
    shared = DESCRIBE_TOKENS[prompts] + image_tokens
    before = said * kept * depth * (depth - 1) / 2
    times = num * (1 + len(settings.looks))
    return [
        Calls(step="search", calls=times * asked,
              prompt_tokens=round(times * (asked * shared + before)),
              output_tokens=times * asked * settings.num_continuations * said),
        Calls(step="score", calls=num * depth, prompt_tokens=0, output_tokens=0),
    ]


def calibrated_lesson(stage: CalibratedStage, num: int) -> Lesson:
    """A pair for nearly every one of *num* searches."""
    rows = mixed(PAIR_SHARE * num, stage.mix)
    return Lesson(rows=round(rows), pictures=round(rows), steps=num_steps(rows, stage.train))


def rehearsal_calls(
    rehearsal: RehearsalConfig, num: int, image_tokens: float, prompts: str
) -> Calls:
    """One description a prompt."""
    return _described("rehearse", num, rehearsal.max_tokens, image_tokens, prompts)


def num_pope(benchmark: BenchmarkConfig) -> int:
    """Questions over all splits; on the nursery no more than its images give."""
    num, images = benchmark.num_items, benchmark.images
    if not benchmark.pope.uris and images.limit is not None:
        num = min(num, 2 * benchmark.pope.num_objects * images.limit)
    return num * benchmark.pope.num_splits


def num_chair(benchmark: BenchmarkConfig) -> int:
    """Images that are described."""
    return min(benchmark.num_items, benchmark.images.limit or benchmark.num_items)


def pope_calls(benchmark: BenchmarkConfig, image_tokens: float, prompts: str) -> Calls:
    """One yes or no a question."""
    num = num_pope(benchmark)
    prompt = num * (WORDINGS[prompts].prompt + image_tokens)
    return Calls(step="pope", calls=num, prompt_tokens=round(prompt),
                 output_tokens=num * YES_NO_TOKENS)


def chair_calls(benchmark: BenchmarkConfig, image_tokens: float, prompts: str) -> Calls:
    """One description an image."""
    return _described("chair", num_chair(benchmark), benchmark.chair.max_tokens, image_tokens,
                      prompts)


def _described(
    step: str, num: int, max_tokens: int, image_tokens: float, prompts: str
) -> Calls:
    said = min(SENTENCES * SENTENCE_TOKENS[prompts], max_tokens)
    prompt = num * (DESCRIBE_TOKENS[prompts] + image_tokens)
    return Calls(step=step, calls=num, prompt_tokens=round(prompt), output_tokens=num * said)

"""How many calls and tokens the contrastive method and the PIE benchmark will take.

As in `workload`, what only a run can tell is a named assumption. Per planned question: one call to
write it (source `model`), one to check it; per question that is left: two replies, two verdicts. A
call under a criterion samples `num_tries` replies; a `Clear` question as asked has no criterion.
With `looks` the desired reply is one sample in each of these lights and one as the image is.
"""

from model_ops.workload import WORDINGS, Calls, Lesson, mixed, num_steps
from schemas.config import BenchmarkConfig, ContrastiveStage, QuestionsConfig
from schemas.questions import CLEAR

USABLE_SHARE = 0.7
"""Share of planned questions that are readable, of their kind, and no duplicate. The grammar's
are all three: where neither kinds nor openings are checked, all are left."""
FORMED_SHARE = 0.95
"""Share of imagined pairs whose two replies differ and have the form of their kind."""
JUDGED_SHARE = 0.7
"""Share of these of which the judge calls both replies what they should be."""
REPLY_TOKENS = {"nursery": 8, "default": 70}
"""A reply of one to three sentences."""
QUESTION_TOKENS = {"nursery": 8, "default": 45}
"""A question in its JSON."""
CRITERION_TOKENS = {"nursery": 12, "default": 220}
"""What a prompt has beside the question: criterion, definition or rubric."""
LABEL_TOKENS = 1
"""A verdict is one constrained token or two."""


def contrastive_calls(
    stage: ContrastiveStage, image_tokens: float, prompts: str
) -> list[Calls]:
    """Calls of one stage, step by step."""
    planned = num_questions(stage)
    asked = usable_share(stage.questions) * planned
    prompt = CRITERION_TOKENS[prompts] + QUESTION_TOKENS[prompts] + image_tokens
    steps = [
        _calls("write", planned * (stage.questions.source == "model"), prompt,
               QUESTION_TOKENS[prompts]),
        _calls("check", planned * (stage.questions.min_type_probability is not None), prompt,
               LABEL_TOKENS),
        _imagine_calls(stage, prompt, prompts),
        _calls("judge", 2 * asked * stage.imagine.judge, prompt + REPLY_TOKENS[prompts],
               LABEL_TOKENS),
    ]
    return [each for each in steps if each.calls]


def _imagine_calls(stage: ContrastiveStage, prompt: float, prompts: str) -> Calls:
    """The desired reply in every light and the undesired one; *prompt* is that of a call under a
    criterion."""
    settings, usable = stage.imagine, usable_share(stage.questions)
    asked, lights = usable * num_questions(stage), 1 + len(settings.looks)
    clear = sum(n for kind, n in stage.questions.per_type.items() if kind == CLEAR)
    bare = usable * clear * settings.clear_as_asked
    tries = settings.num_tries if settings.temperature else 1
    desired = asked * lights if settings.looks else bare + (asked - bare) * tries
    num = asked * (lights + 1)
    return Calls(step="imagine", calls=round(num),
                 prompt_tokens=round(num * prompt - bare * lights * CRITERION_TOKENS[prompts]),
                 output_tokens=round((desired + asked * tries) * REPLY_TOKENS[prompts]))


def usable_share(questions: QuestionsConfig) -> float:
    """`USABLE_SHARE`, or all of the grammar's where nothing checks them."""
    checked = (questions.min_type_probability, questions.max_share_per_opening) != (None, None)
    return USABLE_SHARE if checked or questions.source != "grammar" else 1.0


def num_questions(stage: ContrastiveStage) -> int:
    """Planned questions of all kinds."""
    return sum(stage.questions.per_type.values())


def contrastive_lesson(stage: ContrastiveStage, num_rehearsed: int = 0) -> Lesson:
    """Rows and steps of one round: two rows a pair for `crl`, one for `sft` and `dpo`; one for each
    rehearsed reply."""
    rows = num_pairs(stage) * (2 if stage.train.objective == "crl" else 1)
    rows = mixed(rows, stage.mix) + num_rehearsed
    return Lesson(rows=round(rows), pictures=round(rows), steps=num_steps(rows, stage.train))


def num_pairs(stage: ContrastiveStage) -> float:
    """Pairs that pass curation: `FORMED_SHARE`, judged ones `JUDGED_SHARE` of it; at most the cap
    of a kind."""
    curation, share = stage.curation, usable_share(stage.questions)
    if curation.select == "curated":
        share *= FORMED_SHARE * (JUDGED_SHARE if curation.require_judge else 1)
    kept = [share * num for kind, num in stage.questions.per_type.items()
            if curation.include_clear or kind != CLEAR]
    return sum(min(num, curation.max_per_type or num) for num in kept)


def pie_calls(benchmark: BenchmarkConfig, image_tokens: float, prompts: str) -> list[Calls]:
    """One answer a question and, unless rules judge, one verdict."""
    num = benchmark.num_items + benchmark.pie.num_clear
    prompt = WORDINGS[prompts].prompt + image_tokens
    judged = CRITERION_TOKENS[prompts] + REPLY_TOKENS[prompts] + image_tokens
    asked = num * (benchmark.pie.judge.kind != "rules")
    calls = [_calls("pie", num, prompt, REPLY_TOKENS[prompts]),
             _calls("judge", asked, judged, LABEL_TOKENS)]
    return [each for each in calls if each.calls]


def _calls(step: str, num: float, prompt: float, output: float) -> Calls:
    return Calls(step=step, calls=round(num), prompt_tokens=round(num * prompt),
                 output_tokens=round(num * output))

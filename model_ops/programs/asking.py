"""Asking: the model writes a question of a given kind about an image, and a second call checks it.

methods/contrastive_macaroon.md, section 3, steps 2 and 3 [P]: who wrote the paper's questions is
not known. A question that is there already (from a file, or from the nursery's grammar) is only
checked. The model is asked without its reward word: nobody rewards questions.
"""

import json

from model_ops.criteria import CriteriaSet, Criterion, load_criteria
from model_ops.programs.calls import Generate, Program, Sampling
from model_ops.programs.context import JobContext
from model_ops.programs.contrastive_messages import check_messages, write_messages
from model_ops.programs.replies import Unparseable, parse_line, parse_question, yes_probability
from model_ops.programs.steps import Meter, generate, metered, parsed
from model_ops.prompts import Prompts
from schemas.config import Config, QuestionsConfig
from schemas.errors import ConfigError, DropError
from schemas.manifest import digest
from schemas.rows import AskedRow, SlotRow, row_id

MAX_QUESTION_TOKENS = 160
"""Longest reply to `write`; a question has 25 words, the rest is for its reason."""
QUESTION_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"question": {"type": "string"}, "why": {"type": "string"}},
        "required": ["question", "why"],
        "additionalProperties": False,
    }
)


class AskSettings(Config):
    """Settings of the program `ask_question`."""

    questions: QuestionsConfig
    """How questions are written and checked."""
    criteria: str
    """The criteria set: what the kinds are."""


AskContext = JobContext[AskSettings]


def ask_question(slot: SlotRow, context: AskContext) -> Program[AskedRow]:
    """Write the slot's question, if it has none, and check its kind.

    Raises `DropError`: `no_question` (nothing usable was written, twice) or `type_mismatch` (the
    check gave "it is of this kind" less than `questions.min_type_probability`, or no answer).
    """
    criteria = load_criteria(context.settings.criteria)
    criterion, meter = criteria.of(slot.question_type), Meter()
    question = slot.question
    if question is None:
        question = yield from metered(_write(slot, criterion, context), meter)
    probability = yield from metered(_check(slot, criterion, question, context), meter)
    return AskedRow(
        row_id=asked_id(slot, context, criteria),
        round=context.round,
        stage=context.stage,
        model_digest=context.model_digest,
        prompt_version=context.prompts.digest,
        seed=context.seed,
        image=slot.image,
        question_type=slot.question_type,
        question=question,
        source=context.settings.questions.source,
        type_probability=probability,
        num_calls=meter.num_calls,
        num_prompt_tokens=meter.num_prompt_tokens,
        num_output_tokens=meter.num_output_tokens,
        num_image_tokens=meter.num_image_tokens,
    )


def asked_id(slot: SlotRow, context: AskContext, criteria: CriteriaSet) -> str:
    """Deterministic id: the slot, who asks and how; never what was asked."""
    return row_id(
        "asked",
        slot=slot.row_id,
        model=context.model_digest,
        prompts=context.prompts.digest,
        criteria=criteria.digest,
        settings=digest(context.settings.questions),
        seed=context.seed,
    )


def _write(slot: SlotRow, criterion: Criterion, context: AskContext) -> Program[str]:
    settings, as_json = context.settings.questions, _wants_json(context.prompts)
    sampling = Sampling(
        settings.temperature,
        settings.top_p,
        MAX_QUESTION_TOKENS,
        json_schema=QUESTION_SCHEMA if as_json else None,
    )
    messages = write_messages(context.prompts, criterion)
    call = Generate(messages, (slot.image,), sampling, reward="")
    try:
        reply, question = yield from parsed(call, parse_question if as_json else parse_line)
    except Unparseable as error:
        raise DropError("no_question", f"unreadable: {str(error)[:200]!r}") from error
    if reply.samples[0].finish_reason == "length":
        raise DropError("no_question", f"cut off after {MAX_QUESTION_TOKENS} tokens: {question!r}")
    return question


def _wants_json(prompts: Prompts) -> bool:
    """How the prompt set has questions written: as JSON with a reason, or as a bare line."""
    form = prompts.text("contrastive.write_reply")
    if form not in ("json", "line"):
        raise ConfigError(f"contrastive.write_reply of the prompt set {prompts.name!r} is "
                          f"{form!r}: write json or line")
    return form == "json"


def _check(
    slot: SlotRow, criterion: Criterion, question: str, context: AskContext
) -> Program[float | None]:
    """What the model gives to "it is of this kind"; None, without a call, if no check is wanted."""
    least = context.settings.questions.min_type_probability
    if least is None:
        return None
    messages = check_messages(context.prompts, criterion, question)
    sampling = Sampling(choices=("yes", "no"))
    reply = yield from generate(Generate(messages, (slot.image,), sampling, reward=""))
    probability = yes_probability(reply)
    if probability is None or probability < least:
        said = f"{reply.text!r}" if probability is None else f"{probability:.3f} < {least:g}"
        raise DropError("type_mismatch", f"{slot.question_type}, {said}: {question}")
    return probability

"""PIE as a benchmark: one greedy answer to an odd (or a clear) question, then a judge's verdict.

After MACAROON's benchmark (methods/contrastive_macaroon.md, section 2): the rubric is the kind's,
the judge sees image, question and reply, at temperature 0. Unlike there, a judge that cannot be
read has a label of its own, `ParseError`, and one that does not answer sends the item to
quarantine and counts in no rate.
"""

import json

from model_ops.benchmarks.questions import scene_of
from model_ops.criteria import load_criteria
from model_ops.programs.calls import Generate, Program, Sampling
from model_ops.programs.context import JobContext
from model_ops.programs.contrastive_messages import imagine_messages, question_messages
from model_ops.programs.judging import Verdict, judge_call, read_verdict
from model_ops.programs.steps import Meter, generate, metered
from schemas.config import Config, JudgeConfig
from schemas.errors import ConfigError, DropError
from schemas.rows import ItemRow, PieReplyRow, PieRow

JUDGE = "judge"
"""The seat of the model that judges."""
JUDGE_FAILED = "judge_"
"""How the reason of an item begins that has a reply and no verdict."""


class PieBenchmark(Config):
    """Settings of the programs `pie` and `pie_judge`."""

    metric: str
    """Name of the main metric, such as `field/pie_aar` or `field/pie-good_aar`."""
    domain: str
    """First part of the metric names."""
    criteria: str
    """The criteria set."""
    rubric: str
    """sha256 over what judges: the criteria files and, for `rules`, the rules."""
    reward: str | None = None
    """The reward word: None as the model's manifest says, "" none, else the word."""
    prompted: bool = False
    """Put the desired criterion into the prompt."""
    judge: JudgeConfig = JudgeConfig()
    """Who judges (its timeouts are the engine's, not part of this)."""
    max_tokens: int
    """Longest reply."""


def answer_and_judge(item: PieRow, context: JobContext[PieBenchmark]) -> Program[ItemRow]:
    """Ask one question and judge the reply; the item keeps the question's id, for pairing.

    Raises `DropError` (`judge_<reason>`) if the judge cannot be asked: its detail has the reply.
    """
    meter = Meter()
    reply = yield from metered(generate(answer_call(item, context)), meter)
    verdict = yield from metered(judge_reply(item, reply.text, context), meter)
    return _item_of(item, reply.text, verdict, context, meter)


def judge_again(item: PieReplyRow, context: JobContext[PieBenchmark]) -> Program[ItemRow]:
    """Judge a reply that was given before: how two judges are compared (`agreement`)."""
    meter = Meter()
    verdict = yield from metered(judge_reply(item, item.reply, context), meter)
    return _item_of(item, item.reply, verdict, context, meter)


def answer_call(item: PieRow, context: JobContext[PieBenchmark]) -> Generate:
    """The question as a user asks it, or with the desired criterion in the prompt; greedy."""
    settings = context.settings
    messages = question_messages(context.prompts, item.question)
    if settings.prompted:
        criterion = load_criteria(settings.criteria).of(item.question_type)
        messages = imagine_messages(context.prompts, criterion.desired, item.question)
    sampling = Sampling(max_tokens=settings.max_tokens)
    return Generate(messages, (item.image,), sampling, reward=settings.reward)


def judge_reply(
    item: PieRow, reply: str, context: JobContext[PieBenchmark]
) -> Program[Verdict]:
    """The configured judge's verdict on *reply*; `DropError` (`judge_<reason>`) without one."""
    if context.settings.judge.kind == "rules":
        return by_rules(item, reply)
    criterion = load_criteria(context.settings.criteria).of(item.question_type)
    call = judge_call(context.prompts, criterion, item.question, reply, item.image, seat=JUDGE)
    try:
        said = yield from generate(call)
    except DropError as error:
        if error.reason == "not_a_choice":
            return Verdict("ParseError", 0.0)
        raise DropError(f"{JUDGE_FAILED}{error.reason}", f"{error.detail}; the reply was {reply!r}"
                        ) from error
    return read_verdict(said, criterion, context.prompts)


def by_rules(item: PieRow, reply: str) -> Verdict:
    """The verdict that the nursery's facts give. Raises `ConfigError` for an item without facts."""
    from model_ops.nursery import odd

    if item.facts is None:
        raise ConfigError(f"item {item.row_id} has no facts: judge.kind 'rules' judges nursery "
                          f"images only; set it to 'vlm' or 'endpoint'")
    scene = scene_of(json.loads(item.facts))
    label = odd.judge(item.question_type, item.question, reply, scene)
    return Verdict(label, float(label == "True"))


def _item_of(
    item: PieRow, reply: str, verdict: Verdict, context: JobContext[PieBenchmark], meter: Meter
) -> ItemRow:
    settings = context.settings
    detail = {"label": verdict.label, "judge": settings.judge.kind,
              "probability": verdict.probability}
    return ItemRow(
        row_id=item.row_id,
        benchmark=settings.metric,
        kind=item.question_type,
        image_ids=[item.image.image_id],
        prompt=item.question,
        expected=load_criteria(settings.criteria).of(item.question_type).desired,
        reply=reply,
        score=float(verdict.label == "True"),
        detail=json.dumps(detail),
        model_digest=context.model_digest,
        prompt_version=context.prompts.digest,
        seed=item.seed,
        num_calls=meter.num_calls,
        num_prompt_tokens=meter.num_prompt_tokens,
        num_output_tokens=meter.num_output_tokens,
    )

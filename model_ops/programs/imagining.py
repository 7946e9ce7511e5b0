"""Self-imagination: the model replies to a question as it should, and as it should not.

methods/contrastive_macaroon.md, section 3: two separate calls of the very model that is trained,
under a desired and an undesired criterion; training then drops the criteria. The model is asked
without its reward word, as it is the criterion that says what is wanted. The judge calls are ours
[P]; which pairs are learnt from is curation's decision.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from model_ops.criteria import CriteriaSet, Criterion, load_criteria
from model_ops.criteria.forms import desired_problem, undesired_problem
from model_ops.programs.calls import Generate, Program, Sample, Sampling
from model_ops.programs.context import JobContext
from model_ops.programs.contrastive_messages import imagine_messages, question_messages
from model_ops.programs.judging import Verdict, judge_call, read_verdict
from model_ops.programs.replies import normalise
from model_ops.programs.steps import Meter, generate_all, metered
from schemas.config import ImagineConfig
from schemas.errors import DropError
from schemas.manifest import digest
from schemas.questions import CLEAR
from schemas.rows import AskedRow, ImaginedRow, row_id

ImagineContext = JobContext[ImagineConfig]


def imagine(asked: AskedRow, context: ImagineContext) -> Program[ImaginedRow]:
    """Both replies to the question, judged if the settings say so."""
    criteria = load_criteria(context.settings.criteria)
    criterion, meter = criteria.of(asked.question_type), Meter()
    calls = [*_desired_calls(asked, criterion, context),
             _criterion_call(asked, criterion.undesired, context)]
    *wanted, unwanted = yield from metered(generate_all(calls), meter)
    said = [sample for reply in wanted for sample in reply.samples]
    desired = _well_formed([_agreed(said)] if _is_as_asked(asked, context) else said,
                           lambda text: desired_problem(text, criterion))
    undesired = _well_formed(unwanted.samples, lambda text: undesired_problem(text, criterion))
    verdicts = yield from metered(_judge(asked, criterion, (desired, undesired), context), meter)
    return _row(asked, desired, undesired, verdicts, criteria, context, meter)


def imagined_id(asked: AskedRow, context: ImagineContext, criteria: CriteriaSet) -> str:
    """Deterministic id: the question, who replies and how; never what was replied."""
    return row_id(
        "imagined",
        asked=asked.row_id,
        model=context.model_digest,
        prompts=context.prompts.digest,
        criteria=criteria.digest,
        settings=digest(context.settings.model_dump(mode="json", exclude={"criteria"})),
        seed=context.seed,
    )


def _desired_calls(
    asked: AskedRow, criterion: Criterion, context: ImagineContext
) -> list[Generate]:
    """Under the criterion; a clear question as anybody asks it: what the model answers by itself,
    at temperature 0 and with its reward word, is what has to be kept. With `looks` there is one
    reply in each light, the image's own among them."""
    settings = context.settings
    call = _criterion_call(asked, criterion.desired, context)
    if _is_as_asked(asked, context):
        call = Generate(question_messages(context.prompts, asked.question), (asked.image,),
                        Sampling(max_tokens=settings.max_tokens))
    if not settings.looks:
        return [call]
    once = replace(call, sampling=replace(call.sampling, num_samples=1))
    return [replace(once, look=look) for look in ("", *settings.looks)]


def _is_as_asked(asked: AskedRow, context: ImagineContext) -> bool:
    """Whether the desired reply is what the model answers without any criterion."""
    return asked.question_type == CLEAR and context.settings.clear_as_asked


def _agreed(samples: Sequence[Sample]) -> Sample:
    """The sample whose words most of them have; the first among equals."""
    votes = Counter(normalise(sample.text) for sample in samples)
    return max(samples, key=lambda sample: votes[normalise(sample.text)])


def _criterion_call(asked: AskedRow, text: str, context: ImagineContext) -> Generate:
    settings = context.settings
    num_tries = settings.num_tries if settings.temperature > 0 else 1
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens, num_tries)
    messages = imagine_messages(context.prompts, text, asked.question)
    return Generate(messages, (asked.image,), sampling, reward="")


def _well_formed(samples: Sequence[Sample], problem: Callable[[str], str | None]) -> Sample:
    """What most samples without a problem of form say (tries that agree are seldom slips); the very
    first sample if all have one."""
    right = [sample for sample in samples if problem(sample.text.strip()) is None]
    return _agreed(right) if right else samples[0]


def _judge(
    asked: AskedRow, criterion: Criterion, replies: tuple[Sample, Sample], context: ImagineContext
) -> Program[list[Verdict]]:
    """A verdict on each reply; none if nobody is to judge. A judge whose words are no label gives
    `ParseError`: the replies are worth keeping."""
    if not context.settings.judge:
        return []
    calls = [
        judge_call(context.prompts, criterion, asked.question, reply.text.strip(), asked.image)
        for reply in replies
    ]
    try:
        said = yield from generate_all(calls)
    except DropError as error:
        if error.reason != "not_a_choice":
            raise
        return [Verdict("ParseError", 0.0)] * len(calls)
    return [read_verdict(reply, criterion, context.prompts) for reply in said]


def _row(
    asked: AskedRow,
    desired: Sample,
    undesired: Sample,
    verdicts: list[Verdict],
    criteria: CriteriaSet,
    context: ImagineContext,
    meter: Meter,
) -> ImaginedRow:
    first, second = verdicts or (None, None)
    return ImaginedRow(
        row_id=imagined_id(asked, context, criteria),
        round=context.round,
        stage=context.stage,
        model_digest=context.model_digest,
        prompt_version=context.prompts.digest,
        seed=context.seed,
        image=asked.image,
        question_type=asked.question_type,
        question=asked.question,
        desired=desired.text.strip(),
        undesired=undesired.text.strip(),
        desired_logprob=desired.logprob,
        undesired_logprob=undesired.logprob,
        desired_finish=desired.finish_reason,
        undesired_finish=undesired.finish_reason,
        desired_label=first.label if first else None,
        undesired_label=second.label if second else None,
        desired_probability=first.probability if first else None,
        undesired_probability=second.probability if second else None,
        criteria_version=criteria.digest,
        num_calls=meter.num_calls,
        num_prompt_tokens=meter.num_prompt_tokens,
        num_output_tokens=meter.num_output_tokens,
        num_image_tokens=meter.num_image_tokens,
    )

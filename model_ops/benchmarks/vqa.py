"""Visual question answering as a benchmark: one greedy answer per question, scored at once."""

from typing import Literal

from model_ops.benchmarks.vqa_score import exact_match, vqa_accuracy, yes_or_no
from model_ops.programs.calls import IMAGE, Generate, Program, Sampling
from model_ops.programs.context import JobContext
from model_ops.programs.messages import Messages, system_and_user
from model_ops.programs.steps import generate
from model_ops.prompts import Prompts
from schemas.config import Config
from schemas.rows import ItemRow, QuestionRow

MAX_ANSWER_TOKENS = 16
SCORES = {"exact": exact_match, "vqa_accuracy": vqa_accuracy, "yes_or_no": yes_or_no}


class VqaBenchmark(Config):
    """Settings of the program `vqa`."""

    metric: str
    """Name of the metric, such as `field/vqa`."""
    scoring: Literal["exact", "vqa_accuracy", "yes_or_no"]
    """`exact`: the one reference, normalised; `vqa_accuracy`: min(1, matches / 3), one
    reference left out in turn; `yes_or_no`: the first word (POPE)."""


def answer_item(item: QuestionRow, context: JobContext[VqaBenchmark]) -> Program[ItemRow]:
    """Ask one question; the item keeps the question's id, so that evaluations pair."""
    messages = question_messages(context.prompts, item.question)
    call = Generate(messages, (item.image,), Sampling(max_tokens=MAX_ANSWER_TOKENS))
    reply = yield from generate(call)
    return ItemRow(
        row_id=item.row_id,
        benchmark=context.settings.metric,
        kind=item.kind,
        image_ids=[item.image.image_id],
        prompt=item.question,
        expected=" | ".join(item.answers),
        reply=reply.text,
        score=SCORES[context.settings.scoring](reply.text, item.answers),
        model_digest=context.model_digest,
        prompt_version=context.prompts.digest,
        seed=item.seed,
        num_calls=1,
        num_prompt_tokens=reply.num_prompt_tokens,
        num_output_tokens=reply.samples[0].num_tokens,
    )


def question_messages(prompts: Prompts, question: str) -> Messages:
    """The prompt: the image, then the question."""
    text = prompts.text("vqa.question", question=question)
    return system_and_user(prompts, "vqa.system", (IMAGE, text))

"""What a model replies by itself, before it learns anything: one call a prompt, at temperature 0.

It is asked as it will be asked afterwards, its reward word included; what is learnt of it is
`model_ops.rehearsal`'s.
"""

from model_ops.programs.calls import Generate, Program, Sampling
from model_ops.programs.context import JobContext
from model_ops.programs.describing import description_messages
from model_ops.programs.steps import Meter, generate, metered
from schemas.config import RehearsalConfig
from schemas.manifest import digest
from schemas.rows import row_id
from schemas.searches import DescribedRow, DescriptionRow


def reply_by_itself(
    asked: DescriptionRow, context: JobContext[RehearsalConfig]
) -> Program[DescribedRow]:
    """The model's own reply to one prompt about one image."""
    call = Generate(description_messages(context.prompts, asked.question), (asked.image,),
                    Sampling(max_tokens=context.settings.max_tokens))
    meter = Meter()
    reply = yield from metered(generate(call), meter)
    return DescribedRow(
        row_id=row_id("described", asked=asked.row_id, model=context.model_digest,
                      prompts=context.prompts.digest, settings=digest(context.settings),
                      seed=context.seed),
        round=context.round,
        stage=context.stage,
        model_digest=context.model_digest,
        prompt_version=context.prompts.digest,
        seed=context.seed,
        image=asked.image,
        question=asked.question,
        reply=reply.text.strip(),
        finish_reason=reply.samples[0].finish_reason,
        num_calls=meter.num_calls,
        num_prompt_tokens=meter.num_prompt_tokens,
        num_output_tokens=meter.num_output_tokens,
        num_image_tokens=meter.num_image_tokens,
    )

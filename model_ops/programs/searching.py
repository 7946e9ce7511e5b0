"""The search for replies, sentence by sentence, each scored against the image.

methods/calibrated_csr.md, section 2. All kept prefixes of a level are continued together, then all
new sentences are scored in one call, then the level is pruned. Diversity comes from sampling
instead of diverse group beams (a declared deviation). Which reply is preferred is left to curation:
every node is in the row, so that preferences can be made again with other weights.
"""

from collections.abc import Sequence

from model_ops.programs.calls import Generate, Program, Sampling, Score, ScoreReply
from model_ops.programs.context import JobContext
from model_ops.programs.describing import description_messages
from model_ops.programs.search_tree import ROOT, Continuation, SearchTree
from model_ops.programs.steps import Meter, generate_all, metered
from schemas.config import SearchConfig
from schemas.errors import DropError
from schemas.manifest import digest
from schemas.rows import row_id
from schemas.searches import DescriptionRow, SearchRow

SearchContext = JobContext[SearchConfig]
"""Its settings' `scorer` is what identifies the scorer (`encoder_identity`), not where it lies."""


def search(item: DescriptionRow, context: SearchContext) -> Program[SearchRow]:
    """The tree of replies to the question about the image.

    Raises `DropError` (`empty_reply`) if the model always ends its reply before it has begun.
    """
    tree, meter = SearchTree(context.settings), Meter()
    active, num_truncated = [ROOT], 0
    while active:
        grown = yield from metered(_continue(item, tree, active, context), meter)
        level = tree.add(grown)
        num_truncated += yield from _score(item, tree, level, context)
        active = tree.keep(level)
    if len(tree.nodes) == 1:
        raise DropError("empty_reply", f"{context.settings.num_continuations} samples said nothing")
    return _row(item, tree, context, meter, num_truncated)


def search_id(item: DescriptionRow, context: SearchContext) -> str:
    """Deterministic id: what is asked, who replies and how; never what was replied."""
    settings = context.settings.model_dump(mode="json", exclude={"preset"})
    return row_id("search", prompt=item.row_id, model=context.model_digest,
                  prompts=context.prompts.digest, settings=digest(settings), seed=context.seed)


def _continue(
    item: DescriptionRow, tree: SearchTree, active: Sequence[int], context: SearchContext
) -> Program[list[Continuation]]:
    """All prefixes' continuations in every light, each up to its sentence's end. One that stopped
    at a full stop that may be none goes on, as long as the sentence has tokens left."""
    num, limit = context.settings.num_continuations, context.settings.max_sentence_tokens
    asked = [(node_id, look) for node_id in active for look in ("", *context.settings.looks)]
    replies = yield from generate_all(
        [_call(item, tree.prefixes[node_id], look, num, limit, context) for node_id, look in asked])
    made = [Continuation(node_id, sample, look)
            for (node_id, look), reply in zip(asked, replies, strict=True)
            for sample in reply.samples]
    while places := [place for place, one in enumerate(made)
                     if one.is_open and one.sample.num_tokens < limit]:
        opened = [made[place] for place in places]
        replies = yield from generate_all(
            [_call(item, tree.prefixes[one.parent] + one.sample.text, one.look, 1,
                   limit - one.sample.num_tokens, context) for one in opened])
        for place, reply in zip(places, replies, strict=True):
            made[place] = made[place].followed_by(reply.samples[0])
    return made


def _call(
    item: DescriptionRow, prefix: str, look: str, num_samples: int, max_tokens: int,
    context: SearchContext,
) -> Generate:
    settings = context.settings
    sampling = Sampling(settings.temperature, settings.top_p, max_tokens, num_samples,
                        stop=tuple(settings.sentence_ends), keep_stop=True)
    messages = description_messages(context.prompts, item.question)
    return Generate(messages, (item.image,), sampling, prefix, look=look)


def _score(
    item: DescriptionRow, tree: SearchTree, level: Sequence[int], context: SearchContext
) -> Program[int]:
    """Score the level's sentences against the image; how many were too long for the scorer."""
    scored = [node_id for node_id in level if tree.nodes[node_id].dropped_reason is None]
    if not scored:
        return 0
    reply = yield Score(item.image, tuple(tree.nodes[node_id].text for node_id in scored),
                        context.settings.scorer_look or "")
    assert isinstance(reply, ScoreReply), "a Score is answered by a ScoreReply"
    tree.set_cosines(scored, reply.cosines)
    return reply.num_truncated


def _row(
    item: DescriptionRow, tree: SearchTree, context: SearchContext, meter: Meter,
    num_truncated: int,
) -> SearchRow:
    return SearchRow(
        row_id=search_id(item, context),
        round=context.round,
        stage=context.stage,
        model_digest=context.model_digest,
        prompt_version=context.prompts.digest,
        seed=context.seed,
        prompt_id=item.prompt_id,
        image=item.image,
        question=item.question,
        nodes=tree.nodes,
        num_merged=tree.num_merged,
        num_empty=tree.num_empty,
        num_truncated=num_truncated,
        scorer_digest=context.settings.scorer,
        num_calls=meter.num_calls,
        num_prompt_tokens=meter.num_prompt_tokens,
        num_output_tokens=meter.num_output_tokens,
        num_image_tokens=meter.num_image_tokens,
    )

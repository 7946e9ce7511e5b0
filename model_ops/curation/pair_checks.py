"""The filters of the contrastive method: one pure function per reason to drop a pair.

methods/contrastive_macaroon.md, section 3, step 6: how the paper filtered is not known, so all of
it is ours [P]. Every filter can be off (`PairCurationConfig`); the first that applies is the
reason. Caps, which look at other pairs, are `pairs`'s.
"""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from model_ops.criteria import Criterion
from model_ops.criteria.forms import desired_problem, undesired_problem
from model_ops.programs.replies import normalise
from schemas.config import PairCurationConfig
from schemas.questions import CLEAR
from schemas.rows import ImaginedRow

PAIR_REASONS = (
    "clear_left_out", "empty_reply", "cut_off", "criteria_leak", "equal_pair", "no_question",
    "rejected_asks", "no_refusal", "desired_asks", "desired_refuses", "rejected_answers",
    "judge_desired", "judge_undesired", "over_cap",
)
"""All reasons, in order; what a row's write check finds (`schemas.checks`) comes on top."""


def drop_reason(row: ImaginedRow, criterion: Criterion, config: PairCurationConfig) -> str | None:
    """Why the pair is not learnt from, or None."""
    if row.question_type == CLEAR and not config.include_clear:
        return "clear_left_out"
    if not (row.desired.strip() and row.undesired.strip()):
        return "empty_reply"
    if config.select == "unfiltered":
        return None
    return next(_problems(row, criterion, config), None)


def _problems(
    row: ImaginedRow, criterion: Criterion, config: PairCurationConfig
) -> Iterator[str]:
    if config.drop_cut_off and is_cut_off(row):
        yield "cut_off"
    if config.leak_pattern is not None and leaks(row, config.leak_pattern):
        yield "criteria_leak"
    if likeness(row.desired, row.undesired) > config.max_similarity:
        yield "equal_pair"
    if config.check_form and (problem := form_problem(row, criterion)):
        yield problem
    if config.require_judge and row.desired_label != "True":
        yield "judge_desired"
    if config.require_judge and row.undesired_label != "False":
        yield "judge_undesired"


def is_cut_off(row: ImaginedRow) -> bool:
    """A reply did not come to its end."""
    return "length" in (row.desired_finish, row.undesired_finish)


def leaks(row: ImaginedRow, pattern: str) -> bool:
    """A reply speaks of what the model was told (*pattern*, any case)."""
    return any(re.search(pattern, text, re.IGNORECASE) for text in (row.desired, row.undesired))


def likeness(one: str, other: str) -> float:
    """Edit ratio in words, in [0, 1]; 1 for replies that differ by case and punctuation only."""
    words = (normalise(one).split(), normalise(other).split())
    return SequenceMatcher(None, *words, autojunk=False).ratio()


def form_problem(row: ImaginedRow, criterion: Criterion) -> str | None:
    """What is wrong with the form of the replies (`model_ops.criteria.forms`)."""
    return desired_problem(row.desired, criterion) or undesired_problem(row.undesired, criterion)

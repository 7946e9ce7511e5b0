"""The filters of the dialog method: one pure function per reason to drop a game.

methods/dialog_games.md, section 4: that only won games are learnt from is the paper's [P]; every
other filter is ours [D]. A check that was not played (its figure is None) drops nothing.
Copies of text seen in the pictures are not looked for.
"""

import re
from collections.abc import Callable
from difflib import SequenceMatcher
from itertools import combinations

from model_ops.programs.replies import normalise
from schemas.config import DialogCurationConfig
from schemas.rows import TranscriptRow

Check = Callable[[TranscriptRow, DialogCurationConfig], bool]
"""True: the game is to be dropped."""

CANNOT_TELL = frozenset({"cannot tell", "can t tell", "i cannot tell", "i can t tell", "unknown"})
_PICTURE = r"(?:image|picture|photo|candidate|option)"
_LEAK = re.compile(
    rf"\b{_PICTURE}s?\s*(?:number|no\.?|#)?\s*\(?\d"
    rf"|\b(?:first|second|third|fourth|fifth|last)\s+{_PICTURE}\b"
    rf"|\bnumber of the {_PICTURE}\b"
    r"|\.(?:jpe?g|png|webp|gif|bmp)\b",
    re.IGNORECASE,
)


def orders_passed(game: TranscriptRow) -> float | None:
    """Share of all N image orders (the played one included) that lead to the target."""
    if game.rotation_pass is None:
        return None
    others = len(game.images) - 1
    return (game.won + game.rotation_pass * others) / (1 + others)


def is_unparsed(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """Broken off: a reply could not be used."""
    return game.stop_reason == "parse_fail" or game.guess is None or not game.turns


def is_lost(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """The guess is not the target [P]."""
    return config.require_win and not game.won


def depends_on_order(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """Too few image orders lead to the target; with two images all must."""
    passed, least = orders_passed(game), config.min_rotation_pass
    if passed is None or least is None:
        return False
    return passed < (1.0 if len(game.images) == 2 else least)


def is_blind(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """The target is guessed without any dialog too often: nothing had to be asked."""
    limit = config.max_blind_pass
    return limit is not None and game.blind_pass is not None and game.blind_pass >= limit


def leaks(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """A turn names a position or a file."""
    texts = (text for turn in game.turns for text in (turn.question, turn.answer))
    return config.forbid_leak and any(_LEAK.search(text) for text in texts)


def dumps_caption(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """An answer is so long that it describes the picture instead of answering."""
    longest = max(len(turn.answer.split()) for turn in game.turns)
    return config.forbid_leak and longest > config.max_answer_words


def repeats(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """Two questions are nearly the same."""
    limit = config.max_question_similarity
    if limit is None:
        return False
    asked = [normalise(turn.question).split() for turn in game.turns]
    return any(question_similarity(a, b) > limit for a, b in combinations(asked, 2))


def question_similarity(one: list[str], other: list[str]) -> float:
    """Edit ratio in words: "a red star ?" and "a red cross ?" share letters, yet ask two things."""
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def cannot_tell(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """Too many answers are "cannot tell"."""
    if config.max_cannot_tell is None:
        return False
    unsure = sum(normalise(turn.answer) in CANNOT_TELL for turn in game.turns)
    return unsure / len(game.turns) > config.max_cannot_tell


def is_inconsistent(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """Asked again, the Describer says something else."""
    least = config.min_consistency
    shares = [turn.consistency for turn in game.turns if turn.consistency is not None]
    return least is not None and any(share < least for share in shares)


def separates_nothing(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """Every answer is the same for the nearest distractor; both pictures as they are."""
    answers = [(turn.answer if turn.as_it_is is None else turn.as_it_is, turn.counterfactual)
               for turn in game.turns if turn.counterfactual is not None]
    if not config.require_counterfactual or not answers:
        return False
    return all(normalise(target) == normalise(nearest or "") for target, nearest in answers)


def is_off_difficulty(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """The pass rate over image orders lies outside the wanted band."""
    passed = orders_passed(game)
    if config.difficulty is None or passed is None:
        return False
    low, high = config.difficulty
    return not low <= passed <= high


CONSISTENCY_CHECKS: tuple[tuple[str, Check], ...] = (
    ("order", depends_on_order),
    ("blind", is_blind),
    ("leak", leaks),
    ("caption_dump", dumps_caption),
    ("repeat", repeats),
    ("cannot_tell", cannot_tell),
    ("inconsistent", is_inconsistent),
    ("no_counterfactual", separates_nothing),
)
"""What stands between won and consistent, in order; the first that applies is the reason."""


ANSWER_CHECKS: tuple[Check, ...] = (is_unparsed, leaks, dumps_caption, cannot_tell)
"""The checks on what the Describer said; the others are about the Guesser, or need a won game."""


def has_sound_answers(game: TranscriptRow, config: DialogCurationConfig) -> bool:
    """Whether the answers may be learnt even if the Guesser made nothing of them."""
    return not any(check(game, config) for check in ANSWER_CHECKS)


def drop_reason(game: TranscriptRow, config: DialogCurationConfig) -> str | None:
    """Why *game* is not learnt from, or None. Caps, which look at other games, come later."""
    if is_unparsed(game, config):
        return "parse_fail"
    if is_lost(game, config):
        return "lost"
    reasons = (reason for reason, check in CONSISTENCY_CHECKS if check(game, config))
    reason = next(reasons, None)
    if reason is None and is_off_difficulty(game, config):
        return "difficulty"
    return reason


def is_doubted(game: TranscriptRow, turn: int, config: DialogCurationConfig) -> bool:
    """Not of a game but of one turn: the looks disagree on its answer, or the Guesser, looking at
    the target, hardly believed it. Nothing is learnt from it."""
    said, least = game.turns[turn], config.min_agreement
    if least is not None and said.agreement is not None and said.agreement < least:
        return True
    if config.min_target_fit is None or not said.fits:
        return False
    return said.fits[game.target] < config.min_target_fit

"""How an answer is scored: the VQA evaluation's normalisation and accuracy, and exact match.

After VQA (Antol et al. 2015; the official vqaEvalDemo script): lower case, number words as digits,
articles and punctuation removed, contractions restored; accuracy min(1, matches / 3) as a mean over
the subsets that leave one answer out.
"""

import re
from collections.abc import Sequence

from model_ops.programs.replies import normalise

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTED = """
aren't can't couldn't didn't doesn't don't hadn't hasn't haven't he's how's i'm i've isn't it's
let's she's shouldn't that's there's they're they've wasn't we've weren't what's where's who's
won't wouldn't you're you've
"""
_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}
_BETWEEN_DIGITS = re.compile(r"(?<=\d),(?=\d)")
_FULL_STOP = re.compile(r"(?<!\d)\.|\.(?!\d)")
_PUNCTUATION = re.compile(r"[;/\[\]\"{}()=+\\_\-><@`,?!:]")


def normalise_answer(text: str) -> str:
    """The form in which answers are compared."""
    text = _BETWEEN_DIGITS.sub("", text.lower().strip())
    text = _FULL_STOP.sub("", _PUNCTUATION.sub(" ", text))
    words = (_DIGITS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def exact_match(reply: str, answers: Sequence[str]) -> float:
    """1 if the normalised reply is one of the normalised references, else 0."""
    said = normalise_answer(reply)
    return float(any(normalise_answer(answer) == said for answer in answers))


def said_yes_or_no(reply: str) -> str | None:
    """`yes` or `no` where the reply's first word is one; None for any other reply. (POPE's script
    takes a reply without "no" or "not" for a yes.)"""
    first = normalise(reply).split()[:1]
    return first[0] if first in (["yes"], ["no"]) else None


def yes_or_no(reply: str, answers: Sequence[str]) -> float:
    """1 if the reply's first word is the reference, `yes` or `no`; else 0."""
    return float(said_yes_or_no(reply) in answers)


def vqa_accuracy(reply: str, answers: Sequence[str]) -> float:
    """Mean of min(1, matches / 3) over the subsets of references that leave one out.

    With fewer than four references, all of a subset must match; one alone is the whole truth.
    """
    said = normalise_answer(reply)
    hits = [normalise_answer(answer) == said for answer in answers]
    if len(hits) < 2:
        return float(any(hits))
    enough = min(3, len(hits) - 1)
    return sum(min(1.0, (sum(hits) - hit) / enough) for hit in hits) / len(hits)

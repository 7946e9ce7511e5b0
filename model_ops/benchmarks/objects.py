"""Which objects a text names: the reading of descriptions that CHAIR rests on (Rohrbach et al.
2018).

Its one idea: a mention is the longest phrase of a list at its place, every word in the singular, so
"a baby bear on a toilet seat" names a bear and a toilet. COCO's 80 classes are in
`coco_objects.yaml`; the nursery's objects are its shapes. Where this deviates from the
authors' script: the list of words is ours; plurals by the rules below instead of a library's; a
phrase may have three words and does not reach over punctuation; phrases that name none of the
classes ("train track") are in the list. As there, every mention counts, "orange" is always the
fruit, and a word is an object whatever the sentence says of it ("there is no dog").
"""

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from schemas.manifest import digest

World = Literal["nursery", "coco"]
"""Whose objects are looked for."""
Phrase = tuple[str, ...]

_LIST = Path(__file__).with_name("coco_objects.yaml")
_TOKEN = re.compile(r"[a-z]+|[.,;:!?()]")
_WORD = re.compile(r"\w[\w'-]*")
_IRREGULAR = {
    "people": "person", "children": "child", "mice": "mouse", "geese": "goose", "oxen": "ox",
    "knives": "knife", "wives": "wife", "calves": "calf", "buses": "bus", "minibuses": "minibus",
    "skis": "ski", "tvs": "tv", "ties": "tie", "bowties": "bowtie", "neckties": "necktie",
    "doggies": "doggy", "zombies": "zombie", "cookies": "cookie",
}
_WITHOUT_PLURAL = ("ss", "us", "is")


def singular(word: str) -> str:
    """A noun in the singular, by the usual endings and a list of exceptions; verbs and other words
    may come out wrong, which no phrase of the list cares about."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("men"):
        return f"{word[:-2]}an"
    if len(word) < 4 or not word.endswith("s") or word.endswith(_WITHOUT_PLURAL):
        return word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes")) else word[:-1]


@dataclass(frozen=True, slots=True)
class ObjectList:
    """Classes, and the phrases (words in the singular) that name them; None: names no object."""

    classes: tuple[str, ...]
    phrases: Mapping[Phrase, str | None]
    longest: int

    def mentions(self, text: str) -> list[str]:
        """The class of every mention, in order."""
        words = [singular(word) for word in _TOKEN.findall(text.lower())]
        found: list[str] = []
        place = 0
        while place < len(words):
            size, name = self._at(words, place)
            place += size
            if name is not None:
                found.append(name)
        return found

    def _at(self, words: Sequence[str], place: int) -> tuple[int, str | None]:
        """Words of the longest phrase at *place*, and its class; one word that is no phrase."""
        for size in range(self.longest, 0, -1):
            phrase = tuple(words[place : place + size])
            if len(phrase) == size and phrase in self.phrases:
                return size, self.phrases[phrase]
        return 1, None


@cache
def object_list(world: World) -> ObjectList:
    """The objects of a world and their phrases."""
    return _nursery_list() if world == "nursery" else _coco_list()


@cache
def list_digest(world: World) -> str:
    """sha256 over what decides which objects a text names."""
    words = sorted((" ".join(phrase), name or "")
                   for phrase, name in object_list(world).phrases.items())
    return digest([words, inspect.getsource(sys.modules[__name__])])


def num_words(text: str) -> int:
    """Words of a text, punctuation left out."""
    return len(_WORD.findall(text))


def _nursery_list() -> ObjectList:
    """The nursery's shapes: what a thing is; colours and sizes say how it is."""
    from model_ops.nursery.world import SHAPES

    return ObjectList(SHAPES, {(shape,): shape for shape in SHAPES}, 1)


def _coco_list() -> ObjectList:
    listed: dict[str, Any] = yaml.safe_load(_LIST.read_text())
    classes: dict[str, list[str]] = listed["classes"]
    phrases: dict[Phrase, str | None] = dict.fromkeys(map(_phrase, listed["not_objects"]))
    for name, words in classes.items():
        phrases |= {_phrase(text): name for text in (name, *words)}
    for modifier, names in listed["modifiers"].items():
        phrases |= {_phrase(f"{modifier} {text}"): name
                    for name in names for text in (name, *classes[name])}
    return ObjectList(tuple(classes), phrases, max(map(len, phrases)))


def _phrase(text: str) -> Phrase:
    return tuple(singular(word) for word in text.split())

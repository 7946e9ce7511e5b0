"""Which objects a text names: synonyms, plurals, phrases, and what is no object."""

import pytest

from model_ops.benchmarks.objects import list_digest, num_words, object_list, singular

COCO = object_list("coco")


@pytest.mark.parametrize(("text", "objects"), [
    ("A man and two women ride their bikes.", ["person", "person", "bicycle"]),
    ("People watch the buses; a bus waits.", ["person", "bus", "bus"]),
    ("A baby bear beside its mother bear.", ["bear", "bear"]),
    ("A baby on a toilet seat.", ["person", "toilet"]),
    ("A passenger jet takes off, passengers wave.", ["airplane", "person"]),
    ("Stuffed bears and a teddy bear, but no bears.", ["teddy bear", "teddy bear", "bear"]),
    ("A hot dog for the dog.", ["hot dog", "dog"]),
    ("It is hot. Dogs sleep.", ["dog"]),
    ("A wine glass, glasses, and two wine glasses.", ["wine glass", "wine glass"]),
    ("A train on the train tracks near home plate.", ["train"]),
    ("A couple of sheep and a couple on a park bench.", ["sheep", "person", "bench"]),
    ("Knives, scissors, skis, and a baseball glove.",
     ["knife", "scissors", "skis", "baseball glove"]),
    ("The man's cell-phone is on the dining table", ["person", "cell phone", "dining table"]),
    ("Ties, couches, benches, mice, geese, sandwiches, calves, ponies and toothbrushes",
     ["tie", "couch", "bench", "mouse", "bird", "sandwich", "cow", "horse", "toothbrush"]),
    ("A red stove top oven and flat screen TVs.", ["oven", "tv", "tv"]),
    ("An open field under a cloudy sky.", []),
    ("", []),
])
def test_cocos_objects_are_found_in_sentences(text: str, objects: list[str]) -> None:
    assert COCO.mentions(text) == objects


def test_the_list_names_80_classes_and_no_word_belongs_to_two() -> None:
    import yaml

    from model_ops.benchmarks import objects

    assert len(COCO.classes) == 80
    listed = yaml.safe_load(objects._LIST.read_text())
    owners: dict[tuple[str, ...], str] = {}
    for name, words in listed["classes"].items():
        for text in (name, *words):
            phrase = tuple(singular(word) for word in text.split())
            assert owners.setdefault(phrase, name) == name, text
            assert COCO.mentions(f"some {text} there") == [name]
    assert all(COCO.mentions(f"the {phrase} there") == [] for phrase in listed["not_objects"])
    assert all(COCO.mentions(f"a {word} {name}") == [name]
               for word, names in listed["modifiers"].items() for name in names)


def test_the_nurserys_objects_are_its_shapes() -> None:
    text = "a big red circle at the top left . a small blue star at the right . a red thing"
    assert object_list("nursery").mentions(text) == ["circle", "star"]
    assert object_list("nursery").mentions("red big circle . two green crosses circle red .") == [
        "circle", "cross", "circle"]


def test_words_are_counted_without_punctuation() -> None:
    assert num_words("a big red circle at the top left .") == 8
    assert num_words("It's a well-lit room, isn't it?") == 6
    assert num_words(" . ") == 0


def test_what_decides_has_a_digest() -> None:
    assert len({list_digest("coco"), list_digest("nursery")}) == 2

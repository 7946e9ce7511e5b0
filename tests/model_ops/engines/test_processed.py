"""What is processed once is put before every text, and forgotten when there is too much of it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from model_ops.engines import processed
from model_ops.engines.processed import ProcessedImages

IMAGE, TOKENS = 5, [7, 5, 5, 5, 7]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that were really processed; an image's size is its name."""
    monkeypatch.setattr(processed, "_num_bytes", lambda inputs: int(inputs["mm_kwargs"]))
    return []


def memory(seen: list[list[int]], capacity: int = 100) -> ProcessedImages:
    def process(prompt_ids: list[int], keys: Sequence[str], pictures: list[Any]) -> Any:
        seen.append(prompt_ids)
        ids: list[int] = []
        places = []
        for token in prompt_ids:
            if token == IMAGE:
                places.append(SimpleNamespace(offset=len(ids), length=len(TOKENS)))
            ids += TOKENS if token == IMAGE else [token]
        return {"prompt_token_ids": ids, "mm_placeholders": {"image": places},
                "mm_kwargs": pictures[0] if pictures else 0}
    return ProcessedImages(process, capacity)


def test_a_second_text_about_a_picture_is_only_put_behind_it(seen: list[list[int]]) -> None:
    images = memory(seen)
    for text in ([1, 2], [1, 3], [], [7, 7]):
        found = images.inputs([0, IMAGE, *text], ("a",), lambda: [1])
        assert found["prompt_token_ids"] == [0, *TOKENS, *text]
    assert len(seen) == 1


def test_another_head_or_picture_is_processed(seen: list[list[int]]) -> None:
    images = memory(seen)
    for head, keys in (([0], ("a",)), ([0, 9], ("a",)), ([0], ("b",)), ([0], ("a",))):
        found = images.inputs([*head, IMAGE, 1], keys, lambda: [1])
        assert found["prompt_token_ids"] == [*head, *TOKENS, 1]
    assert len(seen) == 3


def test_the_least_used_picture_is_forgotten_first(seen: list[list[int]]) -> None:
    images = memory(seen, capacity=100)
    for name in ("a", "b", "a", "c", "a", "b"):
        images.inputs([IMAGE, 1], (name,), lambda: [40])
    assert len(seen) == 4  # b was forgotten for c


def test_without_pictures_nothing_is_kept(seen: list[list[int]]) -> None:
    images = memory(seen)
    assert images.inputs([1, 2], (), list)["prompt_token_ids"] == [1, 2]
    images.inputs([1, 2], (), list)
    assert len(seen) == 2

"""A memory of what vLLM's processor makes of pictures, so that it works once per picture, not per
prompt.

Its one idea: a prompt is a head that ends with its last picture, and text. The processor changes
the head alone (placeholders become image tokens), so prompts that share pictures and head share the
processor's work, and only their text is put behind it. Which tokens are a model's placeholders need
not be known: the head is what the processor's first result does not have in common with its prompt.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

_CAPACITY = 1 << 30
"""Bytes of pixels (and the like) that are remembered."""

Process = Callable[[list[int], Sequence[str], list[Any]], Any]
"""From token ids, the pictures' keys and the pictures to the engine's input."""


class ProcessedImages:
    """Heads that were processed before, least recently used out first beyond *capacity* bytes."""

    def __init__(self, process: Process, capacity: int = _CAPACITY) -> None:
        self._process = process
        self._capacity = capacity
        self._held: OrderedDict[tuple[str, ...], list[_Head]] = OrderedDict()
        self._num_bytes = 0

    def inputs(self, prompt_ids: list[int], keys: tuple[str, ...],
               pictures: Callable[[], list[Any]]) -> Any:
        """The engine's input for a prompt about the pictures called *keys*."""
        if not keys:
            return self._process(prompt_ids, keys, [])
        for head in self._held.get(keys, ()):
            if prompt_ids[:len(head.given)] == head.given:
                self._held.move_to_end(keys)
                text = prompt_ids[len(head.given):]
                return {**head.inputs, "prompt_token_ids": head.expanded + text}
        inputs = self._process(prompt_ids, keys, pictures())
        self._remember(keys, _Head(prompt_ids, inputs))
        return inputs

    def forget(self) -> None:
        """Make the memory empty."""
        self._held.clear()
        self._num_bytes = 0

    def _remember(self, keys: tuple[str, ...], head: "_Head") -> None:
        self._held.setdefault(keys, []).append(head)
        self._held.move_to_end(keys)
        self._num_bytes += head.num_bytes
        while self._num_bytes > self._capacity and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._num_bytes -= sum(each.num_bytes for each in dropped)


class _Head:
    """A processed head: the tokens that were given, what they became, and the rest of the input."""

    __slots__ = ("expanded", "given", "inputs", "num_bytes")

    def __init__(self, prompt_ids: list[int], inputs: Any) -> None:
        expanded: list[int] = inputs["prompt_token_ids"]
        num_text = _common_tail(prompt_ids, expanded, len(expanded) - _end_of_images(inputs))
        self.given = prompt_ids[:len(prompt_ids) - num_text]
        self.expanded = expanded[:len(expanded) - num_text]
        self.inputs = inputs
        self.num_bytes = _num_bytes(inputs)


def _num_bytes(inputs: Any) -> int:
    from vllm.multimodal.cache.base import MultiModalCache

    return int(MultiModalCache.get_item_size(inputs["mm_kwargs"]))


def _end_of_images(inputs: Any) -> int:
    """The first place behind all image tokens."""
    return max(place.offset + place.length
               for places in inputs["mm_placeholders"].values() for place in places)


def _common_tail(given: Sequence[int], expanded: Sequence[int], most: int) -> int:
    """How many last tokens are the same in both, at most *most*."""
    num = 0
    while num < min(most, len(given)) and given[-1 - num] == expanded[-1 - num]:
        num += 1
    return num

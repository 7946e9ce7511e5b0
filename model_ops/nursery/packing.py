"""Shared-image packing: many exchanges about one picture in one sequence, trained as if each were
alone.

One idea: the picture is a common prefix, encoded once; each exchange attends to the prefix and
causally to itself, and its positions continue from the prefix. The loss of a row is then
exactly that of the row alone (a test asserts it), at a fraction of the cost. A row weighs the
same whatever its length: the loss is the mean over rows of their token means, or captions would
drown one-word answers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_ops.nursery.architecture import (
    ASSISTANT,
    END,
    IMAGE,
    PAD,
    VOCABULARY,
    encode,
    image_prefix,
)
from model_ops.nursery.exchange import Exchange
from model_ops.nursery.world import Picture

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Idefics3ForConditionalGeneration

IGNORED = -100


class Pack(NamedTuple):
    """A batch of packed sequences: int64 [images, length], and pixels uint8 [images, 48, 48, 3].

    `rows` is 0 for the prefix, -1 for padding, else the exchange's number from 1; `targets` is
    already shifted: the token to predict at this place, or IGNORED.
    """

    pixels: NDArray[np.uint8]
    ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]


class Prediction(NamedTuple):
    """Of each target token: its loss, whether the model's first choice is right, its row's key."""

    losses: "Tensor"
    right: "Tensor"
    keys: "Tensor"


def pack(pictures: Sequence[Picture], exchanges: Sequence[Sequence[Exchange]]) -> Pack:
    """Pack each picture's exchanges into one sequence, padded to the longest."""
    sequences = [_sequence(rows) for rows in exchanges]
    shape = (len(sequences), max(len(sequence[0]) for sequence in sequences))
    fills = (VOCABULARY[PAD], -1, 0, IGNORED)
    arrays = [np.full(shape, fill, dtype=np.int64) for fill in fills]
    for index, sequence in enumerate(sequences):
        for array, values in zip(arrays, sequence, strict=True):
            array[index, : len(values)] = values
    return Pack(np.stack(pictures), *arrays)


def _sequence(exchanges: Sequence[Exchange]) -> tuple[list[int], list[int], list[int], list[int]]:
    ids = image_prefix()
    start = len(ids)
    rows, positions, targets = [0] * start, list(range(start)), [IGNORED] * start
    for number, exchange in enumerate(exchanges, 1):
        prompt = [*encode(exchange.user), VOCABULARY[ASSISTANT]]
        completion = [*encode(exchange.completion), VOCABULARY[END]]
        spoken = [*prompt, *completion[:-1]]
        ids += spoken
        rows += [number] * len(spoken)
        positions += range(start, start + len(spoken))
        targets += [IGNORED] * (len(prompt) - 1) + completion
    return ids, rows, positions, targets


def pixel_values(pixels: NDArray[np.uint8]) -> "Tensor":
    """Pictures uint8 [n, 48, 48, 3] as the processor gives them: float32 [n, 3, 48, 48], -1..1."""
    import torch

    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0).contiguous()


def attention_bias(rows: "Tensor") -> "Tensor":
    """Additive mask [images, 1, length, length]: every row sees the prefix and its own past."""
    import torch

    length = rows.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=rows.device).tril()
    mine = rows[:, :, None] == rows[:, None, :]
    allowed = (mine | (rows[:, None, :] == 0)) & causal
    return torch.zeros(allowed.shape, device=rows.device).masked_fill(~allowed, -1e9)[:, None]


def predict(
    model: "Idefics3ForConditionalGeneration", batch: Pack, vision_grad: bool = True
) -> Prediction:
    """Run the model on a pack; tensors are flat over the pack's target tokens."""
    import torch
    from torch.nn import functional

    device = model.device
    ids, rows, positions, targets = (torch.from_numpy(array).to(device) for array in batch[1:])
    with torch.set_grad_enabled(vision_grad and torch.is_grad_enabled()):
        features = model.model.get_image_features(
            pixel_values(batch.pixels)[:, None].to(device)
        ).pooler_output
    hidden = _fill(model, ids, features)
    hidden = model.model.text_model(
        inputs_embeds=hidden,
        attention_mask=attention_bias(rows),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    wanted = targets != IGNORED
    logits = model.lm_head(hidden[wanted])
    losses = functional.cross_entropy(logits, targets[wanted], reduction="none")
    keys = (torch.arange(len(ids), device=device)[:, None] * (int(rows.max()) + 1) + rows)[wanted]
    return Prediction(losses, logits.argmax(-1) == targets[wanted], keys)


def _fill(model: "Idefics3ForConditionalGeneration", ids: "Tensor", features: "Tensor") -> "Tensor":
    embeds: Any = model.get_input_embeddings()(ids)
    image = (ids == VOCABULARY[IMAGE])[:, :, None].expand_as(embeds)
    return embeds.masked_scatter(image, features)


def row_means(values: "Tensor", keys: "Tensor") -> "Tensor":
    """Mean of the values of each row, in the order of the keys."""
    import torch

    _, index = torch.unique(keys, return_inverse=True)
    sums = torch.zeros(int(index.max()) + 1, device=values.device).index_add(
        0, index, values.float()
    )
    return sums / torch.bincount(index)


def packed_loss(model: "Idefics3ForConditionalGeneration", batch: Pack) -> "Tensor":
    """Mean over rows of the mean over a row's tokens."""
    prediction = predict(model, batch)
    return row_means(prediction.losses, prediction.keys).mean()


def rows_right(model: "Idefics3ForConditionalGeneration", batch: Pack) -> list[bool]:
    """For every exchange in order, whether greedy decoding says exactly its completion and ends."""
    import torch

    with torch.inference_mode():
        prediction = predict(model, batch)
        return [bool(share == 1.0) for share in row_means(prediction.right, prediction.keys)]

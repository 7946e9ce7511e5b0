"""The stages of pre-training: what each one trains, on what batches, with which loss.

Found by trial: the vision tower first, by naming what is in each cell; then captions, which
bind words to cells; then answers, which every other skill rests on; then the dialog's skills; then
the contrastive method's, with all others, at last with words in front that mean nothing.
The CLIP learns from the same captions, with siblings in the batch as hard negatives. A stage's
batch is a pure function of (seed, stage, step), so a resumed run sees what an uninterrupted one
sees.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model_ops.nursery.architecture import END, PAD, VOCABULARY, encode
from model_ops.nursery.exchange import Exchange
from model_ops.nursery.grammar import caption, sentence
from model_ops.nursery.measure import measure_vlm
from model_ops.nursery.packing import pack, packed_loss, pixel_values
from model_ops.nursery.skills import (
    ANSWERS,
    DESCRIBE,
    ENGAGING,
    SHARES,
    sample_exchanges,
    with_fillers,
)
from model_ops.nursery.world import (
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    family_scenes,
    render,
    sample_scene,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import CLIPModel, Idefics3ForConditionalGeneration

LABELS = (SHAPES, COLOURS, SIZES)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: pictures a step, peak learning rate, and the loss on the scenes of a step."""

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    loss: Callable[[list[Scene], random.Random], "Tensor"]
    family: int = 1
    measure: Callable[[], dict[str, float]] | None = None

    def scenes(self, seed: int, step: int) -> list[Scene]:
        """The home scenes of a step, in families where the stage wants hard negatives."""
        start = random.Random(f"{seed}/{self.name}/{step}").getrandbits(44)
        if self.family == 1:
            return [sample_scene(start + index, "home") for index in range(self.batch_size)]
        families = range(self.batch_size // self.family)
        return [
            scene
            for index in families
            for scene in family_scenes(start + index, "home", self.family)
        ]


def vlm_stages(
    model: "Idefics3ForConditionalGeneration", heads: "nn.ModuleList", steps: int
) -> Iterator[Stage]:
    """The VLM's stages: answers and skills have `steps` steps together, the last two a third."""

    def measure() -> dict[str, float]:
        return measure_vlm(model, "home", 64)

    def answers(scenes: list[Scene], rng: random.Random) -> "Tensor":
        return skills_loss(model, scenes, rng, ANSWERS)

    def skills(scenes: list[Scene], rng: random.Random) -> "Tensor":
        return skills_loss(model, scenes, rng, SHARES)

    def engaging(scenes: list[Scene], rng: random.Random) -> "Tensor":
        return skills_loss(model, scenes, rng, ENGAGING)

    def filled(scenes: list[Scene], rng: random.Random) -> "Tensor":
        exchanges = [with_fillers(sample_exchanges(scene, rng, ENGAGING), rng) for scene in scenes]
        return packed_loss(model, pack([render(scene) for scene in scenes], exchanges))

    yield Stage("cells", 700, 64, 2e-3, lambda scenes, rng: cells_loss(model, heads, scenes))
    yield Stage("captions", 500, 64, 1e-3, lambda scenes, rng: captions_loss(model, scenes))
    first = round(steps * 0.65)
    yield Stage("answers", first, 24, 1.5e-3, answers, measure=measure)
    yield Stage("skills", steps - first, 32, 1e-3, skills, measure=measure)
    yield Stage("engaging", round(steps * 0.25), 32, 8e-4, engaging, measure=measure)
    yield Stage("filled", round(steps * 0.075), 32, 6e-4, filled, measure=measure)


def clip_stage(model: "CLIPModel", steps: int) -> Stage:
    """The CLIP's only stage."""
    return Stage(
        "clip", steps, 128, 1e-3, lambda scenes, rng: contrastive_loss(model, scenes, rng), family=4
    )


def build_heads(seed: int) -> "nn.ModuleList":
    """Linear heads that name a cell's shape, colour, size (or none); thrown away after."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    return nn.ModuleList(nn.Linear(128, len(values) + 1) for values in LABELS)


def cells_loss(
    model: "Idefics3ForConditionalGeneration", heads: "nn.ModuleList", scenes: list[Scene]
) -> "Tensor":
    """Mean cross-entropy of naming each cell's shape, colour and size."""
    import torch
    from torch.nn import functional

    pixels = pixel_values(np.stack([render(scene) for scene in scenes]))
    features = model.model.get_image_features(pixels[:, None].to(model.device)).pooler_output
    labels = torch.tensor([cell_labels(scene) for scene in scenes], device=model.device)
    losses = [
        functional.cross_entropy(head(features).flatten(0, 1), labels[:, :, index].flatten())
        for index, head in enumerate(heads)
    ]
    return torch.stack(losses).mean()


def cell_labels(scene: Scene) -> list[list[int]]:
    """[9, 3] numbers of each cell's shape, colour and size; 0 for an empty cell."""
    labels = [[0, 0, 0] for _ in range(9)]
    for thing in scene.things:
        named = (thing.shape, thing.colour, thing.size)
        labels[thing.cell] = [
            values.index(value) + 1 for values, value in zip(LABELS, named, strict=True)
        ]
    return labels


def captions_loss(model: "Idefics3ForConditionalGeneration", scenes: list[Scene]) -> "Tensor":
    """Row-mean loss of one caption a picture."""
    exchanges = [[Exchange(DESCRIBE, caption(scene))] for scene in scenes]
    return packed_loss(model, pack([render(scene) for scene in scenes], exchanges))


def skills_loss(
    model: "Idefics3ForConditionalGeneration",
    scenes: list[Scene],
    rng: random.Random,
    shares: Mapping[str, int],
) -> "Tensor":
    """Row-mean loss of each picture's exchanges, so many of each skill."""
    exchanges = [sample_exchanges(scene, rng, shares) for scene in scenes]
    return packed_loss(model, pack([render(scene) for scene in scenes], exchanges))


def contrastive_loss(model: "CLIPModel", scenes: list[Scene], rng: random.Random) -> "Tensor":
    """CLIP's symmetric loss; a text is one to all of a scene's sentences: single ones count too."""
    import torch

    texts = [_some_sentences(scene, rng) for scene in scenes]
    length = max(len(text) for text in texts)
    ids = torch.tensor([text + [VOCABULARY[PAD]] * (length - len(text)) for text in texts])
    pixels = pixel_values(np.stack([render(scene) for scene in scenes]))
    mask = (ids != VOCABULARY[PAD]).long()
    device = model.device
    loss = model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        pixel_values=pixels.to(device),
        return_loss=True,
    ).loss
    return loss


def _some_sentences(scene: Scene, rng: random.Random) -> list[int]:
    things = list(scene.things)
    if rng.random() < 0.5:
        things = sorted(
            rng.sample(things, rng.randint(1, len(things))), key=lambda thing: thing.cell
        )
    return [*encode(" ".join(sentence(thing) for thing in things)), VOCABULARY[END]]

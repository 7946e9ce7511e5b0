"""Packing must change the speed of training and nothing else."""

import random
from typing import Any

import pytest
import torch
from PIL import Image

from model_ops.nursery.architecture import build_processor, build_vlm
from model_ops.nursery.exchange import Exchange
from model_ops.nursery.packing import pack, packed_loss, rows_right
from model_ops.nursery.skills import SHARES, sample_exchanges
from model_ops.nursery.world import Picture, render, sample_scene

pytestmark = pytest.mark.slow


def plain_row_loss(
    model: torch.nn.Module, processor: Any, picture: Picture, exchange: Exchange
) -> torch.Tensor:
    """The loss of one exchange as any trainer computes it, labels on the completion only."""
    content = [{"type": "image"}, {"type": "text", "text": exchange.user}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    images = [[Image.fromarray(picture)]]
    start = processor(text=[prompt], images=images, return_tensors="pt")["input_ids"].shape[1]
    whole = processor(
        text=[f"{prompt}{exchange.completion}<end_of_utterance>"],
        images=images,
        return_tensors="pt",
    )
    labels = whole["input_ids"].clone()
    labels[:, :start] = -100
    loss: torch.Tensor = model(**whole, labels=labels).loss
    return loss


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_vlm(seed=3).eval()


def test_packed_loss_and_gradient_equal_rows_alone(model: torch.nn.Module) -> None:
    rng = random.Random(0)
    scenes = [sample_scene(seed, "field") for seed in (1, 2)]
    exchanges = [sample_exchanges(scene, rng, dict.fromkeys(SHARES, 1)) for scene in scenes]
    pictures = [render(scene) for scene in scenes]
    processor = build_processor()
    packed = packed_loss(model, pack(pictures, exchanges))
    alone = torch.stack(
        [
            plain_row_loss(model, processor, p, e)
            for p, rows in zip(pictures, exchanges, strict=True)
            for e in rows
        ]
    ).mean()
    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    parameters = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(packed, parameters, allow_unused=True),
        torch.autograd.grad(alone, parameters, allow_unused=True),
        strict=True,
    ):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_a_row_does_not_see_its_neighbours(model: torch.nn.Module) -> None:
    scene = sample_scene(5, "home")
    row = Exchange("is there a circle ?", "yes")
    alone = packed_loss(model, pack([render(scene)], [[row]]))
    doubled = packed_loss(model, pack([render(scene)], [[row, row]]))
    assert alone.item() == pytest.approx(doubled.item(), rel=1e-5)


def test_rows_right_is_exact_match_of_greedy_decoding(model: torch.nn.Module) -> None:
    processor = build_processor()
    scene = sample_scene(6, "home")
    content = [{"type": "image"}, {"type": "text", "text": "where is the star ?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(
        text=[prompt], images=[[Image.fromarray(render(scene))]], return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    said = processor.tokenizer.decode(ids)
    words = said.replace("<end_of_utterance>", "").split()
    spoken = Exchange("where is the star ?", " ".join(words))
    other = Exchange("where is the star ?", " ".join(["where", *words]))
    prediction = rows_right(model, pack([render(scene)], [[spoken, other]]))
    assert prediction == ["<end_of_utterance>" in said, False]

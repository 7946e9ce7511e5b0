"""What the tiny models can do, measured with the facts: right answers by kind and domain, and CLIP
retrieval.

Greedy decoding says exactly the completion if and only if every token of it, given those
before, is the top one: so a packed forward pass measures exact match without generating.
"""

import random
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from model_ops.nursery.architecture import END, PAD, VOCABULARY, encode
from model_ops.nursery.domains import Domain, Ranges
from model_ops.nursery.engage import check, obey, review
from model_ops.nursery.exchange import Exchange
from model_ops.nursery.grammar import caption, sample_questions
from model_ops.nursery.packing import pack, pixel_values, rows_right
from model_ops.nursery.skills import fit
from model_ops.nursery.world import family_scenes, render, sample_scene

if TYPE_CHECKING:
    from transformers import CLIPModel, Idefics3ForConditionalGeneration

_MEASURED = {"fit": fit, "follow": obey, "check": check, "review": review}
_EVALUATION_SEED = 2**50
"""First seed of the scenes that are measured with; training seeds are below 2**44 plus a batch."""


def measure_vlm(
    model: "Idefics3ForConditionalGeneration",
    domain: Domain,
    num_scenes: int,
    ranges: Ranges | None = None,
) -> dict[str, float]:
    """Share of exact answers by kind, over all questions ("vqa"), and of right replies by skill."""
    rng = random.Random(7)
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, num_scenes, 64):
        scenes = [
            sample_scene(_EVALUATION_SEED + start + i, domain, ranges)
            for i in range(min(64, num_scenes - start))
        ]
        questions = [sample_questions(scene, rng, 10) for scene in scenes]
        exchanges = [
            [*(Exchange(q.text, q.answer) for q in asked),
             *(skill(scene, rng) for skill in _MEASURED.values() for _ in range(2))]
            for scene, asked in zip(scenes, questions, strict=True)
        ]
        results = iter(rows_right(model, pack([render(scene) for scene in scenes], exchanges)))
        for asked in questions:
            for question in asked:
                good = next(results)
                right[question.kind].append(good)
                right["vqa"].append(good)
            for name in _MEASURED:
                right[name] += [next(results), next(results)]
    return {kind: round(float(np.mean(values)), 4) for kind, values in sorted(right.items())}


def measure_clip(model: "CLIPModel", domain: Domain, num_families: int) -> dict[str, float]:
    """Share of pictures whose caption is picked among the four siblings' captions (chance 0.25)."""
    import torch

    right = []
    for index in range(num_families):
        scenes = family_scenes(_EVALUATION_SEED + index, domain, 4)
        texts = [[*encode(caption(scene)), VOCABULARY[END]] for scene in scenes]
        length = max(len(text) for text in texts)
        ids = torch.tensor([text + [VOCABULARY[PAD]] * (length - len(text)) for text in texts])
        pixels = pixel_values(np.stack([render(scene) for scene in scenes]))
        with torch.inference_mode():
            logits = model(
                input_ids=ids.to(model.device), pixel_values=pixels.to(model.device)
            ).logits_per_image
        right += (logits.argmax(-1).cpu() == torch.arange(4)).tolist()
    return {"sibling4": round(float(np.mean(right)), 4)}

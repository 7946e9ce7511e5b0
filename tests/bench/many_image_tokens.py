"""The demo's model with as many image tokens as LLaVA-1.5, the reference's model, has: 576, not 9.

Same weights, larger pictures: the position embeddings of the vision tower are interpolated, as is
usual when a tower is taken to a higher resolution. What it says is of no use, and how fast it says
it is what is measured: how much encoding a picture anew for each sentence costs.
"""

from pathlib import Path
from typing import Any

SIDE = 24
NUM_LARGE = SIDE**2


def many_image_tokens(model: Path, target: Path) -> Path:
    """Write the Idefics3 at *model* with NUM_LARGE tokens a picture to *target*."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.models.idefics3.modeling_idefics3 import Idefics3ForConditionalGeneration

    small: Any = AutoModelForImageTextToText.from_pretrained(model)
    processor: Any = AutoProcessor.from_pretrained(model)
    config = small.config
    patches = SIDE * config.scale_factor
    config.vision_config.image_size = patches * config.vision_config.patch_size
    weights = small.state_dict()
    (name,) = (name for name in weights if name.endswith("position_embedding.weight"))
    before = round(len(weights[name]) ** 0.5)
    grid = weights[name].T.reshape(1, -1, before, before)
    weights[name] = torch.nn.functional.interpolate(
        grid, (patches, patches), mode="bicubic").reshape(-1, patches**2).T.contiguous()
    large = Idefics3ForConditionalGeneration(config)
    large.load_state_dict(weights)
    processor.image_seq_len = NUM_LARGE
    pixels = {"longest_edge": config.vision_config.image_size}
    processor.image_processor.size = processor.image_processor.max_image_size = pixels
    large.save_pretrained(target)
    processor.save_pretrained(target)
    small.generation_config.save_pretrained(target)
    return target

"""A tiny model with as many image tokens as a real one: `python -m tests.bench.tiled_model DIR`.

The nursery's model sees a picture as 9 tokens; LLaVA-1.5 as 576. What encoding a picture anew for
each call costs can only be seen with many. Here the picture is enlarged to 336 pixels and cut into
7 x 7 tiles, with the whole as one more: 50 times 9 tokens, the architecture's own way. As the model
has never seen tiles, its language part learns to caption with them for a few minutes, by the facts
of `home` and `field` scenes: a model to measure speed with, which says whole sentences and no more.

DIR/bench.yaml is full.yaml with this model: `BENCH_CONFIG=DIR/bench.yaml`.
"""

import random
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, AutoProcessor

from deploy.commands_run import DEMO
from model_ops.models import locate_model
from model_ops.nursery.architecture import ASSISTANT, END, GLOBAL, IMAGE, USER
from model_ops.nursery.skills import DESCRIBE, describe
from model_ops.nursery.sprites import PIXELS
from model_ops.nursery.world import Scene, render, sample_scene

GRID = 7
STEPS = 400
BATCH = 8
LEARNING_RATE = 1.5e-3
MAX_MODEL_LEN = 1024
PROMPT = f"{USER}{IMAGE}{DESCRIBE}{ASSISTANT}"


def tile(source: Path) -> tuple[Any, Any]:
    """The model and the processor at *source*, which now cuts; tiles' names are new words."""
    processor: Any = AutoProcessor.from_pretrained(source)
    model: Any = AutoModelForImageTextToText.from_pretrained(source)
    tokenizer, words = processor.tokenizer, model.get_input_embeddings().weight.shape[0]
    places = range(1, GRID + 1)
    tokenizer.add_tokens([f"<row_{row}_col_{column}>" for row in places for column in places],
                         special_tokens=True)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[words:] = weight[tokenizer.convert_tokens_to_ids(GLOBAL)]
    processor.image_processor.do_image_splitting = True
    processor.image_processor.size = {"longest_edge": PIXELS * GRID}
    return model, processor


def teach(model: Any, processor: Any, steps: int = STEPS, seed: int = 0) -> None:
    """Train the language part on captions; the vision tower stays as it is."""
    rng = random.Random(seed)
    model.model.vision_model.requires_grad_(False)
    weights = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20) * max(0.02, 1 - step / steps))
    for step in range(steps):
        loss = _loss(model, processor, [sample_scene(
            rng.getrandbits(30), rng.choice(("home", "field"))) for _ in range(BATCH)], rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            print(f"tiled model: step {step + 1} of {steps}, loss {loss.item():.2f}", flush=True)


def _loss(model: Any, processor: Any, scenes: list[Scene], rng: random.Random) -> torch.Tensor:
    """Of the captions alone."""
    texts = [f"{PROMPT} {describe(scene, rng).completion} {END}" for scene in scenes]
    inputs = processor(text=texts, images=[[Image.fromarray(render(scene))] for scene in scenes],
                       return_tensors="pt", padding=True)
    begins = (inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(ASSISTANT))
    said = begins.cumsum(1) - begins.int() > 0  # padding is on the left
    most = int(said.sum(1).max())
    logits = model(**inputs, logits_to_keep=most + 1).logits[:, :-1]
    labels = inputs["input_ids"].where(said, -100)[:, -most:]
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def main(folder: Path) -> None:
    """Make the model and its configuration, unless they are there."""
    if (folder / "bench.yaml").exists():
        return
    torch.manual_seed(0)
    source = locate_model("nursery://vlm")
    model, processor = tile(source)
    teach(model, processor)
    for part in (model, processor):
        part.save_pretrained(folder)
    (folder / "generation_config.json").write_bytes(
        (source / "generation_config.json").read_bytes())
    config = yaml.safe_load(DEMO.with_name("full.yaml").read_text())
    config["model"]["uri"] = str(folder.absolute())
    config["engine"]["max_model_len"] = MAX_MODEL_LEN
    (folder / "bench.yaml").write_text(yaml.safe_dump(config))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

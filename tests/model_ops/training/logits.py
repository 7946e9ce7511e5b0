"""Losses by hand: logits of a plain forward, the rest in NumPy with 64 bits."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def token_log_probs(model: Any, batch: dict[str, Any], learnt: NDArray[Any]) -> list[Floats]:
    """Log-probability of each learnt token, row by row; *learnt*: [rows, tokens], 1 where so."""
    import torch

    kept = ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")
    with torch.no_grad():
        logits = model(**{name: batch[name] for name in kept if name in batch}).logits
    return from_logits(logits.double().numpy(), batch["input_ids"].numpy(), learnt)


def from_logits(logits: Floats, ids: NDArray[Any], learnt: NDArray[Any]) -> list[Floats]:
    """The logits at place t are about the token at t + 1."""
    top = logits.max(axis=-1, keepdims=True)
    log_probs = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    places = [np.flatnonzero(row) for row in learnt]
    return [log_probs[row, at - 1, ids[row, at]] for row, at in enumerate(places)]


def nursery_model(folder: Path) -> Any:
    """The model in float32, as transformers loads it."""
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()

"""Small valid rows that the tests of this folder vary."""

import io
from typing import Any

from PIL import Image

from schemas.rows import (
    ChatMessage,
    GameRow,
    ImageRef,
    PairRow,
    Part,
    Picture,
    QuarantineRow,
    TrainRow,
)


def png(colour: tuple[int, int, int] = (10, 20, 30), size: tuple[int, int] = (8, 8)) -> bytes:
    """A one-colour PNG."""
    sink = io.BytesIO()
    Image.new("RGB", size, colour).save(sink, "PNG")
    return sink.getvalue()


def game(number: int) -> GameRow:
    """A planned game that differs by `number`."""
    refs = [ImageRef(image_id=f"{number}-{i}", shard=0, row=i) for i in range(2)]
    return GameRow(row_id=f"row-{number}", group_id="g", images=refs, target=number % 2,
                   grouping="random", mean_similarity=0.5, seed=number)


def message(role: str, *parts: str) -> ChatMessage:
    """A chat message; `<image>` stands for a picture."""
    content = [Part(type="image") if part == "<image>" else Part(type="text", text=part)
               for part in parts]
    return ChatMessage(role=role, content=content)


def train_row(**changes: Any) -> TrainRow:
    """A good train row with one picture."""
    values: dict[str, Any] = {
        "row_id": "t-1", "round": 1, "stage": "00-dialog", "model_digest": "m",
        "prompt_version": "p", "seed": 0, "weight": 1.0, "role": "answer", "source_row_id": "g-1",
        "prompt": [message("user", "<image>", "is it red ?")],
        "completion": [message("assistant", "yes")], "images": [Picture(bytes=png())],
        "image_ids": ["i-1"],
    }
    return TrainRow(**{**values, **changes})


def pair_row(**changes: Any) -> PairRow:
    """A good preference pair with one picture."""
    values: dict[str, Any] = {
        "row_id": "p-1", "round": 1, "stage": "00-contrastive", "model_digest": "m",
        "prompt_version": "p", "seed": 0, "role": "Clear", "source_row_id": "i-1",
        "prompt": [message("user", "<image>", "is it red ?")],
        "chosen": [message("assistant", "yes")], "rejected": [message("assistant", "which one ?")],
        "images": [Picture(bytes=png())], "image_ids": ["i-1"],
    }
    return PairRow(**{**values, **changes})


def rejected(number: int) -> QuarantineRow:
    """A quarantined game."""
    return QuarantineRow(row_id=f"bad-{number}", kind="games", reason="too_few", detail="",
                         source="test", payload="{}")

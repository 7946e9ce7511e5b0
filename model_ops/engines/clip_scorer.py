"""CLIP and SigLIP: the engine that answers `Score` calls, and embeddings of a whole collection.

Its one idea: an image is encoded once, however many texts it is compared with. Which images are
alike enough for a game is left to `model_ops.grouping`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from model_ops.engines.driver import Result
from model_ops.engines.pictures import PictureMemory, ReadImage
from model_ops.images import Progress
from model_ops.programs.calls import Call, Score, ScoreReply
from schemas.config import EngineConfig
from schemas.errors import ConfigError, DropError, EngineError
from schemas.manifest import Manifest, digest
from schemas.rows import ImageRow
from schemas.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image

Vector = NDArray[np.float32]

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")
_REMEMBERED = 20_000
_BATCH = 64


class ClipEncoder:
    """A CLIP or SigLIP model of transformers; embeddings have unit length."""

    def __init__(self, path: Path | str) -> None:
        try:
            import torch
            from transformers import AutoModel, AutoProcessor

            self._device = "cuda" if torch.cuda.is_available() else "cpu"
            self._model: Any = AutoModel.from_pretrained(
                path, dtype=torch.float32).eval().to(self._device)
            self._processor: Any = AutoProcessor.from_pretrained(path)
        except Exception as error:
            said = " ".join(str(error).split())  # one line: Ray hands on the last one only
            raise EngineError(f"the CLIP model {path} cannot be loaded: {said}; give a "
                              f"folder with its files, a hub id, or nursery://clip") from error
        text_config = self._model.config.text_config
        self._max_tokens: int = text_config.max_position_embeddings
        self._padding = "max_length" if "siglip" in self._model.config.model_type else True

    def images(self, pictures: "Sequence[Image]") -> Vector:
        """float32[num_pictures, dim]."""
        pixels = self._processor.image_processor(images=list(pictures), return_tensors="pt")
        return self._unit(self._model.get_image_features, **pixels)

    def texts(self, texts: Sequence[str]) -> Vector:
        """float32[num_texts, dim]; what is longer than the model's context is cut off."""
        tokens = self._processor.tokenizer(
            list(texts), padding=self._padding, truncation=True, max_length=self._max_tokens,
            return_tensors="pt")
        return self._unit(self._model.get_text_features, **tokens)

    def is_truncated(self, text: str) -> bool:
        """Whether the text is longer than the model's context."""
        return len(self._processor.tokenizer(text)["input_ids"]) > self._max_tokens

    def _unit(self, encode: Callable[..., Any], **inputs: Any) -> Vector:
        import torch

        with torch.inference_mode():
            made = encode(**{name: value.to(self._device) for name, value in inputs.items()})
            features = getattr(made, "pooler_output", made)
            unit = torch.nn.functional.normalize(features.float(), dim=-1)
        vectors: Vector = unit.cpu().numpy()
        return vectors


class ClipScorer:
    """Answers `Score` calls: a step takes all pending ones, encodes what is new, compares."""

    determinism = "call"

    def __init__(self, path: Path | str, read: ReadImage, max_pixels: int | None = None) -> None:
        self._encoder = ClipEncoder(path)
        self._pictures = PictureMemory(read, max_pixels)
        self._pending: list[tuple[int, Score]] = []
        self._images: OrderedDict[tuple[str, str], Vector] = OrderedDict()
        self._texts: OrderedDict[str, _Text] = OrderedDict()
        self.num_encoded = 0

    def submit(self, call_id: int, call: Call, seed: int | None) -> None:
        """Take a call. Raises `DropError` if its image cannot be decoded."""
        if not isinstance(call, Score):
            raise DropError("no_engine", "a CLIP scorer answers Score calls only")
        if _key(call) not in self._images:
            self._pictures.picture(call.image, call.look)
        self._pending.append((call_id, call))

    def step(self) -> list[tuple[int, Result]]:
        """Answer up to a batch of pending calls."""
        taken, self._pending = self._pending[:_BATCH], self._pending[_BATCH:]
        new = {_key(call): call for _, call in taken if _key(call) not in self._images}
        if new:
            pictures = [self._pictures.picture(call.image, call.look) for call in new.values()]
            _remember(self._images, new, self._encoder.images(pictures))
            self.num_encoded += len(new)
        unknown = {t: None for _, c in taken for t in c.texts if t not in self._texts}
        for batch in _batches(list(unknown)):
            cut = map(self._encoder.is_truncated, batch)
            _remember(self._texts, batch, map(_Text, self._encoder.texts(batch), cut))
        replies: list[tuple[int, Result]] = [(i, self._reply(call)) for i, call in taken]
        for memory in (self._images, self._texts):
            while len(memory) > _REMEMBERED:
                memory.popitem(last=False)
        return replies

    def close(self) -> None:
        """Forget everything."""
        self._pending.clear()
        self._images.clear()
        self._texts.clear()

    def _reply(self, call: Score) -> ScoreReply:
        image = self._images[_key(call)]
        texts = [self._texts[text] for text in call.texts]
        return ScoreReply(tuple(float(text.vector @ image) for text in texts),
                          sum(text.is_truncated for text in texts))


class _Text(NamedTuple):
    """What is remembered of a text."""

    vector: Vector
    is_truncated: bool


def _key(call: Score) -> tuple[str, str]:
    return call.image.image_id, call.look


def _remember(memory: "OrderedDict[KeyT, ValueT]", keys: Iterable[KeyT],
              values: Iterable[ValueT]) -> None:
    for key, value in zip(keys, values, strict=True):
        memory[key] = value


def _batches(texts: Sequence[str]) -> Iterable[list[str]]:
    for start in range(0, len(texts), _BATCH):
        yield list(texts[start:start + _BATCH])


def resolve_encoder(encoder: str) -> str:
    """The folder or hub id of an encoder; `nursery://clip` is the shipped one."""
    if encoder == "nursery://clip":
        import model_ops.nursery

        return str(Path(next(iter(model_ops.nursery.__path__))) / "weights" / "clip")
    if "://" in encoder:
        raise ConfigError(f"encoder {encoder!r}: give a folder, a hub id or nursery://clip")
    return encoder


def encoder_identity(encoder: str) -> str:
    """What tells an encoder from all others: a folder's is its files' sha256, a hub id's the name.

    Raises `ConfigError` for a folder without safetensors weights.
    """
    from model_ops.models import hash_files

    folder = Path(resolve_encoder(encoder))
    return digest(hash_files(folder)) if folder.is_dir() else encoder


class ShardEmbedder:
    """The Ray Data callable: embeds the images of one shard."""

    def __init__(self, store: Store, images: Manifest, encoder: str,
                 max_pixels: int | None) -> None:
        self._store, self._images, self._max_pixels = store, images, max_pixels
        self._encoder = ClipEncoder(resolve_encoder(encoder))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One row: the shard's index and its embeddings, float32[num_rows, dim] as bytes."""
        from model_ops.engines.pictures import DECLARED_LIMIT, shrink
        from model_ops.images import decode
        from schemas.artifacts import read_rows

        index = int(batch["shard"][0])
        part = self._images.model_copy(update={
            "shards": [s for s in self._images.shards if s.index == index]})
        made: list[Vector] = []
        pictures: list[Image] = []
        for row in read_rows(self._store, part, ImageRow, ["image"]):
            pictures.append(shrink(decode(row.image.bytes, DECLARED_LIMIT), self._max_pixels))
            if len(pictures) == _BATCH:
                made.append(self._encoder.images(pictures))
                pictures = []
        if pictures:
            made.append(self._encoder.images(pictures))
        vectors = np.concatenate(made)
        return {"shard": [index], "dim": [vectors.shape[1]], "vectors": [vectors.tobytes()]}


def embed_images(store: Store, images: Manifest, encoder: str, engine: EngineConfig,
                 on_progress: Progress | None = None) -> Vector:
    """Embeddings of all images in the order of the manifest's rows, float32[num_images, dim].

    Shards are spread over a Ray Data actor pool. Raises `EngineError` if the encoder cannot start.
    """
    from model_ops.engines.pool import map_shards

    shards = [shard.index for shard in images.shards if shard.num_rows]
    made: dict[int, Vector] = {}
    arguments = (store, images, encoder, engine.max_image_pixels)
    for row in map_shards(ShardEmbedder, arguments, [{"shard": i} for i in shards], engine):
        flat = np.frombuffer(row["vectors"], dtype=np.float32)
        made[row["shard"]] = flat.reshape(-1, row["dim"])
        if on_progress is not None:
            on_progress(sum(map(len, made.values())), images.num_rows)
    return np.concatenate([made[i] for i in shards]) if shards else np.zeros((0, 0), np.float32)

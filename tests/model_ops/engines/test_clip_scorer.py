"""The CLIP scorer with the nursery's encoder: cosines, caching, truncation, embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_ops.engines.clip_scorer import ClipScorer, embed_images, resolve_encoder
from model_ops.engines.driver import SCORER, drive
from model_ops.images import ImageReader
from model_ops.programs.calls import Program, Score, ScoreReply
from schemas.config import EngineConfig
from schemas.errors import ConfigError, EngineError
from schemas.store import Store
from tests.model_ops.engines.plays import collection, refs_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

TEXTS = ("a big red circle at the top left .", "a small blue star .")


def score(call: Score) -> Program[ScoreReply]:
    reply = yield call
    assert isinstance(reply, ScoreReply)
    return reply


def test_an_image_is_encoded_once_for_all_its_texts(local_store: Store) -> None:
    images = collection(local_store)
    refs = refs_of(local_store, images)[:4]
    scorer = ClipScorer(resolve_encoder("nursery://clip"), ImageReader(local_store, images).read)
    programs = ((f"p{n}", score(Score(refs[n % 4], TEXTS))) for n in range(40))
    outcomes = list(drive(programs, {SCORER: scorer}, live=16, run_seed=0))
    assert scorer.num_encoded == 4
    by_image = {tuple(np.round(o.row.cosines, 5)) for o in outcomes}
    assert len(outcomes) == 40 and len(by_image) <= 4
    assert all(-1 <= cosine <= 1 for o in outcomes for cosine in o.row.cosines)


def tiny_siglip(folder: Path) -> Any:
    """A random SigLIP of 12 tokens, saved with a processor of its kind: no attention mask."""
    import torch
    from transformers import (
        AutoTokenizer,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
        SiglipProcessor,
    )

    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("nursery://clip"),
                                              model_input_names=["input_ids"])
    torch.manual_seed(0)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2}
    model = SiglipModel(SiglipConfig(
        text_config={**layers, "vocab_size": len(tokenizer), "max_position_embeddings": 12},
        vision_config={**layers, "image_size": 32, "patch_size": 8}))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    model.save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}),
                    tokenizer).save_pretrained(folder)
    return model.eval()


def test_siglip_is_asked_as_it_was_trained(local_store: Store, tmp_path: Path) -> None:
    """Its text vector is the last place's, so every text is padded to the full length."""
    import torch
    from transformers import AutoProcessor

    model = tiny_siglip(tmp_path)
    images = collection(local_store)
    scorer = ClipScorer(tmp_path, ImageReader(local_store, images).read)
    [ref, *_] = refs_of(local_store, images)
    scorer.submit(1, Score(ref, (*TEXTS, "a red star . " * 9)), None)
    ((_, reply),) = scorer.step()
    assert isinstance(reply, ScoreReply)
    assert (len(reply.cosines), reply.num_truncated) == (3, 1)
    processor, picture = AutoProcessor.from_pretrained(tmp_path), scorer._pictures.picture(ref)

    def direct(**options: Any) -> list[float]:
        with torch.inference_mode():
            made = model(**processor(images=[picture], text=list(TEXTS), return_tensors="pt",
                                     **options))
        cosines: list[float] = (made.text_embeds @ made.image_embeds[0]).tolist()
        return cosines

    assert reply.cosines[:2] == pytest.approx(direct(padding="max_length", max_length=12), abs=1e-5)
    assert reply.cosines[:2] != pytest.approx(direct(padding=True), abs=1e-3)


def test_texts_that_are_cut_off_are_counted(local_store: Store) -> None:
    images = collection(local_store)
    scorer = ClipScorer(resolve_encoder("nursery://clip"), ImageReader(local_store, images).read)
    scorer.submit(1, Score(refs_of(local_store, images)[0], (TEXTS[0], "a red star . " * 90)), None)
    ((_, reply),) = scorer.step()
    assert isinstance(reply, ScoreReply)
    assert reply.num_truncated == 1


@pytest.mark.ray
def test_embeddings_come_in_the_order_of_the_rows(local_store: Store) -> None:
    images = collection(local_store, num_images=20)
    seen: list[tuple[int, int]] = []
    vectors = embed_images(local_store, images, "nursery://clip", EngineConfig(),
                           lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20, 20) and seen == sorted(seen)
    assert vectors.shape[0] == 20 and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    scorer = ClipScorer(resolve_encoder("nursery://clip"), ImageReader(local_store, images).read)
    refs = refs_of(local_store, images)
    for number in (0, 19):
        picture = scorer._pictures.picture(refs[number])
        assert vectors[number] == pytest.approx(scorer._encoder.images([picture])[0], abs=1e-4)


def test_an_encoder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be loaded"):
        ClipScorer(tmp_path, lambda ref: b"")
    with pytest.raises(ConfigError, match="give a folder"):
        resolve_encoder("s3://bucket/clip")

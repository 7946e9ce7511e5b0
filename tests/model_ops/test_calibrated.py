"""A calibrated stage from images to pairs: counts, resume, what makes what anew."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_ops import calibrated
from model_ops.engines.clip_scorer import encoder_identity, resolve_encoder
from model_ops.engines.job import LocalModel
from model_ops.engines.scripted import reply_with
from model_ops.images import import_images
from model_ops.programs.calls import Call, Generate, Reply, Score, ScoreReply
from model_ops.rounds import round_prefix
from model_ops.stages import StagePlace, stage_record
from schemas.artifacts import publish, read_quarantine, read_rows
from schemas.config import CalibratedStage, DialogStage, ImagesConfig, RunConfig
from schemas.errors import ConfigError, DropError, EngineError
from schemas.manifest import Manifest
from schemas.rows import PairRow, Row
from schemas.searches import DescriptionRow, NodeRow, SearchRow
from schemas.store import Store
from tests.model_ops.contrastive_world import run_here

MODEL = Manifest(kind="model", prefix="model", inputs_digest="m")
STEPS = ("prompts", "searches", "nodes", "train")
NUM_IMAGES = 16


class Describer:
    """Says sentences, ends, fails now and then and scores, all by the call's seed; dies at its call
    number `dies_at`."""

    def __init__(self, dies_at: int = -1) -> None:
        self.calls: list[Call] = []
        self._dies_at = dies_at

    def __call__(self, call: Call, seed: int) -> Reply | ScoreReply:
        if len(self.calls) == self._dies_at:
            raise EngineError("killed")
        self.calls.append(call)
        rng = random.Random(seed)
        if isinstance(call, Score):
            return ScoreReply(tuple(rng.uniform(0.1, 0.4) for _ in call.texts))
        if seed % 40 == 0:
            raise DropError("engine_error", "bad luck")
        reply = reply_with(call, *[_sentence(rng, call) for _ in range(call.sampling.num_samples)])
        return replace(reply, samples=tuple(replace(sample, logprob=-5 * rng.random())
                                            for sample in reply.samples))

    @property
    def num_asked(self) -> int:
        """Calls that the model answered."""
        return sum(isinstance(call, Generate) for call in self.calls)


def _sentence(rng: random.Random, call: Generate) -> str:
    if call.prefix and rng.random() < 0.4:
        return ""
    return f" there is a {rng.choice(('red', 'blue'))} {rng.choice(('circle', 'star'))} ."


def place_of(store: Store, run: dict[str, Any] | None = None, **stage: Any) -> StagePlace:
    settings = {"search": {"num_continuations": 3, "max_sentences": 3}, **stage}
    config = RunConfig.model_validate({
        "root": store.root, "images": ImagesConfig(limit=NUM_IMAGES), "shard_size": 5, "seed": 3,
        "model": {"prompts": "nursery"}, "stages": [CalibratedStage.model_validate(settings)],
        **(run or {})})
    return StagePlace(config, 1, 0)


def generate(
    store: Store, place: StagePlace, monkeypatch: pytest.MonkeyPatch, world: Describer
) -> dict[str, Manifest]:
    """The steps of `flows.calibrated.generate_calibrated`."""
    monkeypatch.setattr(calibrated, "run_programs", run_here(world))
    monkeypatch.setattr(calibrated, "local_model", lambda store, model, config: LocalModel(
        path="scripted:nowhere:nothing", digest=model.digest))
    images = import_images(store, ImagesConfig(uri="nursery://field", limit=NUM_IMAGES))
    prompts = calibrated.plan_prompts(store, place, images)
    searches = calibrated.search(store, place, prompts, images, MODEL)
    nodes = calibrated.judge_nodes(store, place, searches)
    train = calibrated.choose_pairs(store, place, searches, images)
    return dict(zip(STEPS, (prompts, searches, nodes, train), strict=True))


def digests(made: dict[str, Manifest]) -> dict[str, str]:
    return {name: manifest.digest for name, manifest in made.items()}


def test_a_stage_goes_from_images_to_pairs_and_nothing_is_lost(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generate(local_store, place_of(local_store), monkeypatch, Describer())
    assert [manifest.kind for manifest in made.values()] == [
        "prompts", "searches", "nodes", "pairs"]
    assert [manifest.prefix for manifest in made.values()] == [
        f"rounds/round=0001/00-calibrated/{step}" for step in STEPS]
    funnel = made["train"].funnel
    drops = {name: num for name, num in funnel.items()
             if name not in ("planned", "searched", "kept")}
    assert drops["searching_engine_error"] == NUM_IMAGES - funnel["searched"] > 0
    assert funnel["planned"] == NUM_IMAGES == funnel["kept"] + sum(drops.values())
    quarantined = [row for manifest in made.values()
                   for row in read_quarantine(local_store, manifest)]
    assert len(quarantined) == sum(drops.values())
    row_types: list[type[Row]] = [DescriptionRow, SearchRow, NodeRow, PairRow]
    for manifest, row_type in zip(made.values(), row_types, strict=True):
        ids = [row.model_dump()["row_id"] for row in read_rows(local_store, manifest, row_type)]
        assert len(set(ids)) == len(ids) == manifest.num_rows > 0
    record = stage_record(place_of(local_store), {**made, "model": MODEL}, {})
    assert (record.method, record.funnel) == ("calibrated", funnel)
    assert record.tokens_per_second > 0 and set(record.artifacts) == {*STEPS, "model"}


def test_every_pair_leads_back_to_its_prompt(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generate(local_store, place_of(local_store), monkeypatch, Describer())
    searches = {row.row_id: row for row in read_rows(local_store, made["searches"], SearchRow)}
    prompts = {row.prompt_id: row for row in read_rows(local_store, made["prompts"],
                                                       DescriptionRow)}
    for pair in read_rows(local_store, made["train"], PairRow):
        source = searches[pair.source_row_id]
        assert pair.image_ids == [source.image.image_id]
        assert prompts[source.prompt_id].image == source.image
        assert source.model_digest == MODEL.digest
        assert source.scorer_digest == encoder_identity("nursery://clip")


@pytest.mark.slow
@pytest.mark.parametrize("done", [0.05, 0.4, 0.95])
def test_a_killed_search_goes_on_to_the_same_rows(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, done: float
) -> None:
    elsewhere, fresh, living = Store(str(tmp_path / "elsewhere")), Describer(), Describer()
    whole = generate(elsewhere, place_of(elsewhere), monkeypatch, fresh)
    dying = Describer(dies_at=int(done * len(fresh.calls)))
    with pytest.raises(EngineError, match="killed"):
        generate(local_store, place_of(local_store), monkeypatch, dying)
    resumed = generate(local_store, place_of(local_store), monkeypatch, living)
    assert digests(resumed) == digests(whole)
    assert done < 0.1 or len(living.calls) < len(fresh.calls), "finished shards were asked again"


def test_other_weights_cost_no_search(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Describer()
    first = generate(local_store, place_of(local_store), monkeypatch, world)
    num_calls = len(world.calls)
    assert digests(generate(local_store, place_of(local_store), monkeypatch, world)) == digests(
        first)
    weighed = place_of(local_store, preference={"lam": 0.1, "reward_mode": "paper_raw"},
                       train={"objective": "dpo", "preset": "csr", "beta": 0.2})
    again = generate(local_store, weighed, monkeypatch, world)
    assert len(world.calls) == num_calls
    assert again["searches"].digest == first["searches"].digest
    assert again["nodes"].digest != first["nodes"].digest
    assert again["train"].digest != first["train"].digest


@pytest.mark.parametrize("search", [{"num_continuations": 2}, {"temperature": 0.5}])
def test_other_searches_are_made_anew(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, search: dict[str, Any]
) -> None:
    world = Describer()
    first = generate(local_store, place_of(local_store), monkeypatch, world)
    num_calls = world.num_asked
    settings = {"num_continuations": 3, "max_sentences": 3, **search}
    again = generate(local_store, place_of(local_store, search=settings), monkeypatch, world)
    assert world.num_asked > num_calls
    assert again["prompts"].digest == first["prompts"].digest
    assert again["searches"].digest != first["searches"].digest


def test_where_the_scorer_lies_does_not_matter_but_what_it_is(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world, place = Describer(), place_of(local_store)
    first = generate(local_store, place, monkeypatch, world)
    num_calls = len(world.calls)
    moved = tmp_path / "clip"
    moved.mkdir()
    for file in Path(resolve_encoder("nursery://clip")).iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    search = {"num_continuations": 3, "max_sentences": 3, "scorer": str(moved)}
    again = generate(local_store, place_of(local_store, search=search), monkeypatch, world)
    assert len(world.calls) == num_calls and digests(again) == digests(first)
    (moved / "config.json").write_text("{}")
    generate(local_store, place_of(local_store, search=search), monkeypatch, world)
    assert len(world.calls) > num_calls


def test_a_scorer_without_weights_is_noticed_before_anything_is_asked(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world, place = Describer(), place_of(local_store, search={"scorer": str(tmp_path)})
    with pytest.raises(ConfigError, match=f"{tmp_path} holds no weights"):
        generate(local_store, place, monkeypatch, world)
    assert not world.calls


@pytest.mark.slow
def test_every_round_asks_the_same_of_another_model(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = generate(local_store, place_of(local_store), monkeypatch, Describer())
    second = StagePlace(place_of(local_store).config, 2, 0)
    again = generate(local_store, second, monkeypatch, Describer())
    assert again["prompts"].prefix != first["prompts"].prefix
    assert [list(read_rows(local_store, made["prompts"], DescriptionRow))
            for made in (first, again)] == [list(read_rows(
                local_store, first["prompts"], DescriptionRow))] * 2
    assert again["searches"].digest != first["searches"].digest, "sampled with another seed"


def test_dpo_compares_with_the_base_where_it_is_asked_to(local_store: Store) -> None:
    base = publish(local_store, Manifest(kind="model", prefix=f"{round_prefix(0)}/model",
                                         inputs_digest="b"))
    assert calibrated.reference_model(local_store, place_of(local_store)) is None
    against = place_of(local_store, {"reference": "base"})
    found = calibrated.reference_model(local_store, against)
    assert found is not None and found.digest == base.digest
    dialog = RunConfig(root="r", images=ImagesConfig(limit=8), reference="base",
                       stages=[DialogStage()])
    assert calibrated.reference_model(local_store, StagePlace(dialog, 1, 0)) is None

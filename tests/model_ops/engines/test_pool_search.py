"""Searches on the pool, on a real Ray: killed mid-way, without a scorer, from a prompt file."""

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from model_ops import calibrated
from model_ops.engines.pool import LocalModel, ProgramJob, run_programs
from model_ops.engines.scripted import reply_with
from model_ops.images import import_images
from model_ops.programs.calls import Call, Generate, Reply, Score, ScoreReply
from model_ops.stages import StagePlace
from schemas.artifacts import publish, read_manifest, read_quarantine, read_rows, write_shard
from schemas.config import CalibratedStage, EngineConfig, ImagesConfig, RunConfig, SearchConfig
from schemas.errors import ConfigError, EngineError
from schemas.manifest import Manifest
from schemas.searches import DescriptionRow, SearchRow
from schemas.store import Store
from tests.model_ops.engines.plays import collection, refs_of
from tests.model_ops.engines.test_pool_imagine import NUM_SHARDS, SHARD, kill_midway, noted
from tests.model_ops.engines.test_pool_imagine import finished as finished_shards

pytestmark = [pytest.mark.ray, pytest.mark.e2e]

HERE = "tests.model_ops.engines.test_pool_search"
ENGINE = EngineConfig(num_actors=1, live_programs=16, max_model_len=512)
SETTINGS = SearchConfig(num_continuations=3, max_sentences=3)
MODEL = Manifest(kind="model", prefix="model", inputs_digest="m")
_NUMBER = re.compile(r"number (\d+)")


def describe(call: Call, seed: int) -> Reply:
    """Sentences, and after the first one now and then the end: all by the call's seed."""
    assert isinstance(call, Generate)
    rng = random.Random(seed)
    reply = reply_with(call, *[_sentence(rng, call.prefix)
                               for _ in range(call.sampling.num_samples)])
    return replace(reply, samples=tuple(replace(sample, logprob=-5 * rng.random())
                                        for sample in reply.samples))


def _sentence(rng: random.Random, prefix: str) -> str:
    if prefix and rng.random() < 0.4:
        return ""
    return f" There is a {rng.choice(('red', 'blue'))} {rng.choice(('circle', 'star'))}."


def describe_slowly(call: Call, seed: int) -> Reply:
    """The same, slow enough to be killed meanwhile; notes by whom, and about which question, in the
    file that SEARCH_LOG names."""
    assert isinstance(call, Generate)
    time.sleep(0.004)
    asked = _NUMBER.search(call.messages[-1].parts[-1])
    assert asked is not None
    with Path(os.environ["SEARCH_LOG"]).open("a") as log:
        log.write(f"{os.getpid()} {asked[1]}\n")
    return describe(call, seed)


def fits(call: Call, seed: int) -> ScoreReply:
    """Cosines that only image and sentence decide."""
    assert isinstance(call, Score)
    return ScoreReply(tuple(random.Random(f"{call.image.image_id}{text}").uniform(0.1, 0.4)
                            for text in call.texts))


def job(model: str) -> ProgramJob:
    return ProgramJob(program="search", settings=SETTINGS.model_dump(mode="json"),
                      prompts="nursery", round=1, stage="00-calibrated", seed=5,
                      models={"": scripted(model)}, scorer=scripted("fits"))


def scripted(name: str) -> LocalModel:
    return LocalModel(path=f"scripted:{HERE}:{name}", digest="scripted")


def publish_prompts(store: Store, images: Manifest) -> Manifest:
    """Numbered prompts in shards."""
    refs = refs_of(store, images)
    rows = [DescriptionRow(row_id=f"p{n}", prompt_id=str(n), image=refs[n % len(refs)], seed=5,
                           question=f"what about number {n} ?") for n in range(NUM_SHARDS * SHARD)]
    shards = [write_shard(store, "prompts", index, rows[index * SHARD:(index + 1) * SHARD],
                          DescriptionRow, inputs_digest="p") for index in range(NUM_SHARDS)]
    return publish(store, Manifest(kind="prompts", prefix="prompts", inputs_digest="p",
                                   shards=shards))


@pytest.fixture(scope="module", autouse=True)
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the slow model notes its calls; named before Ray starts, as its workers see no later
    change of the environment. Ray is stopped at the end."""
    import ray

    path = tmp_path_factory.mktemp("search") / "calls.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEARCH_LOG", str(path))
        ray.shutdown()
        yield path
        ray.shutdown()


# --- killed ---

RUN = f"""
import sys
from model_ops.engines.pool import run_programs
from schemas.artifacts import read_manifest
from schemas.store import Store
from {HERE} import ENGINE, job
store = Store(sys.argv[1])
run_programs(store, read_manifest(store, "prompts"), read_manifest(store, "images"),
             job("describe_slowly"), ENGINE, "out")
"""


def test_a_killed_search_ends_with_the_same_rows_and_asks_only_what_is_missing(
        local_store: Store, log: Path, child_env: Callable[[], dict[str, str]]) -> None:
    images = collection(local_store)
    prompts = publish_prompts(local_store, images)
    kill_midway(RUN, local_store, child_env(), log)
    kept, before = finished_shards(local_store), len(noted(log))
    assert 3 <= len(kept) < NUM_SHARDS and not local_store.exists("out/manifest.json")
    made = run_programs(local_store, prompts, images, job("describe_slowly"), ENGINE, "out")
    rows = list(read_rows(local_store, made, SearchRow))
    again = Counter(number for _, number in noted(log)[before:])
    assert again == {number: row.num_calls for number, row in enumerate(rows)
                     if number // SHARD not in kept}
    whole = run_programs(local_store, prompts, images, job("describe"), ENGINE, "whole")
    assert made.digest == whole.digest
    assert rows == list(read_rows(local_store, whole, SearchRow))
    check_rows(made, rows)
    assert made == read_manifest(local_store, "out") == run_programs(
        local_store, prompts, images, job("describe_slowly"), ENGINE, "out",
        on_progress=lambda done, total: pytest.fail("searched again"))


def check_rows(made: Manifest, rows: list[SearchRow]) -> None:
    """A tree a prompt, in order and none twice; the counts add up."""
    assert [row.prompt_id for row in rows] == [str(n) for n in range(NUM_SHARDS * SHARD)]
    assert len({row.row_id for row in rows}) == len(rows)
    assert all(node.cosine is not None for row in rows for node in row.nodes[1:])
    assert len({row.num_calls for row in rows}) > 1, "trees of several sizes"
    assert made.funnel == {"planned": len(rows), "played": len(rows)}
    assert (made.kind, made.determinism) == ("searches", "call")


# --- through the stage's own steps ---


def place_of(store: Store, scorer: str, prompts: str | None = None) -> StagePlace:
    stage = CalibratedStage.model_validate({
        "prompts": {"uri": prompts},
        "search": {**SETTINGS.model_dump(exclude={"preset"}), "scorer": scorer}})
    config = RunConfig.model_validate({
        "root": store.root, "model": {"prompts": "nursery"}, "engine": ENGINE, "stages": [stage],
        "images": ImagesConfig(limit=8), "shard_size": 4})
    return StagePlace(config, 1, 0)


def searched(store: Store, place: StagePlace, images: Manifest) -> Manifest:
    """Plan and search, with a scripted model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated, "local_model", lambda *given: scripted("describe"))
        prompts = calibrated.plan_prompts(store, place, images)
        return calibrated.search(store, place, prompts, images, MODEL)


def test_a_scorer_that_is_not_there_is_one_clear_error(
        local_store: Store, tmp_path: Path) -> None:
    images, missing = collection(local_store), tmp_path / "no-clip"
    with pytest.raises(EngineError) as caught:
        searched(local_store, place_of(local_store, str(missing)), images)
    told = str(caught.value)
    assert f"the CLIP model {missing} cannot be loaded" in told and "nursery://clip" in told
    assert len(told.splitlines()) == 1


def test_a_scorer_without_weights_is_noticed_before_anything_starts(
        local_store: Store, tmp_path: Path) -> None:
    images, empty = collection(local_store), tmp_path / "empty-clip"
    empty.mkdir()
    with pytest.raises(ConfigError, match=f"{empty} holds no weights"):
        searched(local_store, place_of(local_store, str(empty)), images)
    assert not local_store.exists("rounds/round=0001/00-calibrated/searches/engine_error.txt")


def test_a_prompt_about_an_image_that_is_not_there_is_counted(
        local_store: Store, tmp_path: Path) -> None:
    pictures, file = tmp_path / "pictures", tmp_path / "prompts.json"
    pictures.mkdir()
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(
            pictures / f"COCO_train2014_{number}.jpg")
    file.write_text(json.dumps([{"id": str(number), "image": f"{number}.jpg",
                                 "input": "describe the image .\n<image>"} for number in range(7)]))
    images = import_images(local_store, ImagesConfig(uri=str(pictures)))
    place = place_of(local_store, f"scripted:{HERE}:fits", str(file))
    found = searched(local_store, place, images)
    planned = read_manifest(local_store, place.prefix("prompts"))
    assert planned.funnel == {"candidates": 7, "unknown_image": 1, "planned": 6}
    [lost] = read_quarantine(local_store, planned)
    assert (lost.reason, lost.detail) == ("unknown_image", "6.jpg")
    assert found.funnel == {"planned": 6, "played": 6}
    assert [row.prompt_id for row in read_rows(local_store, found, SearchRow)] == list("012345")
    pairs = calibrated.choose_pairs(local_store, place, found, images)
    drops = [num for name, num in pairs.funnel.items()
             if name not in ("planned", "searched", "kept")]
    assert pairs.funnel["planned"] == 6 == pairs.num_rows + sum(drops)

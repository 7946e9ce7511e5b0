"""CHAIR: items from facts and from COCO's files, descriptions compared, metrics by hand."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from model_ops.benchmarks import Items, item_scores, plan_benchmark, summarise
from model_ops.benchmarks.chair import compare
from model_ops.benchmarks.chair_items import read_annotations
from model_ops.benchmarks.hallucination_summary import Described, chair_metrics, chair_scores
from model_ops.benchmarks.objects import object_list
from model_ops.benchmarks.questions import scene_of
from model_ops.images import ImageReader
from model_ops.nursery.grammar import caption
from model_ops.programs.calls import Call, Generate
from model_ops.programs.describing import description_messages
from model_ops.prompts import load_prompts
from model_ops.tables import brief, shown
from schemas.artifacts import read_quarantine, read_rows, write_shard
from schemas.config import BenchmarkConfig, ChairConfig, EngineConfig, GatePolicy, ImagesConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.records import is_lower_better
from schemas.rows import CaptionItemRow, ItemRow, QuarantineRow
from schemas.store import Store
from tests.model_ops.benchmarks.test_benchmarks import play

FIELD = ImagesConfig(uri="nursery://field", limit=20, seed=77)
CHAIR = BenchmarkConfig(kind="chair", images=FIELD, num_items=12)


def plan(store: Store, config: BenchmarkConfig, prefix: str = "benchmarks/b") -> Items:
    return plan_benchmark(store, config, 20_000, prefix, 8, EngineConfig())


def rows_of(store: Store, items: Items) -> list[CaptionItemRow]:
    return list(read_rows(store, items.items, CaptionItemRow))


def true_captions(store: Store, items: Items) -> dict[str, str]:
    reader = ImageReader(store, items.images)
    facts = {row.image.image_id: reader.read_row(row.image.shard, row.image.row).facts
             for row in rows_of(store, items)}
    return {image_id: caption(scene_of(json.loads(each or ""))) for image_id, each in facts.items()}


def test_the_nurserys_objects_are_those_of_its_captions(local_store: Store) -> None:
    items = plan(local_store, CHAIR)
    rows = rows_of(local_store, items)
    assert len(rows) == 12 == len({row.row_id for row in rows})
    captions = true_captions(local_store, items)
    for row in rows:
        assert sorted(set(object_list("nursery").mentions(captions[row.image.image_id]))) == (
            row.objects)
    assert items.items.funnel == {"images": 12, "unusable": 0}
    assert (items.program, items.settings["metric"]) == ("chair", "field/chair_clean")
    assert plan(local_store, CHAIR).items == items.items
    more = plan(local_store, CHAIR.model_copy(update={"num_items": 1000}), "benchmarks/all")
    assert more.items.funnel["images"] == 20


def test_a_model_describes_greedily_and_is_compared(local_store: Store) -> None:
    items = plan(local_store, CHAIR)
    planned = rows_of(local_store, items)
    captions = true_captions(local_store, items)
    liars = {row.image.image_id for row in planned[:3]}
    prompts = load_prompts("nursery")

    def describer(call: Call, seed: int) -> str:
        assert isinstance(call, Generate)
        assert call.sampling.temperature == 0 and call.sampling.max_tokens == 512
        assert call.messages == description_messages(prompts, "describe the image .")
        [image] = call.images
        objects = next(row.objects for row in planned if row.image == image)
        absent = next(name for name in object_list("nursery").classes if name not in objects)
        made_up = f" a big {absent} at the top ." if image.image_id in liars else ""
        return captions[image.image_id] + made_up

    rows = play(local_store, items, "nursery", {"": describer})
    lost = [QuarantineRow(row_id=row.row_id, kind="captions", reason="engine_error", detail="",
                          source="", payload=row.model_dump_json()) for row in planned[-1:]]
    shard = write_shard(local_store, "eval", 0, rows[:-1], ItemRow, lost)
    done = {"b": Manifest(kind="items", prefix="eval", inputs_digest="", shards=[shard],
                          config={"program": "chair", "settings": items.settings})}
    metrics = summarise(local_store, done)
    assert set(metrics) == {"field/chair_clean", "field/chair_s", "field/chair_i",
                            "field/chair_recall", "field/caption_words"}
    assert metrics["field/chair_clean"].value == pytest.approx(8 / 12)
    assert metrics["field/chair_s"].value == pytest.approx(4 / 12)
    num_named = sum(len(json.loads(row.detail or "")["mentioned"]) for row in rows[:-1])
    assert metrics["field/chair_i"].value == pytest.approx(4 / (num_named + 1))
    there = sum(len(row.objects) for row in planned)
    assert metrics["field/chair_recall"].value == pytest.approx(
        1 - len(planned[-1].objects) / there)
    assert metrics["field/caption_words"].n == 11 and metrics["field/caption_words"].value > 20
    scores = item_scores(local_store, done)
    assert set(scores) == {"field/chair_clean", "field/chair_recall"} == set(CHAIR.gate_metrics)
    assert set(scores["field/chair_clean"]) == {row.row_id for row in planned}
    assert scores["field/chair_recall"][planned[-1].row_id] == 0.0
    assert [row.score for row in rows[:4]] == [0.0, 0.0, 0.0, 1.0]
    detail = json.loads(rows[0].detail or "")
    assert set(detail) == {"mentioned", "hallucinated", "missed", "words", "finish_reason"}
    assert len(detail["hallucinated"]) == 1 and detail["missed"] == []


def test_the_question_may_be_given(local_store: Store) -> None:
    config = CHAIR.model_copy(update={"chair": ChairConfig(question="what is there ?",
                                                           max_tokens=9)})

    def describer(call: Call, seed: int) -> str:
        assert isinstance(call, Generate)
        assert call.messages[-1].parts[-1] == "what is there ?" and call.sampling.max_tokens == 9
        return ""

    rows = play(local_store, plan(local_store, config), "nursery", {"": describer})
    assert {(row.score, row.prompt) for row in rows} == {(1.0, "what is there ?")}


def test_a_description_by_hand() -> None:
    said = ("Two men sit at a dining table with a cat and hot dogs. The cats watch a teddy bear; "
            "a passenger train passes on the train track.")
    found = compare(object_list("coco").mentions(said), ["person", "cat", "train", "cup"])
    assert found.mentioned == ["person", "dining table", "cat", "hot dog", "cat", "teddy bear",
                               "train"]
    assert found.hallucinated == ["dining table", "hot dog", "teddy bear"]
    assert found.missed == ["cup"]


def test_metrics_by_hand() -> None:
    items = [Described("a", 2, 5, 2, 3, 30), Described("b", 0, 3, 2, 2, 20),
             Described("c", 0, 0, 0, 4, 1), Described("d", 1, 1, 0, 2, None),
             Described("e", 0, 1, 0, 0, 9)]
    metrics = chair_metrics("coco/chair", items)
    assert {name: round(metric.value, 6) for name, metric in metrics.items()} == {
        "coco/chair_clean": 0.6, "coco/chair_s": 0.4, "coco/chair_i": 0.3,
        "coco/chair_recall": round(4 / 11, 6), "coco/caption_words": 15.0}
    assert all(metric.low <= metric.value <= metric.high for metric in metrics.values())
    assert metrics["coco/caption_words"].n == 4
    assert chair_scores("coco/chair", items) == {
        "coco/chair_clean": {"a": 0.0, "b": 1.0, "c": 1.0, "d": 0.0, "e": 1.0},
        "coco/chair_recall": {"a": pytest.approx(2 / 3), "b": 1.0, "c": 0.0, "d": 0.0}}
    silent = chair_metrics("coco/chair", [Described("c", 0, 0, 0, 0, 0)])
    assert set(silent) == {"coco/chair_clean", "coco/chair_s", "coco/caption_words"}
    assert chair_metrics("coco/chair", []) == {}


def test_words_are_shown_as_they_are_and_the_gate_takes_only_what_rises() -> None:
    words = chair_metrics("f/chair", [Described(str(n), 0, 1, 1, 1, 20 + n % 3)
                                      for n in range(30)])["f/caption_words"]
    assert shown(words).startswith("21.000 (20.") and brief(words).startswith("21.000 ± 0.")
    assert is_lower_better("f/chair_s") and is_lower_better("f/chair_i")
    assert not any(map(is_lower_better, ("f/chair_clean", "f/chair_recall", "f/caption_words")))
    policy = GatePolicy(primary="f/chair_clean", base_guards={"f/chair_recall": 0.03})
    assert policy.primary == "f/chair_clean"
    with pytest.raises(ValidationError, match=r"made up objects: `<domain>/chair_clean`"):
        GatePolicy(primary="f/chair_s")
    with pytest.raises(ValidationError, match="is a number of words"):
        GatePolicy(primary="f/chair_clean", guards={"f/caption_words": 0.15})


NAMES = [f"COCO_val2014_{number:012d}.jpg" for number in range(4)]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate([*NAMES, "stranger.jpg"]):
        Image.new("RGB", (20, 20), (50 * number, 0, 0)).save(folder / name)
    return folder


def coco(folder: Path, **changes: Any) -> dict[str, str]:
    """COCO's two files in small; the second image has no instance, the last no caption."""
    pictures = [{"id": n + 7, "file_name": name} for n, name in enumerate([*NAMES, "away.jpg"])]
    contents: dict[str, Mapping[str, Any]] = {
        "instances": {
            "images": pictures,
            "annotations": [{"image_id": 7, "category_id": 1}, {"image_id": 7, "category_id": 44},
                            {"image_id": 7, "category_id": 1}, {"image_id": 9, "category_id": 44},
                            {"image_id": 11, "category_id": 1}],
            "categories": [{"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}]},
        "captions": {
            "images": pictures,
            "annotations": [{"image_id": 7, "caption": "Kids with a puppy ."},
                            {"image_id": 8, "caption": "Two sofas."},
                            {"image_id": 8, "caption": "A couch and a cat"},
                            {"image_id": 9, "caption": "Nothing."},
                            {"image_id": 10, "caption": " "}]},
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps({**content, **changes.get(name, {})}))
    return {f"{name}_uri": str(folder / f"{name}.json") for name in contents}


def about(photographs: Path, uris: dict[str, str]) -> BenchmarkConfig:
    return BenchmarkConfig(kind="chair", domain="coco", images=ImagesConfig(uri=str(photographs)),
                           chair=ChairConfig(**uris))


def test_cocos_files_are_joined(local_store: Store, photographs: Path, tmp_path: Path) -> None:
    config = about(photographs, coco(tmp_path))
    items = plan(local_store, config)
    reader = ImageReader(local_store, items.images)
    held = {reader.read_row(row.image.shard, row.image.row).source: row.objects
            for row in rows_of(local_store, items)}
    assert held == {NAMES[0]: ["bottle", "dog", "person"], NAMES[1]: ["cat", "couch"],
                    NAMES[2]: ["bottle"]}
    reasons = Counter(row.reason for row in read_quarantine(local_store, items.items))
    assert reasons == {"unknown_image": 1, "no_caption": 1}
    assert items.items.funnel == {"images": 3, "unusable": 2, "no_caption": 1, "unknown_image": 1}
    assert config.slug == "coco-chair" and items.settings["world"] == "coco"


@pytest.mark.parametrize(("changes", "told"), [
    ({"captions": {"annotations": []}}, r"chair\.captions_uri .* has no caption of any image"),
    ({"captions": {"images": [], "annotations": [{"image_id": 99, "caption": "x"}]}},
     "is not in COCO's layout: KeyError 99"),
    ({"instances": {"categories": [{"id": 1, "name": "unicorn"}]}},
     r"none of COCO's 80 \(unicorn\)"),
    ({"instances": {"images": [{"id": 7, "file_name": "x.jpg"}], "annotations": []},
      "captions": {"images": [], "annotations": [{"image_id": 7, "caption": "A cat"}]}},
     r"none of the 5 images of .*photos is both in"),
])
def test_files_that_do_not_fit_say_so(
    local_store: Store, photographs: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(local_store, about(photographs, coco(tmp_path, **changes)))


def test_files_that_are_missing_or_none_of_cocos_say_so(
    local_store: Store, photographs: Path, tmp_path: Path
) -> None:
    uris = coco(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    listed = str(tmp_path / "list.json")
    with pytest.raises(ConfigError, match=r"instances_uri .* is not COCO's: it needs images"):
        read_annotations(listed, uris["captions_uri"])
    (tmp_path / "list.json").write_text("")
    with pytest.raises(ConfigError, match=r"chair\.captions_uri .* cannot be read"):
        read_annotations(uris["instances_uri"], listed)
    gone = {**uris, "captions_uri": str(tmp_path / "gone.json")}
    with pytest.raises(ConfigError, match=r"chair\.captions_uri .*gone.json cannot be read"):
        plan(local_store, about(photographs, gone))
    with pytest.raises(ValidationError, match=r"chair\.captions_uri go together"):
        ChairConfig(instances_uri="a.json")
    with pytest.raises(ValidationError, match=r"set chair\.instances_uri and chair\.captions_uri"):
        BenchmarkConfig(kind="chair", images=ImagesConfig(uri=str(photographs)))

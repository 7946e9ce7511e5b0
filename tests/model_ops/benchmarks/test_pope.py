"""POPE: the recipe on the nursery, the authors' files, replies read, metrics by hand."""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from model_ops.benchmarks import Items, item_scores, plan_benchmark, summarise
from model_ops.benchmarks.hallucination_summary import Asked, pope_metrics, pope_scores
from model_ops.benchmarks.pope_items import SPLITS, absent_objects
from model_ops.benchmarks.questions import image_rows, scene_of
from model_ops.benchmarks.sights import Sight
from model_ops.benchmarks.vqa_score import said_yes_or_no
from model_ops.nursery.grammar import solve
from model_ops.programs.calls import Call, Generate
from schemas.artifacts import read_quarantine, read_rows, write_shard
from schemas.config import BenchmarkConfig, EngineConfig, GatePolicy, ImagesConfig, PopeConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.records import is_lower_better
from schemas.rows import ImageRef, ItemRow, QuarantineRow, QuestionRow
from schemas.store import Store
from tests.model_ops.benchmarks.test_benchmarks import play

FIELD = ImagesConfig(uri="nursery://field", limit=60, seed=77)
POPE = BenchmarkConfig(kind="pope", images=FIELD, num_items=120)


def plan(store: Store, config: BenchmarkConfig, prefix: str = "benchmarks/b") -> Items:
    return plan_benchmark(store, config, 20_000, prefix, 64, EngineConfig())


def rows_of(store: Store, items: Items) -> list[QuestionRow]:
    return list(read_rows(store, items.items, QuestionRow))


def test_nursery_questions_are_balanced_and_true(local_store: Store) -> None:
    items = plan(local_store, POPE)
    rows = rows_of(local_store, items)
    assert Counter((row.kind, *row.answers) for row in rows) == {
        (split, said): 60 for split in SPLITS for said in ("yes", "no")}
    assert len({row.row_id for row in rows}) == 360
    facts = {ref.image_id: row.facts or ""
             for ref, row in image_rows(local_store, items.images, ["image_id", "facts"])}
    for row in rows:
        scene = scene_of(json.loads(facts[row.image.image_id]))
        assert solve(row.question, scene) == row.answers[0]
    per_image = Counter((row.image.image_id, row.kind) for row in rows)
    assert set(per_image.values()) == {6} and len(per_image) == 60
    present = defaultdict(set)
    for row in rows:
        if row.answers == ["yes"]:
            present[row.image.image_id, row.kind].add(row.question)
    assert all(present[image, split] == present[image, "random"] for image, split in per_image)
    assert items.program == "pope" and items.items.funnel["random"] == 120


def test_all_images_are_asked_about_where_there_are_fewer_than_wanted(local_store: Store) -> None:
    items = plan(local_store, POPE.model_copy(update={"num_items": 3000}))
    funnel = items.items.funnel
    assert funnel["random"] == 6 * (60 - funnel["too_few_objects"]) and funnel["unusable"] == 0
    assert plan(local_store, POPE.model_copy(update={"num_items": 3000})).items == items.items


@pytest.mark.parametrize("changes", [{"num_items": 5}, {"pope": PopeConfig(num_objects=9)}])
def test_nothing_to_ask_says_what_to_do(local_store: Store, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"raise images\.limit or num_items, or lower"):
        plan(local_store, POPE.model_copy(update=changes))


def test_absent_objects_are_chosen_by_the_recipe() -> None:
    def sight(number: int, *objects: str) -> Sight:
        return Sight(ImageRef(image_id=str(number), shard=0, row=number), objects)

    sights = [sight(0, "a", "b"), sight(1, "a", "c"), sight(2, "a", "c"), sight(3, "d", "e"),
              sight(4, "d", "e", "b"), sight(5, "a", "f"), sight(6, "d")]
    chosen = list(absent_objects(sights, 2, random.Random(0)))
    assert all(not set(names) & set(each.objects) and len(names) == 2
               for each, by_split in zip(sights, chosen, strict=True)
               for names in by_split.values())
    assert chosen[6]["popular"][0] == "a"
    assert set(chosen[6]["adversarial"]) == {"e", "b"} and chosen[6]["adversarial"][0] == "e"
    assert set(chosen[3]["popular"]) == {"a", "b"} or set(chosen[3]["popular"]) == {"a", "c"}
    assert chosen[3]["adversarial"][0] == "b"


@pytest.mark.parametrize(("reply", "said"), [
    ("yes", "yes"), ("Yes, there is a dog.", "yes"), (" NO.", "no"), ("no there is not", "no"),
    ("There is no dog.", None), ("", None), ("yesterday", None), ("I think yes", None)])
def test_a_reply_is_its_first_word(reply: str, said: str | None) -> None:
    assert said_yes_or_no(reply) == said


def asked(expected: str, said: str | None, num: int, split: str, lost: bool = False) -> list[Asked]:
    return [Asked(f"{expected}{said}{split}{lost}{n}", f"image{n}", split, expected, said, lost)
            for n in range(num)]


def test_metrics_by_hand() -> None:
    items = [*asked("yes", "yes", 6, "random"), *asked("yes", "no", 2, "random"),
             *asked("yes", None, 1, "random"), *asked("yes", None, 1, "random", lost=True),
             *asked("no", "no", 5, "random"), *asked("no", "yes", 3, "random"),
             *asked("no", None, 2, "random"), *asked("yes", "yes", 5, "popular")]
    metrics = pope_metrics("f/pope", items)
    values = {name: metric.value for name, metric in metrics.items()}
    assert values["f/pope_random"] == pytest.approx(11 / 20)
    assert values["f/pope_random_precision"] == pytest.approx(6 / 9)
    assert values["f/pope_random_recall"] == pytest.approx(6 / 10)
    assert values["f/pope_random_f1"] == pytest.approx(2 * 6 / (2 * 6 + 3 + 4))
    assert values["f/pope_random_yes_rate"] == pytest.approx(9 / 20)
    assert values["f/pope_random_parse_error"] == pytest.approx(3 / 19)
    assert values["f/pope"] == pytest.approx(16 / 25)
    assert values["f/pope_popular_f1"] == 1.0
    assert (metrics["f/pope"].n, metrics["f/pope"].chance) == (25, 0.5)
    assert metrics["f/pope_f1"].chance is None
    for metric in metrics.values():
        assert 0 <= metric.low <= metric.value <= metric.high <= 1
    assert metrics["f/pope_random"].low < 11 / 20 < metrics["f/pope_random"].high
    assert pope_metrics("f/pope", items) == metrics
    assert len(metrics) == 18 and is_lower_better("f/pope_parse_error")
    scores = pope_scores("f/pope", items)
    assert set(scores) == {"f/pope", "f/pope_random", "f/pope_popular"}
    assert len(scores["f/pope"]) == 25 and sum(scores["f/pope"].values()) == 16


def test_never_saying_yes_is_no_precision() -> None:
    metrics = pope_metrics("p", asked("yes", "no", 4, "random") + asked("no", "no", 4, "random"))
    assert metrics["p"].value == 0.5
    assert metrics["p_precision"].value == metrics["p_f1"].value == 0.0
    assert metrics["p_precision"].high == 0.0


def test_images_not_questions_are_drawn() -> None:
    """Six equal replies about an image tell as much as one."""
    once = [Asked(f"{n}", f"image{n}", "random", "yes", "yes" if n % 2 else "no")
            for n in range(100)]
    often = [item._replace(row_id=f"{item.row_id}/{k}") for item in once for k in range(6)]
    narrow, wide = (pope_metrics("p", items)["p"] for items in (often, once))
    assert (narrow.high - narrow.low) == pytest.approx(wide.high - wide.low, abs=0.01)


def test_it_is_asked_greedily_and_lost_items_are_wrong(local_store: Store) -> None:
    items = plan(local_store, POPE)
    planned = rows_of(local_store, items)
    truth = {(row.image.image_id, row.question): row.answers[0] for row in planned}

    def oracle(call: Call, seed: int) -> str:
        assert isinstance(call, Generate)
        assert call.sampling.temperature == 0 and call.sampling.max_tokens <= 16
        said = truth[call.images[0].image_id, call.messages[-1].parts[-1]]
        return "Yes ." if said == "yes" else "there is none"

    rows = play(local_store, items, "nursery", {"": oracle})
    dropped = [QuarantineRow(row_id=row.row_id, kind="pope", reason="engine_error", detail="",
                             source="", payload=row.model_dump_json()) for row in planned[:6]]
    shard = write_shard(local_store, "eval", 0, rows[6:], ItemRow, dropped)
    done = {"b": Manifest(kind="items", prefix="eval", inputs_digest="", shards=[shard],
                          config={"program": "pope", "settings": items.settings})}
    metrics = summarise(local_store, done)
    assert metrics["field/pope"].value == pytest.approx(177 / 360)
    assert metrics["field/pope"].n == 360
    assert metrics["field/pope_parse_error"].value == pytest.approx(177 / 354)
    assert metrics["field/pope_precision"].value == 1.0
    assert not any(name.endswith("_yesno") for name in metrics)
    scores = item_scores(local_store, done)
    assert set(scores) == set(POPE.gate_metrics)
    assert set(scores["field/pope"]) == {row.row_id for row in planned}
    assert sum(scores["field/pope"].values()) == 177 == sum(row.score for row in rows[6:])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (60 * number, 0, 0)).save(
            folder / f"COCO_val2014_{number:012d}.jpg")
    return folder


def written(path: Path, images: range, *others: object) -> str:
    entries = [{"question_id": n, "image": f"COCO_val2014_{number:012d}.jpg",
                "text": f"Is there a {name} in the image?", "label": label}
               for n, (number, (name, label)) in enumerate(
                   (number, each) for number in images
                   for each in (("dog", "yes"), ("cat", "no"), ("car", "Yes"), ("bus", "no")))]
    path.write_text("\n".join(json.dumps(each) for each in [*entries, *others]))
    return str(path)


def test_the_authors_files_load(local_store: Store, photographs: Path, tmp_path: Path) -> None:
    bad = [{"image": "gone.jpg", "text": "Is it?", "label": "yes"},
           {"image": f"COCO_val2014_{0:012d}.jpg", "text": "Is it?", "label": "maybe"},
           {"image": f"COCO_val2014_{0:012d}.jpg", "text": "Is there a dog in the image?",
            "label": "yes"}, ["no record"]]
    config = BenchmarkConfig(
        kind="pope", domain="coco", images=ImagesConfig(uri=str(photographs)), num_items=8,
        pope=PopeConfig(random_uri=written(tmp_path / "r.json", range(4), *bad),
                        adversarial_uri=written(tmp_path / "a.json", range(4))))
    items = plan(local_store, config)
    rows = rows_of(local_store, items)
    assert Counter((row.kind, *row.answers) for row in rows) == {
        (split, said): 4 for split in ("random", "adversarial") for said in ("yes", "no")}
    images = {split: {row.image.image_id for row in rows if row.kind == split}
              for split in ("random", "adversarial")}
    assert len(images["random"]) == 2 and images["random"] == images["adversarial"]
    reasons = Counter(row.reason for row in read_quarantine(local_store, items.items))
    assert reasons == {"unknown_image": 1, "bad_question": 2, "duplicate_question": 1}
    assert items.items.funnel == {"random": 8, "adversarial": 8, "too_few_objects": 0,
                                  "unusable": 4, **reasons}
    assert items.settings["metric"] == "coco/pope" and config.slug == "coco-pope"
    written(tmp_path / "a.json", range(1))
    assert plan(local_store, config).items.funnel["adversarial"] == 4


def test_files_that_do_not_fit_say_so(
    local_store: Store, photographs: Path, tmp_path: Path
) -> None:
    def config(uri: str) -> BenchmarkConfig:
        return BenchmarkConfig(kind="pope", images=ImagesConfig(uri=str(photographs)),
                               pope=PopeConfig(popular_uri=uri))

    with pytest.raises(ConfigError, match=r"pope\.popular_uri .*nowhere.json cannot be read"):
        plan(local_store, config(str(tmp_path / "nowhere.json")))
    strangers = written(tmp_path / "s.json", range(7, 9))
    with pytest.raises(ConfigError, match=r"pope\.popular_uri .*; unknown_image: 8"):
        plan(local_store, config(strangers))
    (tmp_path / "empty.json").touch()
    with pytest.raises(ConfigError, match=r"pope\.popular_uri .*none of its questions"):
        plan(local_store, config(str(tmp_path / "empty.json")))
    with pytest.raises(ValidationError, match=r"set pope\.random_uri, pope\.popular_uri or"):
        BenchmarkConfig(kind="pope", images=ImagesConfig(uri=str(photographs)))
    unchecked = POPE.model_copy(update={"images": ImagesConfig(uri=str(photographs))})
    with pytest.raises(ConfigError, match="has no facts"):
        plan(local_store, unchecked)


def test_the_gate_takes_accuracy_but_not_what_falls() -> None:
    policy = GatePolicy(primary="field/pope", guards={"field/pope_random": 0.0})
    assert policy.primary == "field/pope"
    with pytest.raises(ValidationError, match="falls when a model gets better"):
        GatePolicy(primary="field/pope_parse_error")

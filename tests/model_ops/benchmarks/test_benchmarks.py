"""Benchmarks: items from facts and files, programs, metrics with intervals, held-out refusal."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model_ops import grouping as grouping_module
from model_ops.benchmarks import (
    Items,
    item_scores,
    plan_benchmark,
    refuse_training_images,
    summarise,
)
from model_ops.benchmarks.intervals import metric_of, wilson_interval
from model_ops.benchmarks.questions import kind_of, scene_of
from model_ops.benchmarks.vqa_score import exact_match, normalise_answer, vqa_accuracy
from model_ops.engines.driver import drive
from model_ops.engines.scripted import Answer, ScriptedEngine
from model_ops.images import ImageReader, import_images
from model_ops.nursery.grammar import solve
from model_ops.programs.calls import Call, Generate, Reply
from model_ops.programs.context import JobContext
from model_ops.programs.registry import PROGRAMS
from model_ops.prompts import load_prompts
from schemas.artifacts import publish, read_quarantine, read_rows, write_shard
from schemas.config import BenchmarkConfig, DialogPlayConfig, EngineConfig, ImagesConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows import ItemRow, QuestionRow
from schemas.store import Store
from tests.model_ops.bits_world import Bayesians, games
from tests.model_ops.programs.test_dialog import PER_IMAGE

FIELD = ImagesConfig(uri="nursery://field", limit=200, seed=77)
VQA = BenchmarkConfig(kind="vqa", images=FIELD, num_items=1000)


def plan(store: Store, config: BenchmarkConfig, prefix: str = "benchmarks/b") -> Items:
    return plan_benchmark(store, config, 20_000, prefix, 256, EngineConfig())


def play(
    store: Store, items: Items, prompts: str, seats: Mapping[str, Answer]
) -> list[ItemRow]:
    kind = PROGRAMS[items.program]
    settings = kind.settings_type.model_validate(items.settings)
    context = JobContext(load_prompts(prompts), settings, 0, "evaluation", "model", 1)
    programs = (
        (str(number), kind.factory(row, context))
        for number, row in enumerate(read_rows(store, items.items, kind.item_type))
    )
    engines = {name: ScriptedEngine(answer) for name, answer in seats.items()}
    ended = list(drive(programs, engines, 64, 1))
    assert all(outcome.error is None for outcome in ended)
    return [outcome.row for outcome in ended if outcome.row is not None]


def answered(store: Store, items: Items, answer: Answer, prompts: str, prefix: str) -> Manifest:
    """Play a planned benchmark with a scripted engine, as the pool would."""
    shard = write_shard(store, prefix, 0, play(store, items, prompts, {"": answer}), ItemRow)
    return publish(store, Manifest(kind="items", prefix=prefix, inputs_digest="", shards=[shard]))


@pytest.mark.slow
def test_nursery_questions_are_true_balanced_and_in_fixed_shares(local_store: Store) -> None:
    items = plan(local_store, VQA)
    rows = list(read_rows(local_store, items.items, QuestionRow))
    kinds = Counter(row.kind for row in rows)
    assert kinds == {"yesno": 500, "attribute": 200, "position": 200, "count": 100}
    said = Counter(row.answers[0] for row in rows if row.kind == "yesno")
    assert said == {"yes": 250, "no": 250}
    assert len({row.row_id for row in rows}) == 1000
    reader = ImageReader(local_store, items.images)
    for row in rows[:60]:
        facts = json.loads(reader.read_row(row.image.shard, row.image.row).facts or "")
        assert solve(row.question, scene_of(facts)) == row.answers[0]
    per_image = Counter(row.image.image_id for row in rows)
    assert len(per_image) == 200
    assert max(per_image.values()) <= 8


@pytest.mark.slow
def test_planning_again_gives_the_same_items(local_store: Store, tmp_path: Path) -> None:
    first = plan(local_store, VQA)
    assert plan(local_store, VQA).items == first.items
    elsewhere = plan(Store(str(tmp_path / "other")), VQA)
    assert elsewhere.items.digest == first.items.digest


@pytest.mark.slow
def test_vqa_is_asked_greedily_and_scored(local_store: Store) -> None:
    items = plan(local_store, VQA)
    truth = {
        (row.image.image_id, row.question): row.answers[0]
        for row in read_rows(local_store, items.items, QuestionRow)
    }

    def oracle_but_for_counts(call: Call, seed: int) -> str:
        assert isinstance(call, Generate)
        assert call.sampling.temperature == 0
        question = call.messages[-1].parts[-1]
        if question.startswith("how many"):
            return "seven"
        return f" {truth[call.images[0].image_id, question].capitalize()}."

    done = {"field-vqa": answered(local_store, items, oracle_but_for_counts, "nursery", "eval")}
    metrics = summarise(local_store, done)
    assert list(metrics) == [
        "field/vqa", "field/vqa_attribute", "field/vqa_count", "field/vqa_position",
        "field/vqa_yesno",
    ]
    assert metrics["field/vqa"].value == pytest.approx(0.9, abs=0.01)
    assert metrics["field/vqa"].n == 1000
    assert metrics["field/vqa_yesno"].value == 1.0
    assert metrics["field/vqa_yesno"].chance == 0.5
    assert metrics["field/vqa_count"].value < 0.1
    scores = item_scores(local_store, done)
    assert set(scores) == set(VQA.gate_metrics)
    assert len(scores["field/vqa"]) == 1000
    assert len(scores["field/vqa_yesno"]) == 500
    assert set(scores["field/vqa"]) == {
        row.row_id for row in read_rows(local_store, items.items, QuestionRow)
    }


def game_items(store: Store, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Items:
    vectors = np.random.default_rng(0).standard_normal((200, 8))
    monkeypatch.setattr(grouping_module, "embed", lambda *args: vectors)
    rules = DialogPlayConfig(guesser="per_image", reasks=0, counterfactual=False, blind=False)
    config = BenchmarkConfig(kind="game", images=FIELD, num_items=40, play=rules)
    return plan(store, config.model_copy(update=changes))


def test_game_items_keep_the_game_and_its_rotation(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = game_items(local_store, monkeypatch)
    assert items.program == "game_benchmark"
    assert items.settings["metric"] == "field/game4_success"

    def clueless(call: Call, seed: int) -> str:
        assert isinstance(call, Generate)
        return "yes" if call.sampling.choices else f"question {seed} ?"

    done = {"field-game4": answered(local_store, items, clueless, "nursery", "eval")}
    metrics = summarise(local_store, done)
    measured = BenchmarkConfig(kind="game", images=FIELD)
    assert set(item_scores(local_store, done)) == set(measured.gate_metrics)
    assert metrics["field/game4_success"].n == 40
    assert metrics["field/game4_success"].chance == 0.25
    assert metrics["field/game4_rotation"].value == 1.0
    [row] = list(read_rows(local_store, done["field-game4"], ItemRow))[:1]
    detail = json.loads(row.detail or "")
    assert len(detail["turns"]) == 6
    assert {"question", "answer", "beliefs", "asked_about"} <= set(detail["turns"][0])
    assert row.expected == str(detail["target"] + 1)
    assert row.reply == str(detail["guess"] + 1)
    assert row.kind == "game4"


def test_cross_play_seats_two_models_and_has_its_own_metric(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = game_items(local_store, monkeypatch, cross_play=True, num_images=2)
    assert items.settings["metric"] == "field/game2_crossplay"
    seen: dict[str, set[str]] = {"": set(), "guesser": set()}

    def seat(name: str) -> Answer:
        def answer(call: Call, seed: int) -> str:
            assert isinstance(call, Generate)
            seen[name].add(call.seat)
            return "yes"
        return answer

    rows = play(local_store, items, "nursery", {name: seat(name) for name in seen})
    assert seen == {"": {"describer"}, "guesser": {"guesser"}}
    shard = write_shard(local_store, "eval", 0, rows, ItemRow)
    done = Manifest(kind="items", prefix="eval", inputs_digest="", shards=[shard])
    assert set(summarise(local_store, {"x": done})) == {"field/game2_crossplay"}


def test_a_broken_off_game_is_a_lost_item() -> None:
    kind = PROGRAMS["game_benchmark"]
    settings = kind.settings_type(metric="m", play=PER_IMAGE)
    context = JobContext(load_prompts("nursery"), settings, 0, "evaluation", "model", 1)
    players = Bayesians(0.0)

    def silent(call: Call, seed: int) -> Reply | str:
        is_describer = isinstance(call, Generate) and call.seat == "describer"
        return " " if is_describer else players(call, seed)

    game = games(1)[0]
    programs = [("k", kind.factory(game, context))]
    [ended] = list(drive(programs, {"": ScriptedEngine(silent)}, 1, 0))
    assert ended.row is not None
    assert (ended.row.score, ended.row.reply, ended.row.row_id) == (0.0, "", game.row_id)
    assert json.loads(ended.row.detail)["stop_reason"] == "parse_fail"


def test_training_images_are_refused(local_store: Store) -> None:
    source = ImagesConfig(uri="nursery://field", limit=8, seed=1)
    training = import_images(local_store, source.model_copy(update={"limit": 40}))
    same = import_images(local_store, source, "b/images")
    other = import_images(local_store, source.model_copy(update={"seed": 2}), "c/images")
    with pytest.raises(ConfigError, match="8 of 8 images of b/images are also in images"):
        refuse_training_images(local_store, training, same)
    refuse_training_images(local_store, training, other)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (80 * number, 0, 0)).save(folder / f"p{number}.png")
    return folder


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_questions_about_real_images_come_from_a_file(
    local_store: Store, photographs: Path, tmp_path: Path, suffix: str
) -> None:
    entries = [
        {"image": "p0.png", "question": "Is it red?", "answers": ["no"] * 7 + ["yes"] * 3},
        {"image": "p1.png", "question": "How many?", "answers": ["2"] * 10},
        {"image": "sub/p2.png", "question": "What?", "answers": ["a square"]},
        {"image": "gone.png", "question": "What?", "answers": ["cat"]},
        {"image": "p1.png", "question": "What?", "answers": []},
    ]
    path = tmp_path / f"questions.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps(entry) for entry in entries))
    else:
        pq.write_table(pa.Table.from_pylist(entries), path)
    config = BenchmarkConfig(
        kind="vqa", images=ImagesConfig(uri=str(photographs)), domain="photos",
        questions_uri=str(path),
    )
    items = plan(local_store, config)
    rows = {row.question: row for row in read_rows(local_store, items.items, QuestionRow)}
    assert {row.kind for row in rows.values()} == {"yesno", "count", "other"}
    reasons = Counter(row.reason for row in read_quarantine(local_store, items.items))
    assert reasons == {"unknown_image": 1, "bad_question": 1}
    done = answered(local_store, items, lambda call, seed: "Yes", "default", "eval")
    metrics = summarise(local_store, {"p": done})
    assert metrics["photos/vqa_yesno"].value == pytest.approx(0.9)
    assert metrics["photos/vqa"].value == pytest.approx(0.3)


def test_a_question_file_must_be_readable_and_fit(
    local_store: Store, photographs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "q.jsonl"
    config = BenchmarkConfig(kind="vqa", images=ImagesConfig(uri=str(photographs)),
                             questions_uri=str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        plan(local_store, config)
    path.write_text('{"image": "x.png", "question": "?", "answers": "y"}\n')
    with pytest.raises(ConfigError, match="none of its 1 questions"):
        plan(local_store, config)


def test_photographs_need_a_question_file(local_store: Store, photographs: Path) -> None:
    config = BenchmarkConfig(kind="vqa", images=ImagesConfig(uri=str(photographs)))
    with pytest.raises(ConfigError, match="needs nursery images"):
        plan(local_store, config)


def test_too_many_questions_for_the_images_say_so(local_store: Store) -> None:
    few = BenchmarkConfig(kind="vqa", images=FIELD.model_copy(update={"limit": 2}), num_items=2000)
    with pytest.raises(ConfigError, match=r"raise the benchmark's images\.limit"):
        plan(local_store, few)


def test_answers_are_normalised_as_usual() -> None:
    assert normalise_answer("The Two, cats.") == "2 cats"
    assert normalise_answer("1,000.5") == "1000.5"
    assert normalise_answer("dont know!") == "don't know"
    assert exact_match(" Top left.", ["top left"]) == 1.0
    assert exact_match("left", ["top left"]) == 0.0


@pytest.mark.parametrize(("matches", "num", "accuracy"), [
    (0, 10, 0.0), (1, 10, 0.3), (2, 10, 0.6), (3, 10, 0.9), (4, 10, 1.0), (10, 10, 1.0),
    (3, 4, 0.75), (3, 3, 1.0), (2, 3, 2 / 3), (2, 2, 1.0), (1, 2, 0.5), (1, 1, 1.0), (0, 1, 0.0)])
def test_vqa_accuracy_leaves_each_answer_out_in_turn(
        matches: int, num: int, accuracy: float) -> None:
    answers = ["a red"] * matches + ["blue"] * (num - matches)
    assert vqa_accuracy("Red", answers) == pytest.approx(accuracy)
    assert vqa_accuracy("green", answers) == 0.0


def test_vqa_accuracy_without_answers_is_none() -> None:
    assert vqa_accuracy("red", []) == 0.0


def test_the_kind_of_a_question_is_that_of_its_answers() -> None:
    assert kind_of(["3", "3", "yes"]) == "count"


def test_intervals() -> None:
    assert wilson_interval(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)
    exact = metric_of([1.0, 0.0] * 50)
    assert (exact.low, exact.high) == wilson_interval(50, 100)
    mean = metric_of([1 / 3, 2 / 3, 1.0] * 30)
    assert mean.value == pytest.approx(2 / 3)
    assert mean.low < mean.value < mean.high

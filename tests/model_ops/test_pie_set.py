"""A set like PIE's: balanced, loadable as a benchmark, resumed, and honest when it falls short."""

import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model_ops import contrastive
from model_ops.benchmarks import plan_benchmark
from model_ops.pie_set import PieRequest, PieSet, make_pie_set, pie_config
from model_ops.programs.calls import Call, Reply
from model_ops.questions import plan_slots
from schemas.artifacts import read_quarantine, read_rows
from schemas.config import (
    BenchmarkConfig,
    ContrastiveStage,
    DialogStage,
    EngineConfig,
    ImagesConfig,
    JudgeConfig,
    PieConfig,
    QuestionsConfig,
    RunConfig,
)
from schemas.errors import ConfigError, EngineError
from schemas.questions import CLEAR, ODD_TYPES, QUESTION_TYPES
from schemas.rows import PieRow, SlotRow
from schemas.store import Store
from tests.model_ops.contrastive_world import Imaginer, run_here

NUM, NUM_CLEAR = 13, 4


class Writer(Imaginer):
    """Questions that all begin differently; those of a kind may never pass the check, or seldom."""

    never = seldom = "no kind"
    dies_at = -1

    def __init__(self) -> None:
        super().__init__(question=lambda kind, seed: f"{seed} is what, as {kind}?")

    def __call__(self, call: Call, seed: int) -> Reply:
        if len(self.calls) == self.dies_at:
            raise EngineError("killed")
        text = str(getattr(call, "messages", [None])[-1])
        fails = f"as {self.never}?" in text or f"7 is what, as {self.seldom}?" in text
        fails = fails or f"3 is what, as {self.seldom}?" in text
        self.is_of_kind = 0.1 if fails else 0.9
        return super().__call__(call, seed)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Answers in place of the pool."""
    writer = Writer()
    monkeypatch.setattr(contrastive, "run_programs", run_here(writer))
    return writer


def config_of(tmp_path: Path, **changes: Any) -> RunConfig:
    given = {"root": str(tmp_path / "run"), "model": {"uri": "nursery://vlm"},
             "images": {"uri": "nursery://field", "limit": 12, "seed": 5}, "shard_size": 5,
             "stages": [{"method": "contrastive"}], **changes}
    return RunConfig.model_validate(given)


def made(tmp_path: Path, config: RunConfig | None = None, **changes: Any) -> PieSet:
    request = PieRequest(**{"out": str(tmp_path / "set" / "pie.jsonl"), "num": NUM,
                            "num_clear": NUM_CLEAR, **changes})
    return make_pie_set(config or config_of(tmp_path), request)


def records(pie: PieSet) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(pie.out).read_text().splitlines()]


@pytest.mark.usefixtures("world")
def test_a_set_is_balanced_and_has_the_authors_keys(tmp_path: Path) -> None:
    pie = made(tmp_path)
    written = records(pie)
    kinds = Counter(record["Question Type"] for record in written)
    assert kinds == {"False Premise": 3, **dict.fromkeys(ODD_TYPES[1:], 2), CLEAR: 4}
    assert pie.questions == kinds and list(pie.questions) == list(QUESTION_TYPES)
    assert all(set(record) == {"Image ID", "Question", "Question Type", "Source"}
               and record["Source"] == "regenerated" for record in written)
    files = {path.name: path for path in (tmp_path / "set" / "images").iterdir()}
    assert {record["Image ID"] for record in written} == set(files)
    assert pie.images == len(files) <= 12
    for name, path in files.items():
        assert name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.png"
    assert [record["Question Type"] for record in written] != sorted(kinds.elements())


@pytest.mark.usefixtures("world")
def test_a_set_is_a_benchmark_and_a_file_of_questions(tmp_path: Path) -> None:
    pie, store = made(tmp_path), Store(str(tmp_path / "other"))
    images = ImagesConfig(uri=str(tmp_path / "set" / "images"))
    benchmark = BenchmarkConfig.model_validate({
        "kind": "pie", "images": images, "num_items": NUM, "domain": "photos",
        "pie": PieConfig(num_clear=NUM_CLEAR, questions_uri=pie.out,
                         judge=JudgeConfig(kind="vlm"))})
    items = plan_benchmark(store, benchmark, 1, "benchmarks/b", 8, EngineConfig())
    rows = list(read_rows(store, items.items, PieRow))
    assert items.items.funnel == {"odd": NUM, "clear": NUM_CLEAR, "unusable": 0}
    assert {row.source for row in rows} == {"regenerated"}
    slots = plan_slots(store, items.images, QuestionsConfig(source="file", uri=pie.out), 1,
                       "slots", 8)
    assert slots.num_rows == NUM + NUM_CLEAR and not list(read_quarantine(store, slots))
    assert {row.question for row in read_rows(store, slots, SlotRow)} == {
        row.question for row in rows}


@pytest.mark.slow
@pytest.mark.usefixtures("world")
def test_photographs_are_named_as_the_authors_name_theirs(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 9, 9)).save(tmp_path / "photos" / f"{number}.jpg")
    pie = made(tmp_path, images_uri=str(tmp_path / "photos"))
    written = records(pie)
    assert all((tmp_path / "set" / "images" / f"{record['Image ID']}.jpg").is_file()
               for record in written)
    assert pie.images == 6


def test_what_was_asked_is_not_asked_again(tmp_path: Path, world: Writer) -> None:
    whole = made(tmp_path)
    num_calls = len(world.calls)
    assert whole.root == str(tmp_path / "run" / "pie")
    again = made(tmp_path, out=str(tmp_path / "again.jsonl"))
    assert len(world.calls) == num_calls and records(again) == records(whole)


@pytest.mark.slow
def test_a_set_that_was_killed_goes_on_to_the_same_set(tmp_path: Path, world: Writer) -> None:
    whole = records(made(tmp_path))
    num_calls, elsewhere = len(world.calls), config_of(tmp_path, root=str(tmp_path / "killed"))
    world.calls.clear()
    world.dies_at = num_calls // 2
    with pytest.raises(EngineError, match="killed"):
        made(tmp_path, elsewhere, out=str(tmp_path / "b.jsonl"))
    assert not (tmp_path / "b.jsonl").exists()
    world.dies_at = -1
    assert records(made(tmp_path, elsewhere, out=str(tmp_path / "b.jsonl"))) == whole
    assert len(world.calls) < 1.5 * num_calls


def test_a_set_that_is_there_is_not_replaced(tmp_path: Path, world: Writer) -> None:
    out = tmp_path / "pie.jsonl"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        made(tmp_path, out=str(out))
    assert out.read_text() == "mine" and world.calls == []


def test_a_kind_that_never_passes_says_where_the_reasons_are(
    tmp_path: Path, world: Writer
) -> None:
    world.never = "Subject Ambiguity"
    with pytest.raises(ConfigError, match=r"Subject Ambiguity: none of 4 asked\. want fewer") as e:
        made(tmp_path)
    assert f"{tmp_path}/run/pie/rounds/round=0001/00-contrastive/asked --quarantine" in str(e.value)
    assert not (tmp_path / "set" / "pie.jsonl").exists()


@pytest.mark.slow
def test_too_few_questions_say_how_many_more_and_so_many_are_enough(
    tmp_path: Path, world: Writer
) -> None:
    world.seldom = "False Premise"
    with pytest.raises(ConfigError, match="too few questions passed the checks") as caught:
        made(tmp_path, num=60, num_clear=0, ask=1.0)
    told = re.search(r"False Premise: (\d+) of 10 \(10 asked; ask about (\d+) more\)",
                     str(caught.value))
    advice = re.search(r"--ask ([\d.]+) \(now 1\)", str(caught.value))
    assert told and advice and "Unanswerable" not in str(caught.value)
    num, more = int(told[1]), int(told[2])
    assert more == math.ceil(1.1 * (10 - num) * 10 / num)
    assert made(tmp_path, num=60, num_clear=0, ask=float(advice[1])).questions[
        "False Premise"] == 10


def test_the_questions_are_always_the_models_own_and_checked(tmp_path: Path) -> None:
    questions = {"source": "file", "uri": "mine.jsonl", "min_type_probability": None,
                 "temperature": 0.3}
    stages = [{"method": "dialog"}, {"method": "contrastive", "questions": questions,
                                     "imagine": {"criteria": "/mine"}}]
    request = PieRequest("out.jsonl", num=12, num_clear=0, ask=1.5, images_uri="elsewhere")
    own = pie_config(config_of(tmp_path, stages=stages), request, "root")
    [stage] = own.stages
    assert isinstance(stage, ContrastiveStage)
    assert stage.imagine.criteria == "/mine" and stage.questions.temperature == 0.3
    assert (stage.questions.source, stage.questions.uri) == ("model", None)
    assert stage.questions.min_type_probability == 0.5
    assert stage.questions.per_type == dict.fromkeys(ODD_TYPES, 3)
    assert (own.root, own.images.uri, own.images.limit) == ("root", "elsewhere", 12)


@pytest.mark.parametrize("prompts", ["default", "nursery"])
def test_without_a_contrastive_stage_the_criteria_follow_the_prompts(
    tmp_path: Path, prompts: str
) -> None:
    stage = DialogStage.model_validate({"play": {"guesser": "per_image"}})
    config = config_of(tmp_path, stages=[stage.model_dump()],
                       model={"uri": "nursery://vlm", "prompts": prompts})
    [asking] = pie_config(config, PieRequest("out.jsonl"), "root").stages
    assert isinstance(asking, ContrastiveStage) and asking.imagine.criteria == prompts
    assert sum(asking.questions.per_type.values()) == 2 * (853 + 300)

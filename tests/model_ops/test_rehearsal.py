"""What a model said before it learnt: prompts, replies, rows for each objective, drops, lineage."""

from dataclasses import replace
from typing import Any

import pytest

from model_ops import rehearsal
from model_ops.engines.job import LocalModel
from model_ops.engines.scripted import reply_with
from model_ops.images import import_images
from model_ops.lineage import explain
from model_ops.programs.calls import Call, Generate, Reply
from model_ops.rounds import read_rounds
from model_ops.stages import StagePlace
from schemas.artifacts import publish, read_quarantine, read_rows
from schemas.checks import text_of
from schemas.config import ImagesConfig, RunConfig
from schemas.errors import DropError
from schemas.manifest import Manifest
from schemas.rows import TrainRow
from schemas.searches import DescribedRow, DescriptionRow
from schemas.store import Store
from tests.model_ops.contrastive_world import run_here
from tests.model_ops.rooted import build_root

MODEL = Manifest(kind="model", prefix="model", inputs_digest="m")
NUM_IMAGES = 12


class Teller:
    """Says how many pictures it has seen; its third reply has no end, its fourth is empty, its
    fifth fails."""

    def __init__(self) -> None:
        self.calls: list[Generate] = []

    def __call__(self, call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        self.calls.append(call)
        num = len(self.calls)
        if num == 5:
            raise DropError("engine_error", "bad luck")
        reply = reply_with(call, "" if num == 4 else f" picture {num} .")
        cut = replace(reply.samples[0], finish_reason="length")
        return replace(reply, samples=(cut,)) if num == 3 else reply


DIALOG = {"method": "dialog", "play": {"guesser": "per_image"}}


def place_of(store: Store, stage: dict[str, Any]) -> StagePlace:
    config = RunConfig.model_validate({
        "root": store.root, "images": ImagesConfig(limit=NUM_IMAGES), "shard_size": 5, "seed": 3,
        "model": {"prompts": "nursery"}, "stages": [stage]})
    return StagePlace(config, 1, 0)


def rehearse(
    store: Store, place: StagePlace, monkeypatch: pytest.MonkeyPatch, world: Teller
) -> dict[str, Manifest]:
    """The steps of `flows.learning`."""
    monkeypatch.setattr(rehearsal, "run_programs", run_here(world))
    monkeypatch.setattr(rehearsal, "local_model", lambda store, model, config: LocalModel(
        path="scripted:nowhere:nothing", digest=model.digest))
    images = import_images(store, place.config.images)
    prompts = rehearsal.plan(store, place, images)
    replies = rehearsal.reply(store, place, prompts, images, MODEL)
    return {rehearsal.PROMPTS: prompts, rehearsal.REPLIES: replies,
            rehearsal.ROWS: rehearsal.rows(store, place, replies, images)}


def train_rows(store: Store, made: dict[str, Manifest]) -> list[TrainRow]:
    return list(read_rows(store, made[rehearsal.ROWS], TrainRow))


def test_whole_replies_become_rows_and_the_others_are_counted(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Teller()
    place = place_of(local_store, {**DIALOG, "rehearsal": {"limit": 10}})
    made = rehearse(local_store, place, monkeypatch, world)
    assert made[rehearsal.PROMPTS].num_rows == len(world.calls) == 10
    assert made[rehearsal.REPLIES].funnel["engine_error"] == 1
    rows = made[rehearsal.ROWS]
    assert rows.funnel == {"replied": 9, "cut_off": 1, "empty_completion": 1, "kept": 7}
    assert sorted(row.reason for row in read_quarantine(local_store, rows)) == [
        "cut_off", "empty_completion"]
    replies = {row.row_id: row for row in read_rows(local_store, made[rehearsal.REPLIES],
                                                    DescribedRow)}
    for row in train_rows(local_store, made):
        said = replies[row.source_row_id]
        assert text_of(row.completion) == said.reply and said.reply.startswith("picture ")
        assert text_of(row.prompt) == said.question == "describe the image ."
        assert row.image_ids == [said.image.image_id] and len(row.images) == 1
        assert (row.role, row.stage, row.model_digest) == ("rehearsal", "00-dialog", MODEL.digest)


def test_the_model_is_asked_at_temperature_0_as_it_will_be_afterwards(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Teller()
    place = place_of(local_store, {**DIALOG, "rehearsal": {"max_tokens": 33}})
    rehearse(local_store, place, monkeypatch, world)
    assert len(world.calls) == NUM_IMAGES
    for call in world.calls:
        assert call.sampling.temperature == 0 and call.sampling.max_tokens == 33
        assert call.reward is None and len(call.images) == 1


@pytest.mark.parametrize(("objective", "word"), [("crl", "fine"), ("sft", "")])
def test_rows_of_crl_carry_the_good_word(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, objective: str, word: str
) -> None:
    """With the other objectives the trainer puts it in."""
    place = place_of(local_store, {
        "method": "contrastive", "rehearsal": {"limit": 4}, "train": {"objective": objective},
        "reward_words": {"good": "fine", "bad": "bad"}})
    rows = train_rows(local_store, rehearse(local_store, place, monkeypatch, Teller()))
    assert {row.role for row in rows} == {word or "rehearsal"}
    assert {text_of(row.prompt) for row in rows} == {f"{word} describe the image .".strip()}


def test_finished_work_is_found_and_another_word_writes_anew(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = {"method": "contrastive", "rehearsal": {"limit": 4}}
    first = rehearse(local_store, place_of(local_store, stage), monkeypatch, Teller())
    assert rehearse(local_store, place_of(local_store, stage), monkeypatch, Teller()) == first
    other = rehearse(local_store, place_of(local_store, {
        **stage, "reward_words": {"good": "fine", "bad": "bad"}}), monkeypatch, Teller())
    assert other[rehearsal.REPLIES] == first[rehearsal.REPLIES]
    assert other[rehearsal.ROWS].digest != first[rehearsal.ROWS].digest


def test_a_rehearsal_needs_an_objective_of_single_replies() -> None:
    with pytest.raises(ValueError, match="rehearsal gives single replies"):
        RunConfig.model_validate({"root": "r", "images": {"limit": 8}, "stages": [
            {"method": "contrastive", "rehearsal": {}, "train": {"objective": "dpo"}}]})


def test_a_row_of_it_can_be_explained(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the row, from the reply, from the prompt, and from a reply that was dropped."""
    build_root(local_store, 1)
    place = place_of(local_store, {**DIALOG, "rehearsal": {"limit": 10}})
    made = rehearse(local_store, place, monkeypatch, Teller())
    rows = made[rehearsal.ROWS]
    model = publish(local_store, Manifest(
        kind="model", prefix=place.prefix("model"), inputs_digest="learnt",
        parents={"rehearsal": rows.digest}))
    [_, record] = read_rounds(local_store)
    stage = record.stages[0].model_copy(update={"artifacts": {
        **record.stages[0].artifacts,
        **{name: each.prefix for name, each in {**made, "model": model}.items()}}})
    local_store.write_bytes("rounds/round=0001/round.json", record.model_copy(
        update={"stages": [stage]}).model_dump_json().encode())
    row = train_rows(local_store, made)[0]
    lineage = explain(local_store, row.row_id)
    assert list(lineage.line) == ["rehearsal-prompts", "rehearsal-replies"]
    assert lineage.line["rehearsal-replies"] == row.source_row_id
    assert lineage.training_rows == [row.row_id] and lineage.learnt_by == [model.digest]
    assert lineage.rules["program"] == "rehearse" and lineage.image_ids == row.image_ids
    for other in lineage.line.values():
        same = explain(local_store, other)
        assert same.line == lineage.line and same.training_rows == [row.row_id]
    cut = next(each for each in read_quarantine(local_store, rows) if each.reason == "cut_off")
    assert explain(local_store, cut.source).steps[-1].what == "dropped"
    lost = next(iter(read_quarantine(local_store, made[rehearsal.REPLIES])))
    asked = {each.row_id for each in read_rows(local_store, made[rehearsal.PROMPTS],
                                               DescriptionRow)}
    assert lost.row_id in asked and explain(local_store, lost.row_id).steps[-1].what == "dropped"

"""How every stage ends: its rows, what is mixed in and what is rehearsed become a model."""

from collections.abc import Mapping
from typing import NamedTuple

from model_ops.rehearsal import PROMPTS, REPLIES, ROWS, settings_of
from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace, stage_record
from schemas.manifest import Manifest
from schemas.records import StageRecord
from tasks.rehearsal import plan_rehearsal, rehearse, write_rehearsal
from tasks.training import mix_in, train


class Trained(NamedTuple):
    """A finished stage: its record, and its model."""

    record: StageRecord
    model: Manifest


def learn(
    place: StagePlace, generated: Mapping[str, Manifest], images: Manifest, start: Manifest,
    clock: RoundClock,
) -> Trained:
    """Train from `start` on `generated["train"]`, the mix and what `start` says of `images`; it
    stays as it is if rows and mix are empty (a mix that is taken whole, `mix.ratio` null, is
    learnt without rows of the stage's own)."""
    rows, model, wanted = generated["train"], start, place.stage.mix
    beside: dict[str, Manifest] = {}
    with clock.step("train", place.name):
        if wanted and (rows.num_rows or wanted.ratio is None):
            beside["mix"] = mix_in(place, rows)
    if rows.num_rows or any(each.num_rows for each in beside.values()):
        with clock.step("generate", place.name):
            beside |= _rehearse(place, images, start)
        with clock.step("train", place.name):
            model = train(place, rows, start, beside.get("mix"), beside.get(ROWS))
    artifacts = {**generated, **beside, "model": model}
    return Trained(stage_record(place, artifacts, clock.stage(place.name)), model)


def _rehearse(place: StagePlace, images: Manifest, start: Manifest) -> dict[str, Manifest]:
    """images -> prompts -> what `start` replies -> rows, by artifact; none without a rehearsal."""
    if settings_of(place) is None:
        return {}
    prompts = plan_rehearsal(place, images)
    replies = rehearse(place, prompts, images, start)
    return {PROMPTS: prompts, REPLIES: replies, ROWS: write_rehearsal(place, replies, images)}

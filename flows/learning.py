"""How every stage ends: its rows, and what is mixed in, become a model."""

from collections.abc import Mapping
from typing import NamedTuple

from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace, stage_record
from schemas.manifest import Manifest
from schemas.records import StageRecord
from tasks.training import mix_in, train


class Trained(NamedTuple):
    """A finished stage: its record, and its model."""

    record: StageRecord
    model: Manifest


def learn(
    place: StagePlace, generated: Mapping[str, Manifest], start: Manifest, clock: RoundClock
) -> Trained:
    """Train from `start` on `generated["train"]` and the mix; it stays as it is if that has no row,
    but for a mix that is taken whole (`mix.ratio` null)."""
    rows, mix, model, wanted = generated["train"], None, start, place.stage.mix
    with clock.step("train", place.name):
        if wanted and (rows.num_rows or wanted.ratio is None):
            mix = mix_in(place, rows)
        if rows.num_rows or (mix and mix.num_rows):
            model = train(place, rows, start, mix)
    artifacts = {**generated, **({"mix": mix} if mix else {}), "model": model}
    return Trained(stage_record(place, artifacts, clock.stage(place.name)), model)

"""The `dialog` stage: a model plays image-identification games and learns from those it won."""

from typing import NamedTuple

from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace, stage_record
from schemas.manifest import Manifest
from schemas.records import StageRecord
from tasks.dialog import curate_games, plan_games, play_games
from tasks.training import train


class Generated(NamedTuple):
    """What generation leaves in a stage: each with its manifest published."""

    games: Manifest
    transcripts: Manifest
    train: Manifest


class Trained(NamedTuple):
    """A finished stage: its record, and its model."""

    record: StageRecord
    model: Manifest


def generate_dialog(
    place: StagePlace, images: Manifest, model: Manifest, clock: RoundClock
) -> Generated:
    """images -> games -> transcripts -> train rows."""
    with clock.step("games", place.name):
        games = plan_games(place, images)
    with clock.step("generate", place.name):
        transcripts = play_games(place, games, images, model)
    with clock.step("curate", place.name):
        rows = curate_games(place, transcripts, images)
    return Generated(games, transcripts, rows)


def dialog_stage(
    place: StagePlace, images: Manifest, model: Manifest, start: Manifest, clock: RoundClock
) -> Trained:
    """Generate with `model`, train from `start` (which stays as it is if no game was kept)."""
    generated = generate_dialog(place, images, model, clock)
    with clock.step("train", place.name):
        trained = train(place, generated.train, start) if generated.train.num_rows else start
    artifacts = {**generated._asdict(), "model": trained}
    return Trained(stage_record(place, artifacts, clock.stage(place.name)), trained)

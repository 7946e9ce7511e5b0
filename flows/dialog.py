"""The `dialog` stage: a model plays image-identification games and learns from those it won."""

from typing import NamedTuple

from flows.learning import Trained, learn
from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace
from schemas.manifest import Manifest
from tasks.dialog import curate_games, plan_games, play_games


class Generated(NamedTuple):
    """What generation leaves in a stage: each with its manifest published."""

    games: Manifest
    transcripts: Manifest
    train: Manifest


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
    return learn(place, generated._asdict(), images, start, clock)

"""The `contrastive` stage: a model asks odd questions, imagines how they should and should not be
replied to, and learns the difference."""

from typing import NamedTuple

from flows.learning import Trained, learn
from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace
from schemas.manifest import Manifest
from tasks.contrastive import (
    ask_questions,
    curate_pairs,
    imagine_replies,
    plan_questions,
    select_questions,
    write_rows,
)


class Generated(NamedTuple):
    """What generation leaves in a stage: each with its manifest published."""

    slots: Manifest
    asked: Manifest
    questions: Manifest
    imagined: Manifest
    pairs: Manifest
    train: Manifest


def generate_contrastive(
    place: StagePlace, images: Manifest, model: Manifest, clock: RoundClock
) -> Generated:
    """images -> slots -> asked -> questions -> imagined -> pairs -> train rows."""
    with clock.step("questions", place.name):
        slots = plan_questions(place, images)
        asked = ask_questions(place, slots, images, model)
        questions = select_questions(place, asked)
    with clock.step("generate", place.name):
        imagined = imagine_replies(place, questions, images, model)
    with clock.step("curate", place.name):
        pairs = curate_pairs(place, questions, imagined, images)
        rows = write_rows(place, pairs)
    return Generated(slots, asked, questions, imagined, pairs, rows)


def contrastive_stage(
    place: StagePlace, images: Manifest, model: Manifest, start: Manifest, clock: RoundClock
) -> Trained:
    """Generate with `model`, train from `start` (which stays as it is if no pair was kept)."""
    generated = generate_contrastive(place, images, model, clock)
    return learn(place, generated._asdict(), images, start, clock)

"""The `calibrated` stage: a model searches for replies sentence by sentence; those that the image
supports are preferred, and learnt."""

from typing import NamedTuple

from flows.learning import Trained, learn
from model_ops.rounds import RoundClock
from model_ops.stages import StagePlace
from schemas.manifest import Manifest
from tasks.calibrated import choose_pairs, judge_nodes, plan_prompts, search_replies


class Generated(NamedTuple):
    """What generation leaves in a stage: each with its manifest published."""

    prompts: Manifest
    searches: Manifest
    nodes: Manifest
    train: Manifest


def generate_calibrated(
    place: StagePlace, images: Manifest, model: Manifest, clock: RoundClock
) -> Generated:
    """images -> prompts -> searches -> nodes, and the pairs that are learnt from."""
    with clock.step("prompts", place.name):
        prompts = plan_prompts(place, images)
    with clock.step("generate", place.name):
        searches = search_replies(place, prompts, images, model)
    with clock.step("curate", place.name):
        nodes = judge_nodes(place, searches)
        pairs = choose_pairs(place, searches, images)
    return Generated(prompts, searches, nodes, pairs)


def calibrated_stage(
    place: StagePlace, images: Manifest, model: Manifest, start: Manifest, clock: RoundClock
) -> Trained:
    """Generate with `model`, train from `start` (which stays as it is if no pair was kept)."""
    generated = generate_calibrated(place, images, model, clock)
    return learn(place, generated._asdict(), images, start, clock)

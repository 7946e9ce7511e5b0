"""Preferences of a finished round made again with other weights, beside the root they come from.

Its one idea: a search keeps all that it scored, so that nodes and pairs under another lambda or
reward mode are arithmetic; no model is asked, and the round itself stays as it is.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from model_ops.curation.preferences import write_nodes, write_preferences
from model_ops.prompts import load_prompts
from model_ops.rounds import read_round, read_rounds
from schemas.artifacts import read_manifest
from schemas.config import PreferenceConfig
from schemas.errors import ConfigError, StoreError
from schemas.manifest import Manifest
from schemas.records import RoundRecord, StageRecord
from schemas.store import Store

METHOD = "calibrated"
SHARD_SIZE = 128


class Recalibrated(NamedTuple):
    """What was made of one stage."""

    stage: str
    config: PreferenceConfig
    nodes: Manifest
    pairs: Manifest


def recalibrate(
    store: Store, number: int, into: Store, changes: Mapping[str, Any]
) -> list[Recalibrated]:
    """Write `nodes` and `pairs` of the calibrated stages of round *number* to *into*, at the same
    places below it.

    *changes* replace what the round's own `preference` configuration says. `StoreError` if there is
    no such round, `ConfigError` if it has no calibrated stage, *into* is *store*, or holds what
    other weights or searches gave.
    """
    if _real(into) == _real(store):
        raise ConfigError(f"{store.root} is the root itself, and its rounds stay as they are: give "
                          f"another folder")
    record = _finished_round(store, number)
    stages = [stage for stage in record.stages if stage.method == METHOD]
    if not stages:
        had = ", ".join(stage.name for stage in record.stages) or "none: it is the base"
        raise ConfigError(f"round {number} of {store.root} has no {METHOD} stage (its stages: "
                          f"{had}): give another round")
    return [_again(store, stage, into, changes) for stage in stages]


def _real(store: Store) -> str:
    """The root behind links."""
    return os.path.realpath(store.root) if store.is_local else store.root


def _finished_round(store: Store, number: int) -> RoundRecord:
    record = read_round(store, number)
    if record is not None:
        return record
    num = len(read_rounds(store))
    told = f"finished are 0 to {num - 1}" if num else "none is finished: is it the root of a run?"
    raise StoreError(f"{store.root} has no finished round {number}; {told}")


def _again(
    store: Store, stage: StageRecord, into: Store, changes: Mapping[str, Any]
) -> Recalibrated:
    searches = read_manifest(store, stage.artifacts["searches"])
    own = read_manifest(store, stage.artifacts["nodes"]).config
    config = PreferenceConfig.model_validate({**own, **changes})
    prefix, seed = searches.prefix.rpartition("/")[0], int(searches.config["seed"])
    _refuse_others(into, f"{prefix}/nodes", config, searches)
    nodes = write_nodes(store, searches, config, f"{prefix}/nodes", seed, into)
    pairs = write_preferences(
        store, searches, read_manifest(store, "images"), config,
        load_prompts(searches.config["prompts"]), f"{prefix}/pairs", SHARD_SIZE, seed, into)
    return Recalibrated(stage.name, config, nodes, pairs)


def _refuse_others(into: Store, prefix: str, config: PreferenceConfig, searches: Manifest) -> None:
    """`ConfigError` if the nodes that are there were judged otherwise: they would be replaced."""
    if not into.exists(f"{prefix}/manifest.json"):
        return
    there = read_manifest(into, prefix)
    ours = config.model_dump(mode="json")
    others = [f"{name} {value}" for name, value in there.config.items() if ours.get(name) != value]
    if there.parents.get("searches") != searches.digest:
        others.append("other searches")
    if others:
        raise ConfigError(f"{into.uri(prefix)} holds what {', '.join(others)} gave: give another "
                          f"folder")

"""Where a run stands: round records, the champion that follows from them, and when to stop.

The one idea: a run has no state but its records. `rounds/round=NNNN/round.json` is written when a
round is decided and `champion.json` is swapped after it, so whatever was killed, the next run reads
the records, finishes a swap that is missing, and goes on with the first round that has no record.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from schemas.champion import read_champion, swap_champion
from schemas.config import RunConfig, StopRule
from schemas.errors import ConfigError
from schemas.manifest import Manifest, digest
from schemas.records import Champion, Evaluation, RoundRecord
from schemas.store import Store


def round_prefix(number: int) -> str:
    """Prefix of a round's artifacts."""
    return f"rounds/round={number:04d}"


def read_round(store: Store, number: int) -> RoundRecord | None:
    """The record of a finished round, or None if it is not finished."""
    path = f"{round_prefix(number)}/round.json"
    if not store.exists(path):
        return None
    return RoundRecord.model_validate_json(store.read_bytes(path))


def read_rounds(store: Store) -> list[RoundRecord]:
    """The records of all finished rounds, from the base (round 0) on."""
    records: list[RoundRecord] = []
    while record := read_round(store, len(records)):
        records.append(record)
    return records


def write_round(store: Store, record: RoundRecord) -> RoundRecord:
    """Write `round.json`, stamped with the time.

    A record of the next round was made after another try of this one: it goes first, so that its
    round is played again (what has not changed is skipped) and no reader takes it for a follower.
    """
    store.delete(f"{round_prefix(record.round + 1)}/round.json")
    record = record.model_copy(update={"finished_at": datetime.now(UTC).isoformat()})
    path = f"{round_prefix(record.round)}/round.json"
    store.write_bytes(path, record.model_dump_json(indent=2).encode())
    return record


def successor(record: RoundRecord) -> Champion:
    """The champion that a promoted round (or the base) leads to."""
    history = [*(record.incumbent.history if record.incumbent else []), record.model]
    return Champion(digest=record.model, prefix=record.model_prefix, round=record.round,
                    decision=record.decision, history=history)


def incumbent(store: Store, records: list[RoundRecord]) -> Champion:
    """The champion that the next round has to beat.

    A pointer that is ahead of the records (its round's record was lost) does not count: that round
    is played again, against the champion before it.
    """
    current = read_champion(store)
    if current is not None and current.round < len(records):
        return current
    return successor([record for record in records if record.decision != "hold"][-1])


def settle_champion(store: Store, records: list[RoundRecord]) -> Champion:
    """Make `champion.json` follow the last record, and return it; safe to repeat after any kill.

    The pointer is swapped if it is still the one that the round had to beat, or stems from an
    earlier try of the same round. One that is ahead of the records goes back before its round is
    played again: held this time, the round must not leave its model in use. Anything else was put
    there by hand (a roll-back) and stays.
    """
    last, current = records[-1], read_champion(store)
    if current is not None and current.round > last.round:
        new = incumbent(store, records)
        swap_champion(store, current, new)
        return new
    new = successor(last)
    if last.decision != "hold" and current != new and _is_replaced(current, last):
        swap_champion(store, current, new)
        return new
    return current or incumbent(store, records)


def _is_replaced(current: Champion | None, record: RoundRecord) -> bool:
    if current is None or current == record.incumbent:
        return True
    before = record.incumbent.history if record.incumbent else []
    return current.round == record.round and current.history[:-1] == before


def stop_reason(
    stop: StopRule, records: list[RoundRecord], played: int, elapsed_minutes: float
) -> str | None:
    """Why no further round is started, or None. `played`: rounds that this run has finished."""
    done = len(records) - 1
    if done >= stop.rounds:
        return f"all {stop.rounds} rounds are done"
    last = [record.decision for record in records[-(stop.plateau or 0):]]
    if stop.plateau is not None and last == ["hold"] * stop.plateau:
        return f"plateau: the last {stop.plateau} rounds were held"
    if played and stop.budget_minutes is not None and elapsed_minutes >= stop.budget_minutes:
        return f"budget: {elapsed_minutes:.1f} of {stop.budget_minutes:g} minutes are used"
    return None


def config_digest(config: RunConfig, number: int) -> str:
    """What of the configuration shapes a round (round 0: the base model alone)."""
    if number == 0:
        return digest(config.model.uri)
    return digest(config.model_dump(mode="json", include={
        "seed", "model", "images", "stages", "evaluation", "gate", "init_from", "reference",
        "history"}))


def check_base(config: RunConfig, records: list[RoundRecord]) -> None:
    """Refuse to go on in a root whose rounds began with another base model."""
    if records and records[0].config_digest not in ("", config_digest(config, 0)):
        raise ConfigError(
            f"{config.root} holds rounds of another base model than {config.model.uri}: "
            f"use another root")


def changed_rounds(config: RunConfig, records: list[RoundRecord]) -> list[int]:
    """The finished rounds that were made with another configuration."""
    return [record.round for record in records
            if record.config_digest not in ("", config_digest(config, record.round))]


def changed_note(config: RunConfig, records: list[RoundRecord]) -> str:
    """Which finished rounds were made with another configuration, and what it means; or ""."""
    changed = changed_rounds(config, records)
    if not changed:
        return ""
    named = f"round{'s' * (len(changed) > 1)} {', '.join(map(str, changed))}"
    note = f"{named}: made with another configuration, kept as made"
    why = stop_reason(config.stop, records, 0, 0.0)
    if changed[-1] == records[-1].round and why:
        note += (f"; no round is played with this configuration ({why}): raise stop.rounds or "
                 f"stop.plateau, or use another root")
    return note


def base_record(
    config: RunConfig, base: Manifest, evaluation: Evaluation, seconds: dict[str, float]
) -> RoundRecord:
    """The record of round 0."""
    return RoundRecord(
        round=0, model=base.digest, model_prefix=base.prefix, trained_from=None, decision="base",
        reasons=[], evaluation=evaluation, seconds=seconds,
        config_digest=config_digest(config, 0))


class RunClock:
    """How long this run (not the root) has been at work, and how many rounds it has finished."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.played = 0

    @property
    def minutes(self) -> float:
        """Minutes since the run began."""
        return (time.monotonic() - self._started) / 60


class RoundClock:
    """Seconds by step of one round, kept in the store so that a resumed round still has them."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._path = f"{round_prefix(number)}/seconds.json"
        self._seconds: dict[str, dict[str, float]] = {}
        self._started = time.monotonic()
        self._measured = 0.0
        if store.exists(self._path):
            self._seconds = json.loads(store.read_bytes(self._path))

    @contextmanager
    def step(self, name: str, stage: str = "") -> Iterator[None]:
        """Measure one step (of a stage); what earlier attempts took is added."""
        started = time.monotonic()
        try:
            yield
        finally:
            elapsed = time.monotonic() - started
            self._measured += elapsed
            self._add(stage, name, elapsed)

    def close(self) -> dict[str, float]:
        """Book the time outside all steps as `orchestration`; seconds by step over all stages."""
        self._add("", "orchestration", time.monotonic() - self._started - self._measured)
        totals: dict[str, float] = {}
        for steps in self._seconds.values():
            for name, seconds in steps.items():
                totals[name] = round(totals.get(name, 0.0) + seconds, 3)
        return totals

    def stage(self, stage: str) -> dict[str, float]:
        """Seconds by step of one stage."""
        return self._seconds.get(stage, {})

    def _add(self, stage: str, name: str, seconds: float) -> None:
        steps = self._seconds.setdefault(stage, {})
        steps[name] = round(steps.get(name, 0.0) + seconds, 3)
        self._store.write_bytes(self._path, json.dumps(self._seconds, indent=2).encode())

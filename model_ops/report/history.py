"""What a root says about its rounds: the records, their manifests, and who is compared with whom.

The one idea: a report is a pure function of the root. Rounds are read in order until one is absent;
a manifest that is not there is simply left out, so that an unfinished run still has a report.
"""

from dataclasses import dataclass

from model_ops.rounds import read_rounds
from schemas.artifacts import read_manifest
from schemas.champion import read_champion
from schemas.config import GatePolicy
from schemas.errors import StoreError
from schemas.manifest import Manifest
from schemas.records import Champion, Metric, RoundRecord, StageRecord
from schemas.store import Store


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage's record with the manifests that could be read, by artifact name."""

    record: StageRecord
    manifests: dict[str, Manifest]


@dataclass(frozen=True, slots=True)
class RoundView:
    """A round with the champion that it had to beat (`None` for round 0)."""

    record: RoundRecord
    stages: list[StageView]
    rival: RoundRecord | None

    def metric(self, name: str) -> Metric | None:
        """The round's figure for a metric, if it was measured."""
        return self.record.evaluation.metrics.get(name)

    def change(self, name: str) -> float | None:
        """How far a metric is from the rival's; `None` where either was not measured."""
        mine = self.metric(name)
        theirs = self.rival.evaluation.metrics.get(name) if self.rival else None
        return mine.value - theirs.value if mine and theirs else None

    def words_beside(self, name: str) -> Metric | None:
        """Mean words of the captions that a CHAIR figure was measured on: whoever says less errs
        less. None for other metrics."""
        domain, _, figure = name.rpartition("/")
        return self.metric(f"{domain}/caption_words") if figure.startswith("chair_") else None


@dataclass(frozen=True, slots=True)
class History:
    """All finished rounds of a root, the champion pointer, and the metrics that decided."""

    root: str
    rounds: list[RoundView]
    champion: Champion | None
    images: Manifest | None
    primary: str | None
    guards: list[str]

    @property
    def metrics(self) -> list[str]:
        """Every metric name of any round: the primary one first, the rest by name."""
        names = {name for view in self.rounds for name in view.record.evaluation.metrics}
        return sorted(names, key=lambda name: (name != self.primary, name))

    @property
    def champion_round(self) -> RoundView | None:
        """The round that made the champion (without a pointer: the last one that took the lead)."""
        if self.champion:
            return next((v for v in self.rounds if v.record.round == self.champion.round), None)
        leads = [v for v in self.rounds if v.record.decision != "hold"]
        return leads[-1] if leads else None


def find(store: Store, prefix: str) -> Manifest | None:
    """The manifest at *prefix*, or `None` if nothing was published there."""
    try:
        return read_manifest(store, prefix)
    except StoreError:
        return None


def read_history(store: Store) -> History:
    """Read everything that the report needs except rows and pictures."""
    records = read_rounds(store)
    primary = _primary(records)
    return History(
        root=store.root,
        rounds=[_view(store, record, records) for record in records],
        champion=read_champion(store),
        images=find(store, "images"),
        primary=primary,
        guards=_guards(records, primary),
    )


def _view(store: Store, record: RoundRecord, records: list[RoundRecord]) -> RoundView:
    stages = [StageView(stage, _manifests(store, stage)) for stage in record.stages]
    return RoundView(record, stages, _rival(record, records))


def _rival(record: RoundRecord, records: list[RoundRecord]) -> RoundRecord | None:
    """The round whose model was champion before: as recorded, else the last that took the lead."""
    if record.incumbent and record.incumbent.round < len(records):
        return records[record.incumbent.round]
    earlier = [r for r in records[: record.round] if r.decision != "hold"]
    return earlier[-1] if earlier else None


def _manifests(store: Store, stage: StageRecord) -> dict[str, Manifest]:
    found = {name: find(store, prefix) for name, prefix in stage.artifacts.items()}
    return {name: manifest for name, manifest in found.items() if manifest}


def _primary(records: list[RoundRecord]) -> str | None:
    """The metric that the gate decides by. Records do not name the policy, their reasons do."""
    names = {name for record in records for name in record.evaluation.metrics}
    for record in reversed(records):
        for reason in record.reasons:
            named = [(reason.find(name), -len(name), name) for name in names if name in reason]
            if named and record.decision != "base":
                return min(named)[2]
    default = GatePolicy().primary
    return default if default in names else min(names, default=None)


def _guards(records: list[RoundRecord], primary: str | None) -> list[str]:
    """The other metrics that reasons speak of; a longer name hides those that it contains."""
    guards: set[str] = set()
    for record in records:
        names = sorted(record.evaluation.metrics, key=len, reverse=True)
        for reason in record.reasons:
            for name in names:
                if name in reason:
                    guards.add(name)
                    reason = reason.replace(name, " ")
    return sorted(guards - {primary})

"""What a stage cost and what came out of it: the funnel, the times, the tokens.

Counts come from round records and manifests; rows are never counted again here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model_ops.report.history import RoundView, StageView
from schemas.artifacts import sum_stats
from schemas.manifest import Manifest
from schemas.questions import QUESTION_TYPES, slug

FUNNEL_STEPS = ("planned", "asked", "unique", "imagined", "searched", "played", "parsed", "won",
                "consistent", "kept")
"""Steps that every question (the first four), search (planned, searched) or game passes, in order;
all other keys of a funnel are reasons for a drop."""
OTHER_COUNTS = ("rows", "games")
"""Keys of a funnel that count something else than drops."""
UNITS = {"contrastive": "questions", "calibrated": "searches"}
"""What a stage of a method begins with; all others begin with games."""

ASKED = ("transcripts", "asked", "imagined", "searches", "rehearsal-replies")
"""Artifacts for which models were asked, in the order in which they are made."""
BESIDE = ("mix", "rehearsal")
"""Artifacts that are learnt beside a stage's own rows."""


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """One bar: how many games, questions or searches came so far, of how many."""

    name: str
    num: int
    of: int

    @property
    def share(self) -> float:
        """Width of the bar in per cent."""
        return 100 * self.num / self.of if self.of else 0.0


@dataclass(frozen=True, slots=True)
class Funnel:
    """The funnel of one stage of one round, and the reasons of the drops, most frequent first."""

    round: int
    stage: str
    steps: list[FunnelStep]
    drops: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Production:
    """What one stage of one round took (calls, tokens, steps) and made."""

    round: int
    stage: str
    unit: str
    """What was started with: games, questions or searches."""
    num_started: int
    num_kept: int
    num_rows: int
    num_beside: int
    """Rows learnt beside the stage's own: mixed in and rehearsed."""
    num_calls: float
    prompt_tokens: float
    output_tokens: float
    tokens_per_second: float
    num_steps: float
    final_loss: float | None


@dataclass(frozen=True, slots=True)
class Times:
    """Wall-clock seconds by step, of a round or of one of its stages."""

    label: str
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds over all steps."""
        return sum(self.seconds.values())


def times(view: RoundView) -> list[Times]:
    """A round's time bar, and one per stage where it has several."""
    stages = [Times(f"· {s.record.name}", s.record.seconds) for s in view.stages]
    whole = dict(view.record.seconds)
    if not whole:
        for step, seconds in [pair for stage in stages for pair in stage.seconds.items()]:
            whole[step] = whole.get(step, 0.0) + seconds
    bars = [Times(f"round {view.record.round}", whole)] if whole else []
    return bars + (stages if len(stages) > 1 else [])


def funnel(round_number: int, stage: str, counts: dict[str, int]) -> Funnel:
    """Split the counts of a funnel into its steps and its drop reasons."""
    present = [name for name in FUNNEL_STEPS if name in counts]
    whole = counts[present[0]] if present else 0
    steps = [FunnelStep(name, counts[name], whole) for name in present]
    drops = [
        (name, num)
        for name, num in counts.items()
        if num and name not in FUNNEL_STEPS and name.split("/")[0] not in OTHER_COUNTS
    ]
    return Funnel(round_number, stage, steps, sorted(drops, key=lambda drop: (-drop[1], drop[0])))


def production(view: RoundView, stage: StageView) -> Production:
    """Gather what the stage's record and manifests say about cost and yield."""
    record, manifests = stage.record, stage.manifests
    train, model = manifests.get("train"), manifests.get("model")
    asked = [manifests[name] for name in ASKED if name in manifests]
    beside = [manifests[name] for name in BESIDE if name in manifests]
    learnt = model.stats if model else {}
    num_asked = asked[0].num_rows if asked else 0
    return Production(
        round=view.record.round,
        stage=record.name,
        unit=UNITS.get(record.method, "games"),
        num_started=record.funnel.get("planned", record.funnel.get("played", num_asked)),
        num_kept=record.funnel.get("kept", 0),
        num_rows=train.num_rows if train else 0,
        num_beside=sum(each.num_rows for each in beside),
        num_calls=_total(asked, "calls"),
        prompt_tokens=_total(asked, "prompt_tokens"),
        output_tokens=_total(asked, "output_tokens"),
        tokens_per_second=record.tokens_per_second,
        num_steps=learnt.get("steps", 0.0),
        final_loss=learnt.get("final_loss"),
    )


def _total(manifests: Sequence[Manifest], name: str) -> float:
    """A sum over manifests; where one has none, over its shards."""
    return sum({**sum_stats(manifest.shards), **manifest.stats}.get(name, 0.0)
               for manifest in manifests)


@dataclass(frozen=True, slots=True)
class KindYield:
    """What became of the questions of one kind."""

    kind: str
    wanted: int | None
    """None where the plan does not say."""
    unique: int
    imagined: int
    kept: int

    @property
    def share(self) -> float:
        """Kept of those that were wanted (or else asked), in per cent."""
        return 100 * self.kept / max(self.wanted or self.unique or self.imagined, 1)


def kind_yields(stage: StageView) -> list[KindYield]:
    """Questions and pairs of a contrastive stage by kind, from its manifests; kinds that were not
    asked for are left out."""
    slots, questions, pairs = (stage.manifests.get(n) for n in ("slots", "questions", "pairs"))
    wanted = slots.config.get("per_type", {}) if slots else {}
    unique, curated = (each.stats if each else {} for each in (questions, pairs))
    found = [KindYield(kind, wanted.get(kind), int(unique.get(f"unique/{slug(kind)}", 0)),
                       int(curated.get(f"played/{slug(kind)}", 0)),
                       int(curated.get(f"kept/{slug(kind)}", 0))) for kind in QUESTION_TYPES]
    return [each for each in found if each.wanted or each.unique or each.imagined]

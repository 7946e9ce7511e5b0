"""What a stage cost and what came out of it: the funnel, the times, the tokens.

Counts come from round records and manifests; rows are never counted again here.
"""

from dataclasses import dataclass

from model_ops.report.history import RoundView, StageView
from schemas.artifacts import sum_stats
from schemas.manifest import Manifest

FUNNEL_STEPS = ("played", "parsed", "won", "consistent", "kept")
"""Steps every game passes, in order; all other keys of a funnel are reasons for a drop."""
OTHER_COUNTS = ("rows", "games")
"""Keys of a funnel that count something else than dropped games."""


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """One bar: how many games came so far, of how many played."""

    name: str
    num: int
    of: int

    @property
    def share(self) -> float:
        """Width of the bar in per cent."""
        return 100 * self.num / self.of if self.of else 0.0


@dataclass(frozen=True, slots=True)
class Funnel:
    """The funnel of one stage of one round, and why games were dropped, most frequent first."""

    round: int
    stage: str
    steps: list[FunnelStep]
    drops: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Production:
    """What one stage of one round took (calls, tokens, steps) and made."""

    round: int
    stage: str
    num_games: int
    num_kept: int
    num_rows: int
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
    transcripts, train, model = (manifests.get(n) for n in ("transcripts", "train", "model"))
    played = _stats(transcripts)
    learnt = model.stats if model else {}
    return Production(
        round=view.record.round,
        stage=record.name,
        num_games=record.funnel.get("played", transcripts.num_rows if transcripts else 0),
        num_kept=record.funnel.get("kept", 0),
        num_rows=train.num_rows if train else 0,
        num_calls=played.get("calls", 0.0),
        prompt_tokens=played.get("prompt_tokens", 0.0),
        output_tokens=played.get("output_tokens", 0.0),
        tokens_per_second=record.tokens_per_second,
        num_steps=learnt.get("steps", 0.0),
        final_loss=learnt.get("final_loss"),
    )


def _stats(manifest: Manifest | None) -> dict[str, float]:
    """A manifest's sums; where it has none, those of its shards."""
    if manifest is None:
        return {}
    return {**sum_stats(manifest.shards), **manifest.stats}

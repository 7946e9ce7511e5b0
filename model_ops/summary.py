"""`summary.json`: what a run came to, in one small file with figures only.

Made from the round records alone, so it can be written again at any time.
"""

from schemas.records import Champion, Metric, Record, RoundRecord
from schemas.store import Store

SUMMARY = "summary.json"


class MetricSummary(Record):
    """A metric as the summary shows it: value and 95 % interval over `n` items; in [0, 1] unless
    the name says else (`caption_words`)."""

    value: float
    low: float
    high: float
    n: int


class RoundSummary(Record):
    """One round in figures; round 0 is the base."""

    round: int
    model: str
    decision: str
    reasons: list[str]
    funnel: dict[str, int]
    evaluation: dict[str, MetricSummary]
    seconds: dict[str, float]
    tokens_per_second: float


class RunSummary(Record):
    """The champion's digest and every round."""

    champion: str
    rounds: list[RoundSummary]


def summarise_run(records: list[RoundRecord], champion: Champion) -> RunSummary:
    """The summary of a run that has come so far."""
    return RunSummary(champion=champion.digest, rounds=[_round(record) for record in records])


def write_summary(store: Store, records: list[RoundRecord], champion: Champion) -> RunSummary:
    """Write `summary.json` at the root."""
    summary = summarise_run(records, champion)
    store.write_bytes(SUMMARY, summary.model_dump_json(indent=2).encode())
    return summary


def _round(record: RoundRecord) -> RoundSummary:
    evaluation = {name: _metric(metric) for name, metric in record.evaluation.metrics.items()}
    return RoundSummary(
        round=record.round, model=record.model, decision=record.decision, reasons=record.reasons,
        funnel=record.funnel, evaluation=evaluation, seconds=record.seconds,
        tokens_per_second=record.tokens_per_second)


def _metric(metric: Metric) -> MetricSummary:
    return MetricSummary(value=metric.value, low=metric.low, high=metric.high, n=metric.n)

"""Rounds as tables: for the console (rich), the Prefect UI (rows, markdown).

The one idea: a round is read next to what it had to beat, so every table has the base, the champion
and the candidate side by side, and says what chance gives.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from schemas.records import Champion, Evaluation, Metric, RoundRecord

if TYPE_CHECKING:
    from rich.table import Table


def round_table(record: RoundRecord, champion: RoundRecord, base: RoundRecord) -> "Table":
    """The round's metrics next to the champion's that it had to beat and the base's."""
    from rich.table import Table

    table = Table(title=f"round {record.round}: {record.decision}", title_justify="left")
    for column in ("metric", "chance", "base", "champion", "candidate"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    for name, metric in record.evaluation.metrics.items():
        measured = (each.evaluation.metrics.get(name) for each in (base, champion, record))
        table.add_row(name, _chance(metric), *map(brief, measured))
    return table


def evaluation_rows(
    record: RoundRecord, champion: RoundRecord, base: RoundRecord
) -> list[dict[str, str]]:
    """One row per metric."""
    return [{
        "metric": name,
        "chance": _chance(metric),
        "base": shown(base.evaluation.metrics.get(name)),
        "champion": shown(champion.evaluation.metrics.get(name)),
        "candidate": shown(metric),
    } for name, metric in record.evaluation.metrics.items()]


def rounds_table(records: list[RoundRecord], champion: Champion) -> "Table":
    """All rounds side by side: a column each, a row per metric."""
    from rich.table import Table

    table = Table("metric", "chance")
    for record in records:
        crowned = "\n(champion)" if record.round == champion.round else ""
        table.add_column(f"round {record.round}\n{record.decision}{crowned}", justify="right")
    for name, metric in records[0].evaluation.metrics.items():
        measured = (each.evaluation.metrics.get(name) for each in records)
        table.add_row(name, _chance(metric), *map(brief, measured))
    return table


def metrics_table(title: str, evaluation: Evaluation) -> "Table":
    """One model's metrics."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("metric", "value", "items", "chance"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, metric in evaluation.metrics.items():
        table.add_row(name, shown(metric), str(metric.n), _chance(metric))
    return table


def brief(metric: Metric | None) -> str:
    """A metric with half the width of its interval, for example `0.612 ± 0.030`."""
    if metric is None:
        return "-"
    return f"{metric.value:.3f} ± {(metric.high - metric.low) / 2:.3f}"


def shown(metric: Metric | None) -> str:
    """A metric with its interval, for example `0.612 (0.582-0.642)`."""
    if metric is None:
        return "-"
    return f"{metric.value:.3f} ({metric.low:.3f}-{metric.high:.3f})"


def _chance(metric: Metric) -> str:
    return "" if metric.chance is None else f"{metric.chance:.2f}"


def rounds_markdown(records: list[RoundRecord], champion: Champion) -> str:
    """All rounds as a markdown table, a row each."""
    names = records[0].evaluation.metrics
    heads = [f"{name} (chance {_chance(metric)})" if _chance(metric) else name
             for name, metric in names.items()]
    lines = ["| round | decision | model | " + " | ".join(heads) + " |",
             "|" + "---|" * (len(names) + 3)]
    for record in records:
        crowned = " (champion)" if record.round == champion.round else ""
        cells = [shown(record.evaluation.metrics.get(name)) for name in names]
        lines.append(f"| {record.round} | {record.decision}{crowned} | `{record.model[:12]}` | "
                     + " | ".join(cells) + " |")
    return "\n".join(lines)


def link(uri: str) -> str:
    """A link to an artifact: local paths as `file://` URIs."""
    return uri if "://" in uri else Path(uri).resolve().as_uri()

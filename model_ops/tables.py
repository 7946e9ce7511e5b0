"""Rounds as tables: for the console (rich), the Prefect UI (rows, markdown).

The one idea: a round is read next to what it had to beat, so every table has the base, the champion
and the candidate side by side, and says what chance gives.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from model_ops.pie_names import is_of_split
from schemas.records import Champion, Evaluation, Metric, RoundRecord, is_lower_better

if TYPE_CHECKING:
    from rich.table import Table

LOWER = "\N{DOWNWARDS ARROW}"
"""Marks a metric that falls when a model gets better."""


def round_table(record: RoundRecord, champion: RoundRecord, base: RoundRecord) -> "Table":
    """The round's metrics next to the champion's that it had to beat and the base's."""
    from rich.table import Table

    told = _headlines([record])
    table = Table(title=f"round {record.round}: {record.decision}", title_justify="left",
                  caption=_caption(told, len(record.evaluation.metrics)), caption_justify="left")
    for column in ("metric", "chance", "base", "champion", "candidate"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    for name, metric in told.items():
        measured = (each.evaluation.metrics.get(name) for each in (base, champion, record))
        table.add_row(_marked(name), _chance(metric), *map(brief, measured))
    return table


def _headlines(records: list[RoundRecord]) -> dict[str, Metric]:
    """The metrics of any of the rounds that a console has room for; the others are in the Prefect
    UI, the report and `summary.json`."""
    metrics = {name: metric for record in records
               for name, metric in record.evaluation.metrics.items()}
    return {name: metrics[name] for name in sorted(metrics) if _is_headline(name)}


def _is_headline(name: str) -> bool:
    what = name.partition("/")[2]
    if what.startswith("pie-"):  # a variant of the benchmark
        return what.endswith(("_aar", "_clear"))
    return not (what.startswith("pie_aar_") or is_of_split(name))


def _marked(name: str) -> str:
    return f"{name} {LOWER}" if is_lower_better(name) else name


def _caption(told: Iterable[str], num_measured: int) -> str | None:
    """What the mark means, and how many figures the table leaves out."""
    told = list(told)
    num_more = num_measured - len(told)
    notes = [f"{LOWER} lower is better" * any(map(is_lower_better, told)),
             f"{num_more} more figures are in the report" * (num_more > 0)]
    return "; ".join(filter(None, notes)) or None


def evaluation_rows(
    record: RoundRecord, champion: RoundRecord, base: RoundRecord
) -> list[dict[str, str]]:
    """One row per metric."""
    return [{
        "metric": f"{name} (lower is better)" if is_lower_better(name) else name,
        "chance": _chance(metric),
        "base": shown(base.evaluation.metrics.get(name)),
        "champion": shown(champion.evaluation.metrics.get(name)),
        "candidate": shown(metric),
    } for name, metric in record.evaluation.metrics.items()]


def rounds_table(records: list[RoundRecord], champion: Champion) -> "Table":
    """All rounds side by side: a column each, a row per metric."""
    from rich.table import Table

    told = _headlines(records)
    num_measured = len({name for each in records for name in each.evaluation.metrics})
    table = Table("metric", "chance", caption=_caption(told, num_measured), caption_justify="left")
    for record in records:
        crowned = "\n(champion)" if record.round == champion.round else ""
        table.add_column(f"round {record.round}\n{record.decision}{crowned}", justify="right")
    for name, metric in told.items():
        measured = (each.evaluation.metrics.get(name) for each in records)
        table.add_row(_marked(name), _chance(metric), *map(brief, measured))
    return table


def metrics_table(title: str, evaluation: Evaluation) -> "Table":
    """One model's metrics."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption_justify="left",
                  caption=_caption(evaluation.metrics, len(evaluation.metrics)))
    for column in ("metric", "value", "items", "chance"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, metric in evaluation.metrics.items():
        table.add_row(_marked(name), shown(metric), str(metric.n), _chance(metric))
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
    names = _headlines(records)
    heads = [f"{name} (chance {_chance(metric)})" if _chance(metric) else _marked(name)
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

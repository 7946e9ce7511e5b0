"""Tasks that show results: tables in the Prefect UI and on the console, the report, the summary."""

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from rich.console import Console

from model_ops import tables
from model_ops.report import write_report
from model_ops.summary import RunSummary, write_summary
from schemas.config import RunConfig
from schemas.records import Champion, RoundRecord
from schemas.store import Store
from tasks.step import step


@step(name="show round", task_run_name="show round {record.round}")
def show_round(record: RoundRecord, champion: RoundRecord, base: RoundRecord) -> None:
    """A table of the round: on the console, and as an artifact."""
    console = Console(stderr=True, highlight=False)
    console.print(tables.round_table(record, champion, base))
    for reason in record.reasons:
        console.print(f"  {reason}", markup=False, soft_wrap=True)
    create_table_artifact(
        tables.evaluation_rows(record, champion, base), key="evaluation",
        description=f"Round {record.round}: {record.decision}. {' '.join(record.reasons)}")


@step(name="report")
def report(config: RunConfig, records: list[RoundRecord], champion: Champion) -> RunSummary:
    """Write the report and `summary.json`; link the report in the UI."""
    store = Store(config.root)
    summary = write_summary(store, records, champion)
    uri = write_report(store)
    create_link_artifact(tables.link(uri), link_text="report", key="report",
                         description=f"The report of {store.root}")
    create_markdown_artifact(tables.rounds_markdown(records, champion), key="rounds")
    get_run_logger().info("report: %s", uri)
    return summary

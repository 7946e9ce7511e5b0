"""The commands that work: `demo`, `run`, `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deploy import prefect_api
from deploy.console import AsJson, err, is_debug, load_config, show
from model_ops.rounds import changed_note, read_rounds
from model_ops.summary import SUMMARY, RunSummary
from schemas.champion import read_champion
from schemas.config import RunConfig
from schemas.store import Store

DEMO = Path(__file__).parent / "configs" / "demo.yaml"
Root = Annotated[str | None, typer.Option(help="Write here instead of the configuration's root.")]
Seed = Annotated[int | None, typer.Option(help="Replace the configuration's seed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan; load no model.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(demo)
    app.command()(run)
    app.command()(evaluate)


def demo(root: Root = None, seed: Seed = None, dry_run: DryRun = False,
         as_json: AsJson = False) -> None:
    """Run the demo: a tiny model improves itself in two rounds, on this machine."""
    _run(load_config(DEMO, root, seed), dry_run, as_json)


def run(config: Path, root: Root = None, seed: Seed = None, dry_run: DryRun = False,
        as_json: AsJson = False) -> None:
    """Run CONFIG (YAML): rounds until a stop rule ends it. The same command continues a run."""
    _run(load_config(config, root, seed), dry_run, as_json)


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder, bucket, hub id or nursery://vlm.")],
    config: Annotated[Path, typer.Option(help="What to measure with (YAML).")] = DEMO,
    root: Root = None, as_json: AsJson = False,
) -> None:
    """Measure MODEL with the benchmarks of a configuration."""
    settings = load_config(config, root)
    prefect_api.prepare(settings.root, is_debug())
    from flows.evaluate import evaluate as flow
    from model_ops.tables import metrics_table

    measured = flow(settings, model)
    show(measured, as_json, lambda: metrics_table(model, measured))


def _run(config: RunConfig, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        return _plan(config, as_json)
    prefect_api.prepare(config.root, is_debug())
    from flows.improve import improve

    err.print(f"writing to {Store(config.root).root}; the same command continues a stopped run",
              markup=False)
    summary = improve(config)
    show(summary, as_json, lambda: _closing(config, summary))
    if note := changed_note(config, read_rounds(Store(config.root))):
        err.print(f"note: {note}", markup=False)


def _plan(config: RunConfig, as_json: bool) -> None:
    from model_ops.estimate import estimate

    plan = estimate(config)
    show(plan, as_json, lambda: Text(plan.text))


def _closing(config: RunConfig, summary: RunSummary) -> str:
    store = Store(config.root)
    champion = read_champion(store)  # a held round that trained nothing has the same model
    assert champion is not None, "every run has a champion"
    return (f"champion: {champion.digest[:12]} (round {champion.round} of "
            f"{len(summary.rounds) - 1})\nsummary:  {store.uri(SUMMARY)}\n"
            f"report:   {store.uri('report/index.html')}")

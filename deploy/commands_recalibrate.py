"""The command that weighs a finished round's searches anew: `recalibrate`."""

from typing import Annotated, Literal

import typer
from rich.text import Text

from deploy.console import AsJson, show
from schemas.store import Store


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(recalibrate)


def recalibrate(
    root: str,
    out: Annotated[str, typer.Option(help="Folder for the nodes and pairs; not ROOT.")],
    number: Annotated[int, typer.Option("--round", min=0, help="A finished round.")],
    lam: Annotated[float | None, typer.Option(
        min=0, max=1, help="Weight of image relevance; the round's own if not given.")] = None,
    reward_mode: Annotated[Literal["rank", "paper_raw"] | None, typer.Option(
        help="Mean ranks, or the paper's sums; the round's own if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the preference pairs of a calibrated round of ROOT again, with other weights.

    No model is asked: all comes from the round's searches. The pairs are read with
    `datasets.load_dataset(FOLDER)`, the folder being printed.
    """
    from model_ops.recalibrate import recalibrate as again

    into = Store(out)
    given = {"lam": lam, "reward_mode": reward_mode}
    changes = {name: value for name, value in given.items() if value is not None}
    made = again(Store(root), number, into, changes)
    found = [{"stage": each.stage, **each.config.model_dump(mode="json"),
              "nodes": into.uri(each.nodes.prefix), "pairs": into.uri(each.pairs.prefix),
              "num_pairs": each.pairs.num_rows, "funnel": each.pairs.funnel} for each in made]
    show(found, as_json, lambda: Text("\n".join(
        f"{each.stage}, {each.config.reward_mode}, lam {each.config.lam:g}: {each.pairs.num_rows} "
        f"pairs of {each.pairs.funnel['planned']} searches in {into.uri(each.pairs.prefix)}"
        for each in made)))

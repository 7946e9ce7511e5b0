"""The commands around PIE: `pie` makes a set of questions, `agree` compares judges."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deploy.console import AsJson, counted, load_config, show
from schemas.store import Store


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(pie)
    app.command()(agree)


def pie(
    config: Path,
    out: Annotated[str, typer.Argument(help="JSONL file; `images/` is made beside it.")],
    num: Annotated[int, typer.Option(min=1, help="Odd questions, the six kinds evenly.")] = 853,
    clear: Annotated[int, typer.Option(min=0, help="Clear questions, which PIE lacks.")] = 300,
    ask: Annotated[float, typer.Option(min=1, help="Questions asked for each one wanted.")] = 2.0,
    images: Annotated[str | None, typer.Option(
        help="Other images than CONFIG's: what is trained on cannot be measured with.")] = None,
    root: Annotated[str | None, typer.Option(
        help="Keep what is asked here instead of below CONFIG's root.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a set of questions like PIE's with the model, engine and images of CONFIG.

    The same command continues one that was stopped. Use it as `pie.questions_uri` of a benchmark
    whose images are the folder `images/`. It is not the authors' set: nobody has checked it.
    """
    from model_ops.pie_set import PieRequest, make_pie_set

    settings = load_config(config)
    request = PieRequest(out, num, clear, ask, images)
    with counted("questions are asked: shards") as shown:
        made = make_pie_set(settings, request, root, shown)
    told = "\n".join(f"{number:5d}  {kind}" for kind, number in made.questions.items())
    show(made._asdict(), as_json, lambda: Text(
        f"{told}\n{sum(made.questions.values()):5d}  questions about {made.images} images: {out}"))


def agree(
    root: str,
    benchmark: Annotated[str, typer.Argument(help="Its folder's name, such as field-pie.")],
    judge: Annotated[str, typer.Option(
        help="`rules` (nursery), a run's YAML whose `pie.judge` is asked, or a file of row_id and "
             "label by a person.")] = "rules",
    num: Annotated[int, typer.Option(min=1, help="Replies that rules or a model judge.")] = 200,
    number: Annotated[int | None, typer.Option(
        "--round", help="Whose replies; the last finished round's if not given.")] = None,
    write: Annotated[str | None, typer.Option(
        help="Only write NUM replies to this JSONL file, for a person to label.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far a second judge agrees with the verdicts of a PIE benchmark of ROOT."""
    from model_ops import second_opinion

    store = Store(root)
    if write is not None:
        written = second_opinion.write_sample(store, benchmark, write, num, number=number)
        return show({**written._asdict(), "file": write}, as_json, lambda: Text(
            f"{written.num} replies in {write}: set each `label`, then --judge {write}\n"
            f"the first with its picture: flywheel show {written.uri} --row 0"))
    asked = load_config(Path(judge)) if judge.endswith((".yaml", ".yml")) else judge
    found = second_opinion.agree(store, benchmark, asked, num, number=number)
    show({"benchmark": benchmark, "judge": judge, **found._asdict()}, as_json, lambda: Text(
        f"{judge} and the judge of {benchmark} give {found.n} replies the same label in "
        f"{100 * found.share:.1f} %; kappa {found.kappa:.3f} (1: always, 0: no more than chance)"))

"""`flywheel`: run the loop, look at what it made, check the machine.

Exit codes: 0 done, 1 failed (one line on stderr says why and what to do), 2 wrong usage, 130
stopped by Ctrl-C.
"""

import os
import sys
from typing import Annotated

import typer

from deploy import (
    commands_doctor,
    commands_exchange,
    commands_look,
    commands_measure,
    commands_recalibrate,
    commands_run,
)
from deploy.console import err, is_debug
from schemas.errors import FlywheelError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
                  help="A vision-language model that makes its own data, learns, is measured.")
commands_run.register(app)
commands_look.register(app)
commands_exchange.register(app)
commands_recalibrate.register(app)
commands_measure.register(app)
commands_doctor.register(app)


@app.callback()
def _options(debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False) -> None:
    if debug:
        os.environ["FLYWHEEL_DEBUG"] = "1"


def main() -> None:
    """The console script: errors meant for users become one line."""
    try:
        app()
    except FlywheelError as error:
        if is_debug():
            raise
        err.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()

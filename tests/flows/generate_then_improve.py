"""`python -m tests.flows.generate_then_improve CONFIG`: both flows on one root, and both again.

In one process, so that Prefect's server and Ray start once.
"""

import sys
from pathlib import Path

from deploy.console import load_config
from deploy.prefect_api import prepare


def main(path: str) -> None:
    """Run them; say which train artifacts `generate` made."""
    config = load_config(Path(path))
    prepare(config.root)
    from flows.generate import generate
    from flows.improve import improve

    for _ in range(2):
        print("generated:", *generate(config), flush=True)
        print("rounds:", len(improve(config).rounds), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""Names of flow runs: what a person looks for in the Prefect UI."""

from prefect.runtime import flow_run


def run_name() -> str:
    """Folder of the root, and the round or the number of rounds: `demo: 2 rounds`."""
    given = flow_run.get_parameters()
    config = given["config"]
    folder = config.root.rstrip("/").rpartition("/")[2]
    if "number" in given:
        return f"{folder}: round {given['number']}"
    return f"{folder}: {config.stop.rounds} rounds"

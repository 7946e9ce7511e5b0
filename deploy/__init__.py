"""How the flows are started: the `flywheel` command line, Prefect deployments, example files."""

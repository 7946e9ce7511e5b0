"""How models are used: programs, engines, curation, training, benchmarks. Runs without Prefect."""

"""One engine and one set of games for all speed benchmarks of a run."""

from collections.abc import Iterator

import pytest

from schemas.store import Store
from tests.bench.recorded_prompts import RecordingEngine
from tests.bench.workload import Workload, plan, run


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """The games."""
    return plan(Store(str(tmp_path_factory.mktemp("bench") / "root")))


@pytest.fixture(scope="session")
def engine(workload: Workload) -> Iterator[RecordingEngine]:
    """vLLM with the workload's model, warmed up on some of the games."""
    config = workload.config
    made = RecordingEngine(workload.model, config.engine, workload.read, config.model.dtype)
    run(workload, made, games=workload.games[:len(workload.games) // 4])
    yield made
    made.close()

"""What all tasks share: a passing failure is retried, a wrong configuration is not."""

import pytest

from schemas.errors import ConfigError, EngineError

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


def test_only_passing_failures_are_retried() -> None:
    from prefect import flow
    from prefect.testing.utilities import prefect_test_harness

    from tasks import step

    tries: list[str] = []

    @step.step(name="flaky", retry_delays=(0, 0))
    def flaky() -> str:
        tries.append("flaky")
        if tries.count("flaky") < 3:
            raise EngineError("died")
        return "done"

    @step.step(name="wrong", retry_delays=(0, 0))
    def wrong() -> None:
        tries.append("wrong")
        raise ConfigError("no such program")

    @flow
    def both() -> str:
        done = flaky()
        with pytest.raises(ConfigError):
            wrong()
        return done

    with prefect_test_harness(server_startup_timeout=180):
        assert both() == "done"
    assert tries == ["flaky", "flaky", "flaky", "wrong"]

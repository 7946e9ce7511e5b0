"""The turn-synchronous loop to compare with: every game waits until all games have their replies.

The same driver and the same engine; only `step` returns no reply before the last one is there. With
all games live at once this is what scripts do that go turn by turn over a batch of games.
"""

from model_ops.engines.driver import Engine, Result
from model_ops.programs.calls import Call


class PhaseBarrier:
    """Answers the calls of a phase together. Closing it leaves the engine open."""

    def __init__(self, engine: Engine) -> None:
        self.determinism = engine.determinism
        self.num_phases = 0
        self._engine = engine
        self._num_open = 0

    def submit(self, call_id: int, call: Call, seed: int | None) -> None:
        """Pass the call on."""
        self._engine.submit(call_id, call, seed)
        self._num_open += 1

    def step(self) -> list[tuple[int, Result]]:
        """Step the engine until every call of the phase is answered."""
        finished: list[tuple[int, Result]] = []
        while len(finished) < self._num_open:
            finished += self._engine.step()
        self._num_open = 0
        self.num_phases += 1
        return finished

    def close(self) -> None:
        """Nothing to release."""

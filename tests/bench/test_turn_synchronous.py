"""(b) The driver against a turn-synchronous loop, on games of uneven length.

Games end after 1 to 8 turns; in the turn-synchronous loop all of them wait for each phase. On a CPU
a step costs about as much as its batch is large, so waiting costs little and 1.0 is expected; on a
GPU, where a half-empty batch costs as much as a full one, 1.3 and more.
"""

import pytest

from tests.bench.figures import Goal, show, spread
from tests.bench.phase_barrier import PhaseBarrier
from tests.bench.recorded_prompts import RecordingEngine
from tests.bench.workload import Played, Workload, keys, rows_by_game, run

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
PAIRS = 3
GPU_GOAL = Goal(">=", 1.3)


def test_driver_against_a_turn_synchronous_loop(
        workload: Workload, engine: RecordingEngine) -> None:
    pairs = [_pair(workload, engine, driver_first=number % 2 == 0) for number in range(PAIRS)]
    same = []
    for free, synchronous in pairs:
        rows, others = rows_by_game(free), rows_by_game(synchronous)
        assert rows.keys() == others.keys() == keys(workload.games)
        same.append(sum(_turns(rows[key]) == _turns(others[key]) for key in rows) / len(rows))
    ratios = [synchronous.seconds / free.seconds for free, synchronous in pairs]
    turns = [len(_turns(row)) for row in rows_by_game(pairs[0][0]).values()]
    note = (f"{PAIRS} alternating pairs of {len(turns)} games of {min(turns)} to {max(turns)} "
            f"turns; driver {spread([p.seconds for p, _ in pairs])} s, turn-synchronous "
            f"{spread([p.seconds for _, p in pairs])} s; {min(same):.0%} of the dialogs the same")
    goal = GPU_GOAL if workload.config.engine.num_gpus else None
    show("(b) turn-synchronous seconds / driver seconds", ratios, note, goal,
         driver_seconds=[p.seconds for p, _ in pairs],
         synchronous_seconds=[p.seconds for _, p in pairs])


def _pair(workload: Workload, engine: RecordingEngine,
          driver_first: bool) -> tuple[Played, Played]:
    if driver_first:
        free = _play(workload, engine, barrier=False)
        return free, _play(workload, engine, barrier=True)
    synchronous = _play(workload, engine, barrier=True)
    return _play(workload, engine, barrier=False), synchronous


def _play(workload: Workload, engine: RecordingEngine, barrier: bool) -> Played:
    """All games are live at once in both, which is the best that the loop can do."""
    engine.forget()
    seated = PhaseBarrier(engine) if barrier else engine
    return run(workload, seated, workload.uneven, live=len(workload.games))


def _turns(row: object) -> list[tuple[str, str]]:
    """What was said."""
    return [(turn.question, turn.answer) for turn in getattr(row, "turns", [])]

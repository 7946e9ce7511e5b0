"""(c) The driver on vLLM against `transformers` generate, one game and one call at a time.

The same program, rules and images; the games of the slow side are a few of the fast side's.
"""

import pytest

from tests.bench.figures import show, spread
from tests.bench.recorded_prompts import RecordingEngine
from tests.bench.transformers_engine import TransformersEngine
from tests.bench.workload import Played, Workload, keys, rows_by_game, run

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
PAIRS = 3
GAMES_A_PAIR = 6


def test_driver_against_transformers_one_game_at_a_time(
        workload: Workload, engine: RecordingEngine) -> None:
    threads = max(1, int(workload.config.engine.num_cpus))
    slow = TransformersEngine(workload.model, workload.read, threads)
    run(workload, slow, games=workload.games[:1], live=1)
    pairs: list[tuple[Played, Played]] = []
    for number in range(PAIRS):
        start = number * GAMES_A_PAIR
        few = workload.games[start:start + GAMES_A_PAIR]
        pairs.append((_play(workload, engine), run(workload, slow, games=few, live=1)))
        assert rows_by_game(pairs[-1][1]).keys() == keys(few)
        assert rows_by_game(pairs[-1][0]).keys() == keys(workload.games)
    slow.close()
    games = [_games_per_second(fast) / _games_per_second(one) for fast, one in pairs]
    calls = [fast.num_calls / fast.seconds * one.seconds / one.num_calls for fast, one in pairs]
    note = (f"{PAIRS} pairs, {len(workload.games)} games against {GAMES_A_PAIR}; driver "
            f"{spread([_games_per_second(fast) for fast, _ in pairs])} games/s, transformers "
            f"{spread([_games_per_second(one) for _, one in pairs])} games/s")
    show("(c) games/s, times transformers generate", games, note)
    show("(c) calls/s, times transformers generate", calls, "the same runs")


def _play(workload: Workload, engine: RecordingEngine) -> Played:
    engine.forget()
    return run(workload, engine)


def _games_per_second(played: Played) -> float:
    return len(played.outcomes) / played.seconds

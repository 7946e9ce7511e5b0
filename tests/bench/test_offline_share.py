"""(a) What share of vLLM's own offline speed the dialog generation reaches.

The driver plays the games at the configuration's rules; `LLM.generate` answers the prompts of that
very run, all known in advance. The runs alternate, and each begins with cold caches.
"""

from typing import Any

import pytest

from tests.bench.figures import Goal, show, spread
from tests.bench.recorded_prompts import Offline, RecordingEngine
from tests.bench.workload import Played, Workload, keys, rows_by_game, run

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]
PAIRS = 3


def test_dialog_generation_as_a_share_of_vllm_offline(
        workload: Workload, engine: RecordingEngine) -> None:
    pairs = [_pair(workload, engine, driver_first=number % 2 == 0) for number in range(PAIRS)]
    for played, offline in pairs:
        assert rows_by_game(played).keys() == keys(workload.games)
        assert offline.num_tokens > 0
    tokens = [_speed(p, "num_tokens") / _speed(o, "num_tokens") for p, o in pairs]
    calls = [_speed(p, "num_calls") / _speed(o, "num_calls") for p, o in pairs]
    speeds = {f"{who}_{what}_per_second": [round(_speed(pair[place], f"num_{what}"), 1)
                                           for pair in pairs]
              for place, who in enumerate(("driver", "offline")) for what in ("tokens", "calls")}
    note = (f"{PAIRS} alternating pairs of {len(workload.games)} games, "
            f"{spread([p.num_calls for p, _ in pairs])} calls; driver "
            f"{spread(speeds['driver_tokens_per_second'])} tokens/s, "
            f"{spread(speeds['driver_calls_per_second'])} calls/s; offline "
            f"{spread(speeds['offline_tokens_per_second'])} tokens/s, "
            f"{spread(speeds['offline_calls_per_second'])} calls/s")
    show("(a) output tokens/s, share of vLLM offline", tokens, note, Goal(">=", 0.9), **speeds)
    show("(a) calls/s, share of vLLM offline", calls, "the same runs", Goal(">=", 0.9))


def _pair(workload: Workload, engine: RecordingEngine,
          driver_first: bool) -> tuple[Played, Offline]:
    """Both on the same prompts; offline first means on those of the run before this one."""
    if driver_first:
        played = _play(workload, engine)
        return played, engine.replay_offline(engine.sent)
    offline = engine.replay_offline(engine.sent)
    return _play(workload, engine), offline


def _play(workload: Workload, engine: RecordingEngine) -> Played:
    engine.forget()
    return run(workload, engine)


def _speed(measured: Any, what: str) -> float:
    return float(getattr(measured, what) / measured.seconds)

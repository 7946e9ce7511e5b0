"""Who is to blame for an engine's death: what was live at two, then killed a working one alone."""

from model_ops.engines.deaths import Deaths, read_deaths, write_deaths
from schemas.store import Store


def test_what_was_live_at_two_deaths_is_a_suspect() -> None:
    once = Deaths().and_one_more([1, 2, 3], "boom", is_proof=False)
    assert once.suspects == []
    assert once.and_one_more([2, 3, 4], "boom", is_proof=False).suspects == [2, 3]


def test_a_lone_death_on_a_fresh_engine_blames_nobody_and_puts_the_suspect_last() -> None:
    suspected = Deaths(times={1: 2, 2: 2, 3: 2})
    again = suspected.and_one_more([1], "boom", is_proof=False)
    assert (again.suspects, again.blamed) == ([2, 3, 1], {})
    proved = again.and_one_more([1], "boom", is_proof=True)
    assert (proved.suspects, proved.blamed) == ([2, 3], {1: "boom"})


def test_deaths_are_kept_for_the_same_inputs_only(local_store: Store) -> None:
    deaths = Deaths(times={7: 3}, blamed={7: "boom"})
    write_deaths(local_store, "out", 4, "inputs", deaths)
    assert read_deaths(local_store, "out", 4, "inputs") == deaths
    assert read_deaths(local_store, "out", 4, "others") == Deaths()

"""Which rows a job trains on."""

from hypothesis import given
from hypothesis import strategies as st

from model_ops.training.rows import choose_rows

counts = st.lists(st.integers(0, 40), min_size=1, max_size=4)


@given(counts, st.integers(1, 200) | st.none(), st.integers(0, 3))
def test_without_replay_all_sets_count_alike(counts: list[int], cap: int | None, seed: int) -> None:
    chosen = choose_rows(counts, 0.0, cap, seed)
    assert len(chosen) == min(cap or sum(counts), sum(counts))
    assert chosen == sorted(set(chosen))


@given(counts, st.floats(0.05, 0.9), st.integers(1, 200) | st.none(), st.integers(0, 3))
def test_replay_keeps_its_share_and_the_cap(counts: list[int], replay: float, cap: int | None,
                                            seed: int) -> None:
    chosen = choose_rows(counts, replay, cap, seed)
    earlier = sum(index < sum(counts[:-1]) for index in chosen)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= (cap or sum(counts))
    assert earlier <= round((len(chosen) - earlier) * replay / (1 - replay))


def test_replay_takes_all_of_this_round_and_a_share_of_the_others() -> None:
    chosen = choose_rows([500, 500, 300], 0.25, None, seed=1)
    assert [index for index in chosen if index >= 1000] == list(range(1000, 1300))
    assert sum(index < 1000 for index in chosen) == 100
    assert any(index < 500 for index in chosen)
    assert any(500 <= index < 1000 for index in chosen)


def test_what_earlier_rounds_cannot_fill_is_left_to_this_round() -> None:
    assert choose_rows([1000], 0.5, None, seed=1) == list(range(1000))
    assert len(choose_rows([1000], 0.5, 600, seed=1)) == 600
    few = choose_rows([10, 1000], 0.5, None, seed=1)
    assert few == list(range(1010))


def test_the_choice_is_the_seeds() -> None:
    assert choose_rows([50, 50], 0.3, 20, seed=1) == choose_rows([50, 50], 0.3, 20, seed=1)
    assert choose_rows([50, 50], 0.3, 20, seed=1) != choose_rows([50, 50], 0.3, 20, seed=2)


def test_a_mix_beside_this_rounds_rows_is_of_this_round() -> None:
    chosen = choose_rows([500, 300, 100], 0.25, None, seed=1, num_current=2)
    assert [index for index in chosen if index >= 500] == list(range(500, 900))
    assert sum(index < 500 for index in chosen) == 133

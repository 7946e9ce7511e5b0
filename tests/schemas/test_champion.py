"""The champion pointer: of two promotions one wins, and the other is told."""

import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest

from schemas.champion import PATH, read_champion, swap_champion
from schemas.errors import ChampionConflict, StoreError
from schemas.records import Champion
from schemas.store import Store

PROMOTE = """
import sys
from schemas.champion import read_champion, swap_champion
from schemas.errors import ChampionConflict
from schemas.records import Champion
from schemas.store import Store
store = Store(sys.argv[1])
before = read_champion(store)
print("ready", flush=True)
sys.stdin.readline()
try:
    swap_champion(store, before, Champion(digest=sys.argv[2], prefix="p", round=1,
                                          decision="promote"))
    print("won")
except ChampionConflict as error:
    print("lost", error)
"""


def champion(name: str) -> Champion:
    return Champion(digest=name, prefix=f"rounds/{name}", round=1, decision="promote")


def test_the_pointer_is_absent_then_set_then_changed(store: Store) -> None:
    assert read_champion(store) is None
    swap_champion(store, None, champion("a"))
    swap_champion(store, champion("a"), champion("b"))
    assert read_champion(store) == champion("b")


def test_a_stale_expectation_is_a_conflict_that_names_the_current_one(store: Store) -> None:
    swap_champion(store, None, champion("aaaa"))
    with pytest.raises(ChampionConflict, match="is now aaaa") as caught:
        swap_champion(store, None, champion("bbbb"))
    assert "bbbb" in str(caught.value) and read_champion(store) == champion("aaaa")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_repeating_a_swap_is_no_conflict(store: Store) -> None:
    swap_champion(store, None, champion("a"))
    swap_champion(store, None, champion("a"))


def test_a_damaged_pointer_says_what_to_do(local_store: Store) -> None:
    local_store.write_bytes(PATH, b"{}")
    with pytest.raises(StoreError, match="restore it"):
        read_champion(local_store)


@pytest.mark.slow
def test_of_two_processes_exactly_one_promotes(
        store: Store, child_env: Callable[[], dict[str, str]]) -> None:
    swap_champion(store, None, champion("base"))
    runs = [subprocess.Popen([sys.executable, "-c", PROMOTE, store.root, name], text=True,
                             env=child_env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for name in ("left", "right")]
    for run in runs:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    said = {run.args[-1]: run.communicate(timeout=60)[0] for run in runs}  # type: ignore[index]
    winners = [name for name, text in said.items() if text.startswith("won")]
    current = read_champion(store)
    assert current is not None and winners == [current.digest]

"""The champion pointer: the one object of a root that says which model is in use.

It changes last in a round and only by compare-and-swap, so of two promotions from the same
champion one wins and the other learns of it.
"""

from pydantic import ValidationError

from schemas.errors import ChampionConflict, StoreError
from schemas.records import Champion
from schemas.store import Store

PATH = "champion.json"


def read_champion(store: Store) -> Champion | None:
    """The current champion; None before the base model is published."""
    if not store.exists(PATH):
        return None
    try:
        return Champion.model_validate_json(store.read_bytes(PATH))
    except ValidationError as error:
        raise StoreError(f"{store.uri(PATH)} is not a champion pointer: {error}; restore it from "
                         f"the newest rounds/round=*/round.json") from error


def swap_champion(store: Store, expected: Champion | None, new: Champion) -> None:
    """Make `new` the champion if it still is `expected`; `ChampionConflict` otherwise.

    Swapping again what is already there (a retry after a lost reply) is no conflict.
    """
    before = None if expected is None else _bytes(expected)
    if store.replace(PATH, _bytes(new), before):
        return
    current = read_champion(store)
    if current != new:
        raise ChampionConflict(
            f"{store.uri(PATH)}: the champion is now {_name(current)}, not {_name(expected)}, so "
            f"{_name(new)} was not promoted; evaluate it against the current champion and run again"
        )


def _bytes(champion: Champion) -> bytes:
    return (champion.model_dump_json(indent=1) + "\n").encode()


def _name(champion: Champion | None) -> str:
    return "absent" if champion is None else f"{champion.digest[:12]} (round {champion.round})"

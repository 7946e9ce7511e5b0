"""Which of the judged games and rows are taken: caps, blind control draws, yes/no balance.

Everything here works on small keys, so a whole round fits in memory, and draws by a hash of seed
and id, so the result does not depend on the order in which games finished.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from model_ops.curation.checks import drop_reason, is_doubted, is_unparsed
from schemas.config import DialogCurationConfig
from schemas.config.base import Look
from schemas.rows import TranscriptRow


class Judged(NamedTuple):
    """A game as far as selection needs it; `reason` is None if every check passed."""

    row_id: str
    group: str
    target: str
    parsed: bool
    won: bool
    reason: str | None
    num_turns: int = 0
    num_doubted: int = 0


def judge(game: TranscriptRow, config: DialogCurationConfig) -> Judged:
    """Run the checks on one game."""
    return Judged(
        game.row_id,
        game.group_id,
        game.images[game.target].image_id,
        not is_unparsed(game, config),
        game.won,
        drop_reason(game, config),
        len(game.turns),
        sum(is_doubted(game, turn, config) for turn in range(len(game.turns))),
    )


def lot(seed: int, key: str) -> bytes:
    """The lot that *key* draws: sorting by it is a seeded shuffle."""
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()[:12]


def draw_look(row_id: str, share: float, looks: Sequence[Look], seed: int) -> str:
    """The light in which a row is shown once more: one of *looks* for *share* of the rows, "" (not
    at all) for the others."""
    drawn = lot(seed, f"look/{row_id}")
    if not looks or int.from_bytes(drawn[:4]) >= share * 2**32:
        return ""
    return looks[int.from_bytes(drawn[4:8]) % len(looks)]


def select_games(
    games: Sequence[Judged], config: DialogCurationConfig, seed: int
) -> dict[str, str | None]:
    """Row id -> None (kept) or the reason it was dropped, for every game."""
    unparsed = {game.row_id: "parse_fail" for game in games if not game.parsed}
    if config.select == "unfiltered":
        return {game.row_id: unparsed.get(game.row_id) for game in games}
    curated = _capped(games, config, seed)
    if config.select == "curated":
        return curated
    wanted = sum(reason is None for reason in curated.values())
    pool = sorted((game.row_id for game in games if game.parsed), key=lambda key: lot(seed, key))
    drawn = set(pool[:wanted])
    return {
        game.row_id: unparsed.get(game.row_id, None if game.row_id in drawn else "not_drawn")
        for game in games
    }


def _capped(
    games: Sequence[Judged], config: DialogCurationConfig, seed: int
) -> dict[str, str | None]:
    reasons = {game.row_id: game.reason for game in games}
    groups: Counter[str] = Counter()
    targets: Counter[str] = Counter()
    passed = [game for game in games if game.reason is None]
    for game in sorted(passed, key=lambda game: lot(seed, game.row_id)):
        if _is_full(groups[game.group], config.max_per_group):
            reasons[game.row_id] = "group_cap"
        elif _is_full(targets[game.target], config.max_per_target):
            reasons[game.row_id] = "target_cap"
        else:
            groups[game.group] += 1
            targets[game.target] += 1
    return reasons


def _is_full(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def count_funnel(
    games: Sequence[Judged], chosen: dict[str, str | None], quarantined: Iterable[str]
) -> dict[str, int]:
    """played -> parsed -> won -> consistent -> kept, then the drops by reason: played = kept +
    all drops. *quarantined* are the reasons of games that ended without a transcript."""
    broken = Counter(quarantined)
    dropped = Counter(reason for reason in chosen.values() if reason is not None) + broken
    passed = [game for game in games if game.reason in (None, "difficulty")]
    funnel = {
        "played": len(games) + broken.total(),
        "parsed": sum(game.parsed for game in games),
        "won": sum(game.parsed and game.won for game in games),
        "consistent": len(passed),
        "kept": sum(reason is None for reason in chosen.values()),
    }
    return funnel | {reason: dropped[reason] for reason in sorted(dropped)}


def count_turns(games: Sequence[Judged]) -> dict[str, float]:
    """Turns of all games, and those of them that are doubted: nothing is learnt from them."""
    return {"turns": float(sum(game.num_turns for game in games)),
            "turns_doubted": float(sum(game.num_doubted for game in games))}


class RowKey(NamedTuple):
    """A planned training row as far as selection needs it; `said` is its normalised completion."""

    row_id: str
    role: str
    said: str
    content: int
    """Hash of images, prompt and completion."""
    agreement: float = 1.0
    """Share of the looks that gave the turn's answer."""


def exclude_rows(keys: Iterable[RowKey], balance: bool, seed: int) -> dict[str, str]:
    """Row id -> why it is left out: `duplicate`, or surplus of yes or no within its role."""
    seen: set[int] = set()
    excluded: dict[str, str] = {}
    said: dict[tuple[str, str], list[RowKey]] = {}
    for key in keys:
        if key.content in seen:
            excluded[key.row_id] = "duplicate"
            continue
        seen.add(key.content)
        if balance and key.said in ("yes", "no"):
            said.setdefault((key.role, key.said), []).append(key)
    for role in {role for role, _ in said}:
        sides = [said.get((role, side), []) for side in ("yes", "no")]
        fewer = min(len(side) for side in sides)
        for side in sides:
            ranked = sorted(side, key=lambda key: (-key.agreement, lot(seed, key.row_id)))
            excluded |= {key.row_id: "balance" for key in ranked[fewer:]}
    return excluded

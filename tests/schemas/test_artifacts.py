"""Artifacts: complete or absent, the same after any crash, counts that add up."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.artifacts import (
    find_manifest,
    publish,
    read_manifest,
    read_quarantine,
    read_receipt,
    read_rows,
    read_shard,
    sum_stats,
    write_shard,
)
from schemas.errors import StoreError
from schemas.manifest import Manifest
from schemas.rows import GameRow, PairRow, TrainRow
from schemas.store import Store
from tests.schemas.rows_for_tests import game, pair_row, rejected, train_row
from tests.schemas.stage_for_tests import run_stage


class Crash(Exception):
    """The process ends here."""


@dataclass(frozen=True)
class CrashingStore(Store):
    """A real store whose process ends before or after its n-th write."""

    writes_left: list[int] | None = None
    after: bool = False

    def write_bytes(self, path: str, data: bytes) -> None:
        assert self.writes_left is not None
        self.writes_left[0] -= 1
        if self.writes_left[0] < 0 and not self.after:
            raise Crash(path)
        super().write_bytes(path, data)
        if self.writes_left[0] < 0:
            raise Crash(path)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6))
def test_any_crashes_and_retries_end_in_the_same_rows_and_digest(
        crashes: list[tuple[int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        calm = Store(f"{folder}/calm")
        expected = run_stage(calm)
        store = Store(f"{folder}/crashing")
        for writes, after in crashes:
            try:
                run_stage(CrashingStore(store.root, [writes], after))
            except Crash as crash:
                if not (after and "manifest" in str(crash)):
                    with pytest.raises(StoreError):
                        read_manifest(store, "games")
        manifest = run_stage(store)
        assert manifest.digest == expected.digest
        assert [*read_rows(store, manifest, GameRow)] == [*read_rows(calm, expected, GameRow)]
        assert [*read_quarantine(store, manifest)] == [*read_quarantine(calm, expected)]


def test_the_crash_test_reaches_every_kind_of_write(tmp_path: Path) -> None:
    reached = []
    for writes in range(9):
        with pytest.raises(Crash) as caught:
            run_stage(CrashingStore(str(tmp_path / str(writes)), [writes]))
        reached.append(str(caught.value).split("/")[1])
    assert {"quarantine", "receipts", "manifest.json"} < set(reached) and len(reached) == 9


def test_a_finished_shard_is_not_made_again(store: Store) -> None:
    run_stage(store)
    store.delete("games/manifest.json")
    store.delete("games/receipts/00001.json")
    made: list[int] = []
    run_stage(store, made=made)
    assert made == [1]


def test_receipts_of_other_inputs_are_not_used(store: Store) -> None:
    run_stage(store, "one")
    made: list[int] = []
    second = run_stage(store, "two", made)
    assert made == [0, 1, 2]
    assert find_manifest(store, "games", "one") is None
    assert read_manifest(store, "games") == second


@pytest.mark.parametrize("damage", ["unreadable", "part_gone", "part_cut"])
def test_a_useless_receipt_means_making_the_shard_again(local_store: Store, damage: str) -> None:
    shard = write_shard(local_store, "games", 0, [game(1)], GameRow, inputs_digest="i")
    if damage == "unreadable":
        local_store.write_bytes("games/receipts/00000.json", b"{}")
    elif damage == "part_cut":
        part = f"games/{shard.path}"
        local_store.write_bytes(part, local_store.read_bytes(part)[:-10])
    else:
        local_store.delete(f"games/{shard.path}")
    assert read_receipt(local_store, "games", 0, "i") is None


def test_publishing_again_changes_nothing(local_store: Store) -> None:
    first = run_stage(local_store)
    assert publish(local_store, first.model_copy(update={"created_at": ""})) == first


def test_shards_twice_or_out_of_order_are_refused(local_store: Store) -> None:
    shard = write_shard(local_store, "games", 0, [game(1)], GameRow)
    with pytest.raises(StoreError, match="in order"):
        publish(local_store, Manifest(kind="games", prefix="games", inputs_digest="i",
                                      shards=[shard, shard]))


def test_rows_come_back_by_shard_by_column_and_all(store: Store) -> None:
    manifest = run_stage(store)
    assert manifest.num_rows == len([*read_rows(store, manifest, GameRow)]) == 12
    assert read_shard(store, manifest, 2, GameRow) == [game(20 + n) for n in range(4)]
    seeds = [row.seed for row in read_rows(store, manifest, GameRow, columns=["seed"])]
    assert seeds[:5] == [0, 1, 2, 3, 10]
    assert sum_stats(manifest.shards, lambda name: name == "calls") == {"calls": 6}
    with pytest.raises(StoreError, match="no shard 7"):
        read_shard(store, manifest, 7, GameRow)


def test_a_changed_part_is_noticed(local_store: Store) -> None:
    manifest = run_stage(local_store)
    other = write_shard(local_store, "other", 0, [game(1)], GameRow)
    local_store.write_bytes(f"games/{manifest.shards[0].path}",
                            local_store.read_bytes(f"other/{other.path}"))
    with pytest.raises(StoreError, match="its manifest says 4"):
        list(read_rows(local_store, manifest, GameRow))


def test_a_manifest_of_another_version_says_what_to_do(local_store: Store) -> None:
    local_store.write_bytes("games/manifest.json", b'{"kind": "games"}')
    with pytest.raises(StoreError, match="run the stage again"):
        read_manifest(local_store, "games")


def test_train_rows_are_checked_when_written_and_counts_add_up(local_store: Store) -> None:
    rows = [train_row(), train_row(row_id="bad", images=[]), train_row(row_id="t-3")]
    shard = write_shard(local_store, "train", 0, rows, TrainRow, [rejected(1)])
    manifest = publish(local_store, Manifest(kind="train", prefix="train", inputs_digest="i",
                                             shards=[shard], funnel={"played": 4, "kept": 2}))
    assert shard.num_rows + shard.num_quarantined == 4
    reasons = {row.row_id: row.reason for row in read_quarantine(local_store, manifest)}
    assert reasons == {"bad-1": "too_few", "bad": "placeholder_mismatch"}
    assert [row.row_id for row in read_rows(local_store, manifest, TrainRow)] == ["t-1", "t-3"]


def test_pairs_are_checked_when_written_too(local_store: Store) -> None:
    same = pair_row().chosen
    rows = [pair_row(), pair_row(row_id="same", rejected=same), pair_row(row_id="p-3")]
    shard = write_shard(local_store, "pairs", 0, rows, PairRow)
    manifest = publish(local_store, Manifest(kind="pairs", prefix="pairs", inputs_digest="i",
                                             shards=[shard]))
    [bad] = read_quarantine(local_store, manifest)
    assert (bad.row_id, bad.kind, bad.reason, bad.source) == (
        "same", "pairs", "chosen_equals_rejected", "i-1")
    assert [row.row_id for row in read_rows(local_store, manifest, PairRow)] == ["p-1", "p-3"]
    assert shard.path in local_store.read_bytes("pairs/README.md").decode()


def test_the_card_names_the_shards_and_the_funnel(local_store: Store) -> None:
    shard = write_shard(local_store, "train", 0, [train_row()], TrainRow)
    publish(local_store, Manifest(kind="train", prefix="train", inputs_digest="i", shards=[shard],
                                  parents={"transcripts": "abc"}, funnel={"played": 9}))
    card = local_store.read_bytes("train/README.md").decode()
    assert shard.path in card and "| played | 9 |" in card and "| transcripts | abc |" in card
    assert card.startswith("---\nconfigs:") and '"synthetic"' in card


WRITE_SLOWLY = """
import sys
from schemas.store import Store
from tests.schemas.stage_for_tests import run_stage
from schemas import artifacts
print("ready", flush=True)
part = artifacts._write_part
def slow(*args):
    import time
    time.sleep(0.02)
    print("part", flush=True)
    return part(*args)
artifacts._write_part = slow
run_stage(Store(sys.argv[1]))
print("done", flush=True)
"""


def killed_after(num_parts: int, root: str, env: dict[str, str]) -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-c", WRITE_SLOWLY, root], env=env,
                             stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(num_parts + 1):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    yield


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_readable(
        store: Store, child_env: Callable[[], dict[str, str]]) -> None:
    for num_parts in (1, 3):
        for _ in killed_after(num_parts, store.root, child_env()):
            with pytest.raises(StoreError, match="does not exist"):
                read_manifest(store, "games")
    made: list[int] = []
    manifest = run_stage(store, made=made)
    assert [row.row_id for row in read_rows(store, manifest, GameRow)] == [
        f"row-{10 * shard + n}" for shard in range(3) for n in range(4)]
    assert 0 not in made, "the first shard was finished before the second kill"

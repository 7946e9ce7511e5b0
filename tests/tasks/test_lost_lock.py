"""A run that lost its root writes nothing more that counts."""

import pytest

from schemas.config import ImagesConfig, RunConfig
from schemas.errors import LockHeld
from schemas.lock import RootLock, hold_root
from schemas.manifest import Manifest
from schemas.records import Evaluation, RoundRecord
from schemas.store import Store
from tasks.decide import record_round, settle_champion
from tasks.step import noted

RECORD = RoundRecord(
    round=0, model="m", model_prefix="p", trained_from=None, decision="base", reasons=[],
    evaluation=Evaluation(model_digest="m", metrics={}, items={}, inputs_digest="i"))


def test_no_step_begins_after_the_lock_was_lost(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(lock: RootLock) -> None:
        raise LockHeld("taken over")

    def work() -> Manifest:
        raise AssertionError("begun without the lock")

    config = RunConfig(root=local_store.root, images=ImagesConfig(limit=8))
    monkeypatch.setattr(RootLock, "check", lost)
    with hold_root(local_store, "me", 10):
        for step in (lambda: noted(local_store, "p", work), lambda: record_round.fn(config, RECORD),
                     lambda: settle_champion.fn(config)):
            with pytest.raises(LockHeld, match="taken over"):
                step()
    assert not local_store.exists("rounds/round=0000/round.json")
    assert not local_store.exists("champion.json")

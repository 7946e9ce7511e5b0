"""Where a run stands: whatever was killed between a round's record and its champion swap."""

import itertools

import pytest

from model_ops.rounds import (
    RoundClock,
    check_base,
    config_digest,
    incumbent,
    read_rounds,
    settle_champion,
    stop_reason,
    successor,
    write_round,
)
from schemas.champion import read_champion, swap_champion
from schemas.config import ImagesConfig, RunConfig, StopRule
from schemas.errors import ConfigError
from schemas.records import Champion, Evaluation, Metric, RoundRecord
from schemas.store import Store

METRIC = Metric(value=0.5, low=0.4, high=0.6, n=100)


def record(number: int, decision: str, before: Champion | None) -> RoundRecord:
    model = f"model-{number}"
    return RoundRecord(
        round=number, model=model, model_prefix=f"rounds/round={number:04d}/00-dialog/model",
        trained_from=before.digest if before else None, incumbent=before, decision=decision,
        reasons=["because"], evaluation=Evaluation(
            model_digest=model, metrics={"field/vqa": METRIC}, items={}, inputs_digest="items"))


def run_of(store: Store, decisions: list[str], last_swap: bool = True) -> Champion | None:
    """Write rounds with these decisions, the pointer swapped after each (perhaps not the last)."""
    for number, decision in enumerate(decisions):
        before = incumbent(store, read_rounds(store)) if number else None
        write_round(store, record(number, decision, before))
        if last_swap or number < len(decisions) - 1:
            settle_champion(store, read_rounds(store))
    return read_champion(store)


@pytest.mark.parametrize("decisions", [
    ["base", *rest] for num in (0, 1, 2) for rest in itertools.product(["promote", "hold"],
                                                                       repeat=num)])
def test_a_swap_that_a_kill_prevented_is_made_up_for(
    tmp_path_factory: pytest.TempPathFactory, decisions: list[str]
) -> None:
    whole = Store(str(tmp_path_factory.mktemp("whole")))
    killed = Store(str(tmp_path_factory.mktemp("killed")))
    expected = run_of(whole, decisions)
    run_of(killed, decisions, last_swap=False)
    assert settle_champion(killed, read_rounds(killed)) == expected == read_champion(killed)
    assert settle_champion(killed, read_rounds(killed)) == expected


def test_a_swap_whose_record_was_lost_does_not_count(local_store: Store) -> None:
    run_of(local_store, ["base", "promote"])
    before = read_champion(local_store)
    lost = record(2, "promote", before)
    swap_champion(local_store, before, successor(lost))
    records = read_rounds(local_store)
    assert incumbent(local_store, records) == before
    again = lost.model_copy(update={"model": "another-model"})
    write_round(local_store, again)
    assert settle_champion(local_store, read_rounds(local_store)) == successor(again)


@pytest.mark.parametrize("decision", ["hold", "promote"])
def test_a_promoted_round_that_is_played_again_may_be_held(
    local_store: Store, decision: str
) -> None:
    before = run_of(local_store, ["base", "promote"])
    write_round(local_store, record(2, "promote", before))
    promoted = settle_champion(local_store, read_rounds(local_store))
    assert promoted.round == 2
    local_store.delete("rounds/round=0002/round.json")
    assert settle_champion(local_store, read_rounds(local_store)) == before
    write_round(local_store, record(2, decision, incumbent(local_store, read_rounds(local_store))))
    expected = before if decision == "hold" else promoted
    assert settle_champion(local_store, read_rounds(local_store)) == expected
    assert read_champion(local_store) == expected == incumbent(local_store,
                                                               read_rounds(local_store))


def test_rounds_after_one_that_is_played_again_are_played_again_too(local_store: Store) -> None:
    promoted = run_of(local_store, ["base", "promote", "promote", "hold"])
    local_store.delete("rounds/round=0001/round.json")
    base = settle_champion(local_store, read_rounds(local_store))
    assert base.round == 0
    for number, decision in enumerate(["promote", "promote", "hold"], start=1):
        before = incumbent(local_store, read_rounds(local_store))
        write_round(local_store, record(number, decision, before))
        assert len(read_rounds(local_store)) == number + 1
        settled = settle_champion(local_store, read_rounds(local_store))
    assert settled == promoted == read_champion(local_store)


def test_a_held_round_that_was_crowned_by_hand_stays(local_store: Store) -> None:
    before = run_of(local_store, ["base", "promote", "hold"])
    by_hand = successor(record(2, "promote", before))
    swap_champion(local_store, before, by_hand)
    assert settle_champion(local_store, read_rounds(local_store)) == by_hand


def test_a_roll_back_by_hand_stays_and_is_the_one_to_beat(local_store: Store) -> None:
    crowned = run_of(local_store, ["base", "promote"])
    base = successor(read_rounds(local_store)[0])
    rolled_back = base.model_copy(update={"history": [*crowned.history, base.digest]})
    swap_champion(local_store, crowned, rolled_back)
    assert settle_champion(local_store, read_rounds(local_store)) == rolled_back
    assert incumbent(local_store, read_rounds(local_store)) == rolled_back
    write_round(local_store, record(2, "promote", rolled_back))
    settled = settle_champion(local_store, read_rounds(local_store))
    assert settled.digest == "model-2" and settled.history[:-1] == rolled_back.history


def test_a_held_round_leaves_the_pointer(local_store: Store) -> None:
    champion = run_of(local_store, ["base", "promote", "hold"])
    assert champion is not None and champion.round == 1


def decided(*decisions: str) -> list[RoundRecord]:
    return [record(number, decision, None) for number, decision in enumerate(decisions)]


@pytest.mark.parametrize(("stop", "records", "played", "minutes", "expected"), [
    (StopRule(rounds=2), decided("base", "promote"), 1, 5.0, None),
    (StopRule(rounds=2), decided("base", "promote", "hold"), 0, 0.0, "all 2 rounds"),
    (StopRule(rounds=9, plateau=2), decided("base", "hold", "hold"), 0, 0.0, "plateau"),
    (StopRule(rounds=9, plateau=2), decided("base", "hold", "promote"), 0, 0.0, None),
    (StopRule(rounds=9, plateau=None), decided("base", "hold", "hold"), 2, 9.0, None),
    (StopRule(rounds=9, budget_minutes=3), decided("base"), 0, 9.0, None),
    (StopRule(rounds=9, budget_minutes=3), decided("base", "promote"), 1, 9.0, "budget"),
])
def test_stop_rules(
    stop: StopRule, records: list[RoundRecord], played: int, minutes: float, expected: str | None
) -> None:
    reason = stop_reason(stop, records, played, minutes)
    assert reason is None if expected is None else expected in str(reason)


def config(**changes: object) -> RunConfig:
    return RunConfig.model_validate(
        {"root": "r", "images": ImagesConfig(limit=8), **changes})


def test_another_base_model_needs_another_root() -> None:
    base = record(0, "base", None).model_copy(update={"config_digest": config_digest(config(), 0)})
    check_base(config(), [base])
    with pytest.raises(ConfigError, match="use another root"):
        check_base(config(model={"uri": "other/model"}), [base])


def test_only_what_shapes_a_round_is_in_its_digest() -> None:
    assert config_digest(config(), 1) == config_digest(config(stop={"rounds": 9}), 1)
    assert config_digest(config(), 1) != config_digest(config(seed=1), 1)


def test_the_clock_keeps_what_a_killed_attempt_measured(local_store: Store) -> None:
    first = RoundClock(local_store, 1)
    with first.step("generate", "00-dialog"):
        pass
    before = first.stage("00-dialog")["generate"]
    second = RoundClock(local_store, 1)
    with second.step("generate", "00-dialog"), second.step("inner"):
        pass
    totals = second.close()
    assert totals["generate"] >= before
    assert set(totals) == {"generate", "inner", "orchestration"}

"""Tasks that end a round: the gate, the record, the champion pointer."""

from model_ops import gate, rounds, stages
from schemas.config import RunConfig
from schemas.lock import check_root
from schemas.records import Champion, Decision, Evaluation, RoundRecord
from schemas.store import Store
from tasks.step import step


@step(name="gate")
def decide(
    config: RunConfig, candidate: Evaluation, champion: Evaluation, base: Evaluation
) -> Decision:
    """Promote or hold, from the items that the models all answered."""
    store = Store(config.root)
    return gate.decide(stages.scores(store, candidate), stages.scores(store, champion),
                       config.gate, stages.scores(store, base),
                       stages.clusters(store, candidate))


@step(name="record round")
def record_round(config: RunConfig, record: RoundRecord) -> RoundRecord:
    """Write `round.json`: from here on the round is finished. `LockHeld` if the lock was lost."""
    store = Store(config.root)
    check_root(store)
    return rounds.write_round(store, record)


@step(name="settle champion")
def settle_champion(config: RunConfig) -> Champion:
    """Swap `champion.json` if the last round was promoted; the last step of a round.

    `LockHeld` if the lock was lost.
    """
    store = Store(config.root)
    check_root(store)
    return rounds.settle_champion(store, rounds.read_rounds(store))

"""The last lines of `flywheel run`."""

from deploy.commands_run import _closing
from model_ops.summary import RoundSummary, RunSummary
from schemas.champion import swap_champion
from schemas.config import ImagesConfig, RunConfig
from schemas.records import Champion
from schemas.store import Store


def told(store: Store, *models: str) -> str:
    """What is told of a run whose rounds have these models; the champion is that of round 1."""
    champion = Champion(digest="better", prefix="p", round=1, decision="promote")
    swap_champion(store, None, champion)
    rounds = [RoundSummary(round=number, model=model, decision="hold", reasons=[], funnel={},
                           evaluation={}, seconds={}, tokens_per_second=0.0)
              for number, model in enumerate(models)]
    config = RunConfig(root=store.root, images=ImagesConfig(limit=8))
    return _closing(config, RunSummary(champion="better", rounds=rounds))


def test_the_champion_is_of_its_own_round_though_a_later_one_kept_its_model(
    local_store: Store
) -> None:
    assert "champion: better (round 1 of 2)" in told(local_store, "base", "better", "better")


def test_a_champion_that_no_record_names_is_told_too(local_store: Store) -> None:
    assert "champion: better (round 1 of 1)" in told(local_store, "base", "another")

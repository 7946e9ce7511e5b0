"""The last lines of `flywheel run`."""

import pytest

from deploy.commands_run import _closing, _run
from model_ops.rounds import config_digest, write_round
from model_ops.summary import RoundSummary, RunSummary
from schemas.champion import swap_champion
from schemas.config import ImagesConfig, RunConfig, StopRule
from schemas.records import Champion, Evaluation, RoundRecord
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


@pytest.mark.parametrize(("seed", "rounds", "said"), [
    (0, 1, ""), (1, 1, "note: round 1: made with another configuration, kept as made; no round is "
                       "played with this configuration (all 1 rounds are done): raise stop.rounds"),
    (1, 2, "note: round 1: made with another configuration, kept as made\n")])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_ends_with_what_was_made_with_another_configuration(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    seed: int, rounds: int, said: str, as_json: bool,
) -> None:
    config = RunConfig(root=local_store.root, images=ImagesConfig(limit=8),
                       stop=StopRule(rounds=rounds))
    told(local_store, "base")

    def improve(config: RunConfig) -> RunSummary:
        for number in range(rounds + 1):  # the first round is older than the configuration
            made = config if number > 1 else config.model_copy(update={"seed": 0})
            write_round(local_store, RoundRecord(
                round=number, model="m", model_prefix="", trained_from=None, decision="base",
                reasons=[], config_digest=config_digest(made, number), evaluation=Evaluation(
                    model_digest="m", metrics={}, items={}, inputs_digest="")))
        return RunSummary(champion="better", rounds=[])

    monkeypatch.setattr("deploy.prefect_api.prepare", lambda *_: None)
    monkeypatch.setattr("flows.improve.improve", improve)
    _run(config.model_copy(update={"seed": seed}), False, as_json)
    errors = capsys.readouterr().err
    assert said in errors and ("note:" in errors) is bool(said)


def test_a_champion_that_no_record_names_is_told_too(local_store: Store) -> None:
    assert "champion: better (round 1 of 1)" in told(local_store, "base", "another")

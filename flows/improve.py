"""The loop: images -> base -> rounds of (generate, curate, train, evaluate, gate) -> champion.

Every step publishes a manifest and is skipped when it is there for the same inputs; a finished
round is its `round.json`. So a run that was killed anywhere is continued by starting it again.
"""

from prefect import flow, get_run_logger

from flows.calibrated import calibrated_stage
from flows.contrastive import contrastive_stage
from flows.dialog import dialog_stage
from flows.evaluate import measure
from flows.learning import Trained
from model_ops.rounds import (
    RoundClock,
    RunClock,
    base_record,
    changed_rounds,
    check_base,
    incumbent,
    read_rounds,
    round_prefix,
    stop_reason,
)
from model_ops.stages import (
    StagePlace,
    StartModels,
    items_digest,
    refuse_endpoint,
    refuse_gate,
    round_record,
    start_models,
)
from model_ops.summary import RunSummary
from schemas.artifacts import read_manifest
from schemas.config import RunConfig
from schemas.lock import hold_root
from schemas.manifest import Manifest
from schemas.records import Evaluation, RoundRecord
from schemas.store import Store
from tasks.decide import decide, record_round, settle_champion
from tasks.naming import run_name
from tasks.prepare import (
    import_images,
    plan_benchmarks,
    publish_base,
    refuse_training_images,
)
from tasks.publish import report, show_round

STAGES = {
    "dialog": dialog_stage,
    "contrastive": contrastive_stage,
    "calibrated": calibrated_stage,
}
"""The flow of each method's stage."""


@flow(name="improve", flow_run_name=run_name, persist_result=False)
def improve(config: RunConfig) -> RunSummary:
    """Run rounds until a stop rule ends it; the summary of all rounds of the root."""
    refuse_endpoint(config)
    refuse_gate(config)
    store, clock = Store(config.root), RunClock()
    with hold_root(store, f"improve {config.root}", config.lease_minutes):
        records = _finished_rounds(config, store) or [_base_round(config, store)]
        summary = report(config, records, settle_champion(config))
        while (why := stop_reason(config.stop, records, clock.played, clock.minutes)) is None:
            records.append(improve_round(config, len(records)))
            summary = report(config, records, settle_champion(config))
            clock.played += 1
        get_run_logger().info("stop: %s", why)
        return summary


@flow(name="improve-round", flow_run_name=run_name, persist_result=False)
def improve_round(config: RunConfig, number: int) -> RoundRecord:
    """One round: every stage from the model of the one before; then evaluate, decide, record."""
    store = Store(config.root)
    clock = RoundClock(store, number)
    images = _import_images(config, clock)
    records = read_rounds(store)
    champion = incumbent(store, records)
    start = start_models(store, config, champion)
    trained = _run_stages(config, number, images, start, clock)
    with clock.step("evaluate"):
        prefix = f"{round_prefix(number)}/evaluation"
        candidate = measure(config, trained[-1].model, start.current, prefix, number)
        rival = _on_same_items(config, records[champion.round], f"{round_prefix(number)}/rival")
        base = rival
        if champion.round != 0 and config.gate.base_guards:
            base = _on_same_items(config, records[0], f"{round_prefix(number)}/base")
    with clock.step("gate"):
        decision = decide(config, candidate, rival, base)
    record = record_round(config, round_record(
        StagePlace(config, number, 0), champion, start, [stage.record for stage in trained],
        trained[-1].model, candidate, decision, clock.close()))
    show_round(record, records[champion.round], records[0])
    return record


def _finished_rounds(config: RunConfig, store: Store) -> list[RoundRecord]:
    """The rounds that need nothing any more, each named in the log."""
    records = read_rounds(store)
    check_base(config, records)
    changed = changed_rounds(config, records)
    for record in records:
        is_changed = record.round in changed
        note = "; made with another configuration, kept as it is" if is_changed else ""
        get_run_logger().info("skipped: round %d is already complete (%s%s)",
                              record.round, record.decision, note)
    return records


def _base_round(config: RunConfig, store: Store) -> RoundRecord:
    """Round 0: publish the base and measure it."""
    clock = RoundClock(store, 0)
    _import_images(config, clock)
    with clock.step("import"):
        base = publish_base(config)
    with clock.step("evaluate"):
        evaluation = measure(config, base, None, f"{round_prefix(0)}/evaluation", 0)
    record = record_round(config, base_record(config, base, evaluation, clock.close()))
    show_round(record, record, record)
    return record


def _import_images(config: RunConfig, clock: RoundClock) -> Manifest:
    """The images to play with: none of a benchmark's, which may have changed since round 0."""
    with clock.step("import"):
        images = import_images(config)
        refuse_training_images(config, images, plan_benchmarks(config))
    return images


def _run_stages(
    config: RunConfig, number: int, images: Manifest, start: StartModels, clock: RoundClock
) -> list[Trained]:
    """The stages in order: each generates with, and trains from, the model of the one before."""
    trained: list[Trained] = []
    current, weights = start
    for index, stage in enumerate(config.stages):
        place = StagePlace(config, number, index)
        trained.append(STAGES[stage.method](place, images, current, weights, clock))
        current = weights = trained[-1].model
    return trained


def _on_same_items(config: RunConfig, record: RoundRecord, prefix: str) -> Evaluation:
    """The evaluation of a round's model; measured again at `prefix` if items or rules changed."""
    if record.evaluation.inputs_digest == items_digest(config, plan_benchmarks(config)):
        return record.evaluation
    model = read_manifest(Store(config.root), record.model_prefix)
    return measure(config, model, None, prefix, record.round)

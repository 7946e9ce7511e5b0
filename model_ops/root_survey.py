"""What a run would find at its root, without writing there: for plans and dry runs."""

from model_ops.models import is_downloaded, locate_model
from model_ops.rounds import changed_note, check_base, read_rounds, stop_reason
from model_ops.stages import refuse_endpoint, refuse_gate
from schemas.config import RunConfig
from schemas.errors import StoreError
from schemas.records import RoundRecord
from schemas.store import Store


def survey_root(config: RunConfig) -> list[str]:
    """How far the root has come, in notes; raises what the run would raise at once.

    The base model is looked for where that needs no download; a root that has it needs it no more.
    """
    refuse_endpoint(config)
    refuse_gate(config)
    store = Store(config.root)
    try:
        records = read_rounds(store)
    except StoreError as error:
        if store.is_local:
            raise
        return [f"it is not known whether the root holds finished rounds: {error}"]
    check_base(config, records)
    if records:
        return _progress(config, records)
    if not is_downloaded(config.model.uri):
        locate_model(config.model.uri)
    return []


def _progress(config: RunConfig, records: list[RoundRecord]) -> list[str]:
    done = len(records) - 1
    why = stop_reason(config.stop, records, 0, 0.0)
    further = f"no further one would be played ({why})" if why else f"round {done + 1} is next"
    rounds = f"{done} finished round{'s' * (done != 1)}"
    notes = [f"{config.root} holds the base and {rounds}: {further}"]
    changed = changed_note(config, records)
    return [*notes, changed] if changed else notes

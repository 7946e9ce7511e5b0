"""A finished root whose rounds have a calibrated stage: plans, nodes and pairs are made by the
stage's own steps, search trees are drawn from a seed (one sentence is hostile on purpose), figures
of CHAIR and POPE are made up.
"""

import random

from model_ops import calibrated
from model_ops.prompts import load_prompts
from model_ops.rounds import read_rounds, successor
from model_ops.stages import StagePlace, round_funnel, stage_record
from schemas.artifacts import publish, read_manifest, read_shard, write_shard
from schemas.champion import read_champion, swap_champion
from schemas.config import CalibratedStage, ImagesConfig, RunConfig
from schemas.manifest import Manifest
from schemas.records import Evaluation, Metric, RoundRecord, StageRecord
from schemas.rows import QuarantineRow, row_id
from schemas.searches import DescriptionRow, SearchNode, SearchRow
from schemas.store import Store
from tests.model_ops.rooted import HOSTILE, build_root

STAGE = "00-calibrated"
NUM_SEARCHES = 24
SENTENCES = ("there is a red circle .", "a blue star stands at the left .",
             "two green squares are below .", "the picture has noise .")
FIGURES = {"chair_s": (0.48, 0.27, 0.23, 0.21), "chair_i": (0.15, 0.07, 0.06, 0.06),
           "chair_recall": (0.7, 0.71, 0.7, 0.7), "pope": (0.80, 0.83, 0.84, 0.84),
           "pope_f1": (0.79, 0.82, 0.83, 0.83), "pope_random": (0.85, 0.86, 0.87, 0.87)}
WORDS = (23.4, 22.1, 21.9, 21.7)
"""Mean caption lengths of the base and of rounds 1 to 3."""


def build_calibrated_root(store: Store, rounds: int = 3) -> list[RoundRecord]:
    """Rounds with a calibrated stage instead of the dialog stage; the third is held."""
    build_root(store, rounds)
    records: list[RoundRecord] = []
    for record in read_rounds(store):
        record = record.model_copy(update={
            "trained_from": records[-1].model if records else None,
            "evaluation": _measured(record.evaluation, record.round)})
        if record.round:
            stage = _stage(store, record)
            record = record.model_copy(update={
                "model": stage.model_digest, "model_prefix": stage.artifacts["model"],
                "stages": [stage], "funnel": round_funnel([stage]),
                "reasons": ["field/chair_clean rose", "guard kept: field/pope changed"]})
        records.append(record)
        store.write_bytes(f"rounds/round={record.round:04d}/round.json",
                          record.model_dump_json().encode())
    lead = [record for record in records if record.decision != "hold"][-1]
    swap_champion(store, read_champion(store), successor(lead))
    return records


def tree(seed: str, finals: int = 3) -> list[SearchNode]:
    """Three sentences, the best of which is gone on with; *finals* of the second level end."""
    rng = random.Random(seed)

    def node(number: int, parent: int, depth: int, final: bool, text: str) -> SearchNode:
        return SearchNode(
            node_id=number, parent_id=parent, depth=depth, text=text,
            said=f" {text}", num_tokens=6,
            logprob=-6 * rng.random(), cosine=rng.uniform(0.1, 0.35), is_final=final,
            finish_reason="eos" if final else "sentence", kept=number == 1)

    root = SearchNode(node_id=0, parent_id=None, depth=0, text="", said="", num_tokens=0,
                      logprob=0.0, cosine=None, is_final=False, finish_reason="", kept=True)
    nodes = [root, *(node(i, 0, 1, False, rng.choice(SENTENCES)) for i in (1, 2))]
    nodes.append(node(3, 0, 1, False, "x").model_copy(
        update={"cosine": None, "dropped_reason": "too_short"}))
    return nodes + [node(4 + i, 1, 2, i < finals, f"{SENTENCES[i]} {HOSTILE}" if i == 2
                         else SENTENCES[i]) for i in range(4)]


def _measured(evaluation: Evaluation, number: int) -> Evaluation:
    metrics = {f"field/{name}": _metric(values[number]) for name, values in FIGURES.items()}
    metrics["field/chair_clean"] = _metric(1 - FIGURES["chair_s"][number])
    words = WORDS[number]
    metrics["field/caption_words"] = Metric(value=words, low=words - 1, high=words + 1, n=500)
    return evaluation.model_copy(update={"metrics": metrics})


def _metric(value: float) -> Metric:
    return Metric(value=value, low=value - 0.02, high=value + 0.02, n=500)


def _stage(store: Store, record: RoundRecord) -> StageRecord:
    config = RunConfig(root=store.root, images=ImagesConfig(limit=48), shard_size=8, seed=3,
                       model={"uri": "nursery://vlm", "prompts": "nursery"},
                       stages=[CalibratedStage.model_validate({
                           "prompts": {"limit": NUM_SEARCHES},
                           "preference": {"min_margin": 0.03}})])
    place, images = StagePlace(config, record.round, 0), read_manifest(store, "images")
    prompts = calibrated.plan_prompts(store, place, images)
    searches = _searches(store, place, prompts, record.trained_from or "")
    nodes = calibrated.judge_nodes(store, place, searches)
    train = calibrated.choose_pairs(store, place, searches, images)
    model = publish(store, Manifest(
        kind="model", prefix=place.prefix("model"), inputs_digest=f"model {record.round}",
        parents={"train": train.digest}, config={"objective": "dpo"},
        files={"model.safetensors": f"{record.round}" * 64}, stats={"steps": 12.0}))
    made = {"prompts": prompts, "searches": searches, "nodes": nodes, "train": train,
            "model": model}
    return stage_record(place, made, {"generate": 20.0, "curate": 1.0, "train": 30.0})


def _searches(store: Store, place: StagePlace, prompts: Manifest, model: str) -> Manifest:
    """A tree for every prompt but the second of each shard, which is lost in the pool."""
    prefix, shards = place.prefix("searches"), []
    for shard in prompts.shards:
        items = read_shard(store, prompts, shard.index, DescriptionRow)
        rows = [_search(place, item, model, number) for number, item in enumerate(items)
                if number != 1]
        lost = QuarantineRow(row_id=items[1].row_id, kind="prompts", reason="unanswered",
                             detail="no reply", source=items[1].image.image_id, payload="{}")
        shards.append(write_shard(store, prefix, shard.index, rows, SearchRow, [lost],
                                  {"calls": 4.0 * len(rows), "prompt_tokens": 100.0,
                                   "output_tokens": 50.0}))
    return publish(store, Manifest(
        kind="searches", prefix=prefix, inputs_digest=f"searches {place.round}", shards=shards,
        parents={"items": prompts.digest}, determinism="call",
        config={"program": "search", "settings": {}},
        funnel={"planned": prompts.num_rows, "unanswered": len(shards),
                "played": prompts.num_rows - len(shards)}))


def _search(place: StagePlace, item: DescriptionRow, model: str, number: int) -> SearchRow:
    """The third of each shard has one finished reply only."""
    return SearchRow(
        row_id=row_id("search", item=item.row_id, round=place.round), round=place.round,
        stage=place.name, model_digest=model, prompt_version=load_prompts("nursery").digest,
        seed=item.seed, prompt_id=item.prompt_id, image=item.image, question=item.question,
        nodes=tree(f"{place.round}/{item.row_id}", finals=1 if number == 2 else 3), num_merged=1,
        num_truncated=0, scorer_digest="clip", num_calls=4, num_prompt_tokens=60,
        num_output_tokens=42, num_image_tokens=9)

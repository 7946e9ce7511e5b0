"""A finished root, made with the real store: what report and lineage tests read.

Games, beliefs and figures are drawn from a seed; the text of one game is hostile on purpose.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from model_ops.images import import_images
from schemas.artifacts import publish, read_rows, write_shard
from schemas.champion import swap_champion
from schemas.config import ImagesConfig
from schemas.manifest import Manifest
from schemas.records import Champion, Evaluation, Metric, RoundRecord, StageRecord
from schemas.rows import (
    ChatMessage,
    ImageRef,
    ImageRow,
    ItemRow,
    Part,
    Picture,
    QuarantineRow,
    Row,
    TrainRow,
    TranscriptRow,
    Turn,
    row_id,
)
from schemas.store import Store

HOSTILE = ('</p><script>document.title="pwned"</script>'
           '<img src=x onerror="document.title=\'pwned\'">')
STAGE = "00-dialog"
PRIMARY = "field/game4_success"
KINDS = ("yesno", "attribute", "count", "position")
WORDS = ("red", "blue", "green", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "star", "cross", "diamond", "triangle")
RISES = ((0.512, 0.701, 0.884), (0.566, 0.728, 0.882), (0.641, 0.763, 0.879), (0.648, 0.766, 0.861))


def build_root(store: Store, rounds: int = 3, win: bool = True, images: ImagesConfig | None = None,
               games: int = 24) -> list[RoundRecord]:
    """Write a root of `rounds` rounds after the base; the last one is held if it is the third."""
    source = images or ImagesConfig(uri="nursery://field", limit=48)
    pictures = list(read_rows(store, import_images(store, source), ImageRow))
    records = [_base(store)]
    for number in range(1, rounds + 1):
        records.append(_round(store, number, records[-1], pictures, win, games))
    for record in records:
        path = f"rounds/round={record.round:04d}/round.json"
        store.write_bytes(path, record.model_dump_json().encode())
    lead = [record for record in records if record.decision != "hold"]
    swap_champion(store, None, Champion(
        digest=lead[-1].model, prefix=lead[-1].model_prefix, round=lead[-1].round,
        decision=lead[-1].decision, history=[record.model for record in lead]))
    return records


def save_photographs(folder: Path, num: int, side: int = 900) -> None:
    """Write *num* noisy JPEGs: the worst case for a thumbnail's size."""
    rng = random.Random(5)
    for index in range(num):
        noise = Image.effect_noise((side, side * 3 // 4), 60).convert("RGB")
        tint = Image.new("RGB", noise.size, tuple(rng.randrange(256) for _ in range(3)))
        Image.blend(noise, tint, 0.4).save(folder / f"photo{index:03d}.jpg", quality=92)


def ref(picture: ImageRow, place: int, shard_size: int = 256) -> ImageRef:
    """Where the picture is in `images/`."""
    return ImageRef(image_id=picture.image_id, shard=place // shard_size, row=place % shard_size)


def _base(store: Store) -> RoundRecord:
    prefix = "rounds/round=0000/model"
    model = _publish_model(store, prefix, {})
    return RoundRecord(
        round=0, model=model.digest, model_prefix=prefix, trained_from=None, decision="base",
        reasons=["the base model is what every round is compared with"],
        evaluation=_evaluation(store, 0, model.digest), seconds={"evaluate": 41.0},
        finished_at="2026-11-21T02:00:00+00:00")


def _round(store: Store, number: int, before: RoundRecord, pictures: Sequence[ImageRow],
           win: bool, games: int) -> RoundRecord:
    prefix = f"rounds/round={number:04d}/{STAGE}"
    rows = [_game(number, index, before.model, pictures, win) for index in range(games)]
    transcripts = _publish(store, "transcripts", f"{prefix}/transcripts", rows, TranscriptRow,
                           stats={"calls": 190.0 * games, "prompt_tokens": 31_000.0 * games,
                                  "output_tokens": 880.0 * games, "engine_seconds": 70.0},
                           config={"play": {"guesser": "per_image", "max_turns": {"4": 6}}})
    kept = [row for row in rows if row.won][: games // 3]
    lost = [_dropped(row) for row in rows if not row.won]
    learnt = [line for row in kept for line in _lines(row, pictures)]
    funnel = {"played": games, "parsed": games - 1, "won": sum(r.won for r in rows),
              "consistent": len(kept) + 1 if kept else 0, "kept": len(kept),
              "lost": len(lost), "blind": 3, "order": 2, "repeat": 1}
    train = _publish(store, "train", f"{prefix}/train", learnt, TrainRow, quarantined=lost,
                     funnel=funnel, parents={"transcripts": transcripts.digest})
    model = _publish_model(store, f"{prefix}/model", {"train": train.digest, "start": before.model})
    artifacts = {"transcripts": transcripts, "train": train, "model": model}
    held = number == 3
    seconds = {"group": 4.0 + number, "generate": 96.0, "curate": 6.5, "train": 74.0}
    stage = StageRecord(name=STAGE, method="dialog", funnel=funnel, seconds=seconds,
                        artifacts={name: made.prefix for name, made in artifacts.items()},
                        tokens_per_second=301.4 + number, model_digest=model.digest)
    gain = _rise(number)[0] - before.evaluation.metrics[PRIMARY].value
    return RoundRecord(
        round=number, model=model.digest, model_prefix=f"{prefix}/model", trained_from=before.model,
        decision="hold" if held else "promote", stages=[stage], funnel=funnel,
        reasons=[f"{PRIMARY} rose by {gain:.3f}",
                 "home/vqa fell by more than 0.010" if held else "guard home/vqa is kept"],
        gain=Metric(value=gain, low=gain - 0.03, high=gain + 0.03, n=1000),
        evaluation=_evaluation(store, number, model.digest), tokens_per_second=301.4,
        seconds={**seconds, "evaluate": 43.0, "orchestration": 5.5},
        finished_at=f"2026-11-21T02:{number:02d}:00+00:00")


def _evaluation(store: Store, number: int, model: str) -> Evaluation:
    game, vqa, home = _rise(number)
    metrics = {PRIMARY: _metric(game, 0.25), "field/game2_success": _metric(game + 0.2, 0.5),
               "field/vqa": _metric(vqa), "home/vqa": _metric(home)}
    for step, kind in enumerate(KINDS):
        metrics[f"field/vqa_{kind}"] = _metric(vqa + 0.06 * (1 - step), 0.5 if step == 0 else None)
    prefix = f"rounds/round={number:04d}/evaluation/field-vqa"
    items = [ItemRow(row_id=row_id("item", index=index), benchmark="field/vqa", kind="yesno",
                     image_ids=[], prompt="is there a star ?", expected="yes", reply="no",
                     score=0.0, model_digest=model, prompt_version="nursery-1", seed=1, num_calls=1,
                     num_prompt_tokens=20, num_output_tokens=1) for index in range(3)]
    _publish(store, "items", prefix, items, ItemRow)
    return Evaluation(model_digest=model, metrics=metrics, items={"field-vqa": prefix},
                      inputs_digest="e" * 64)


def _rise(number: int) -> tuple[float, float, float]:
    return RISES[min(number, len(RISES) - 1)]


def _metric(value: float, chance: float | None = None) -> Metric:
    half = 1.96 * (value * (1 - value) / 1000) ** 0.5
    return Metric(value=value, low=value - half, high=value + half, n=1000, chance=chance)


def _game(number: int, index: int, model: str, pictures: Sequence[ImageRow],
          win: bool) -> TranscriptRow:
    rng = random.Random(f"{number}/{index}")
    num = 2 if index % 3 == 2 else 4
    places = rng.sample(range(len(pictures)), num)
    target = rng.randrange(num)
    won = win and rng.random() < 0.6
    guess = target if won else (target + 1) % num
    turns = [_turn(rng, num, guess, step) for step in range(rng.randint(1, 3))]
    if index in (0, 1):
        turns[0] = turns[0].model_copy(update={"question": HOSTILE, "answer": HOSTILE,
                                               "summary": HOSTILE})
    return TranscriptRow(
        row_id=row_id("game", round=number, index=index), round=number, stage=STAGE,
        model_digest=model, prompt_version="nursery-1", seed=rng.randrange(1000),
        group_id=f"group{index}", images=[ref(pictures[place], place) for place in places],
        target=target, guess=guess, won=won, turns=turns,
        stop_reason=rng.choice(("ready", "max_turns")), mode="per_image",
        rotation_pass=rng.choice((0.5, 0.75, 1.0)), blind_pass=rng.choice((0.25, 0.5)),
        mean_similarity=0.8, num_calls=12, num_prompt_tokens=900, num_output_tokens=30,
        num_image_tokens=36)


def _turn(rng: random.Random, num: int, guess: int, step: int) -> Turn:
    weights = [rng.random() for _ in range(num)]
    weights[guess] += 1.0 + step
    thing = f"{rng.choice(WORDS)} {rng.choice(SHAPES)}"
    answer = rng.choice(("yes", "no"))
    return Turn(question=f"is there a {thing} ?", answer=answer, question_logprob=-2.0,
                answer_logprob=-0.2, summary="", beliefs=[w / sum(weights) for w in weights],
                consistency=1.0, counterfactual="no" if answer == "yes" else None)


def _lines(game: TranscriptRow, pictures: Sequence[ImageRow]) -> list[TrainRow]:
    by_id = {picture.image_id: picture.image for picture in pictures}
    target = game.images[game.target]
    turn = game.turns[0]
    answer = _line(game, "answer", turn.question, turn.answer, [target], by_id)
    seen = "the pictures are these"
    return [answer, _line(game, "ask", seen, turn.question, game.images, by_id)]


def _line(game: TranscriptRow, role: str, said: str, completion: str, refs: Sequence[ImageRef],
          pictures: dict[str, Picture]) -> TrainRow:
    parts = [*(Part(type="image") for _ in refs), Part(type="text", text=said)]
    return TrainRow(
        row_id=row_id("train", source=game.row_id, role=role), round=game.round, stage=game.stage,
        model_digest=game.model_digest, prompt_version=game.prompt_version, seed=game.seed,
        prompt=[ChatMessage(role="user", content=parts)],
        completion=[ChatMessage(role="assistant", content=[Part(type="text", text=completion)])],
        images=[pictures[each.image_id] for each in refs], weight=1.0 if role == "answer" else 0.5,
        role=role, source_row_id=game.row_id, image_ids=[each.image_id for each in refs])


def _dropped(game: TranscriptRow) -> QuarantineRow:
    return QuarantineRow(row_id=game.row_id, kind="game", reason="lost", detail="guess 1, target 0",
                         source=f"rounds/round={game.round:04d}/{STAGE}/transcripts",
                         payload=game.model_dump_json())


def _publish(store: Store, kind: str, prefix: str, rows: Sequence[Row], row_type: type[Row],
             quarantined: Sequence[QuarantineRow] = (), **fields: object) -> Manifest:
    half = len(rows) // 2 + 1
    pieces = [rows[:half], rows[half:]]
    shards = [write_shard(store, prefix, index, piece, row_type, quarantined if not index else ())
              for index, piece in enumerate(pieces)]
    made = Manifest.model_validate({"kind": kind, "prefix": prefix, "inputs_digest": "1" * 64,
                                    "shards": shards, **fields})
    return publish(store, made)


def _publish_model(store: Store, prefix: str, parents: dict[str, str]) -> Manifest:
    return publish(store, Manifest(
        kind="model", prefix=prefix, inputs_digest=f"{prefix:<64}"[:64], parents=parents,
        files={"model.safetensors": "a" * 64}, config={"objective": "sft", "learning_rate": 1e-4},
        stats={"steps": 120.0, "rows": 480.0, "seconds": 74.0, "final_loss": 0.412}))

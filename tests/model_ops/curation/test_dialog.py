"""Curation end to end on a store: rows trace to turns, the funnel adds up, resume, quarantine."""

import json
from collections import Counter
from collections.abc import Sequence

import pytest

from model_ops.curation import dialog as curation
from model_ops.curation.checks import drop_reason, has_sound_answers
from model_ops.curation.dialog import curate
from model_ops.curation.train_rows import plan_rows
from model_ops.looks import encoded_look
from model_ops.programs.calls import Generate
from model_ops.prompts import load_prompts
from schemas.artifacts import publish, read_quarantine, read_rows, write_shard
from schemas.config import DialogCurationConfig, DialogPlayConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows import ImageRow, Picture, QuarantineRow, TrainRow, TranscriptRow
from schemas.store import Store
from tests.model_ops.bits_world import NUM_GROUPS, Bayesians, games, image, picture, transcripts
from tests.model_ops.programs.test_dialog import JOINT, LOOKED, PER_IMAGE

NUM_GAMES = 60
ALL = DialogCurationConfig(
    counterfactual_answers=True,
    max_distractor_belief=0.2,
    max_question_similarity=None,  # two bits are asked again and again when answers are noisy
    max_per_target=3,
)


def publish_images(store: Store) -> Manifest:
    """The pictures of the bits world."""
    rows = [_image_row(group, number) for group in range(NUM_GROUPS) for number in range(4)]
    shard = write_shard(store, "images", 0, rows, ImageRow)
    manifest = Manifest(kind="images", prefix="images", inputs_digest="", shards=[shard])
    return publish(store, manifest)


def _image_row(group: int, number: int) -> ImageRow:
    return ImageRow(
        image_id=image(group, number).image_id,
        image=Picture(bytes=picture(group, number)),
        width=8,
        height=8,
        source="test",
        split="train",
    )


def publish_transcripts(
    store: Store, rows: Sequence[TranscriptRow], broken: Sequence[QuarantineRow] = ()
) -> Manifest:
    shards = [
        write_shard(store, "transcripts", index, rows[start : start + 16], TranscriptRow,
                    broken if index == 0 else ())
        for index, start in enumerate(range(0, len(rows), 16))
    ]
    manifest = Manifest(kind="transcripts", prefix="transcripts", inputs_digest="", shards=shards,
                        determinism="engine")
    return publish(store, manifest)


def curated(
    store: Store,
    rules: DialogPlayConfig,
    config: DialogCurationConfig,
    flip: float = 0.2,
    broken: Sequence[QuarantineRow] = (),
) -> tuple[Manifest, list[TrainRow], dict[str, TranscriptRow], Bayesians]:
    players = Bayesians(flip)
    played = transcripts(games(NUM_GAMES), rules, players)
    played = sorted(played, key=lambda row: row.group_id)
    manifest = curate(
        store,
        publish_transcripts(store, played, broken),
        publish_images(store),
        config,
        load_prompts("default" if rules.guesser == "joint" else "nursery"),
        "train",
        32,
        9,
        rules.looks,
    )
    rows = list(read_rows(store, manifest, TrainRow))
    return manifest, rows, {row.row_id: row for row in played}, players


@pytest.mark.parametrize("rules", [JOINT, PER_IMAGE], ids=["joint", "per_image"])
def test_every_row_is_a_prompt_of_the_game_with_what_was_said(
    local_store: Store, rules: DialogPlayConfig
) -> None:
    _, rows, played, players = curated(local_store, rules, ALL)
    asked = {_text_of_call(call) for call in players.calls}
    assert {row.role for row in rows} >= {"answer", "ask"}
    for row in rows:
        game = played[row.source_row_id]
        said = row.completion[0].content[0].text
        texts = "\n".join(part.text or "" for message in row.prompt for part in message.content)
        assert game.won
        if row.role != "guess":  # an early guess was made in the decision
            assert texts in asked
        assert said in _everything_said(game)
        assert set(row.image_ids) <= {ref.image_id for ref in game.images}
        assert len(row.images) == len(row.image_ids)


def _text_of_call(call: Generate) -> str:
    parts = [part for message in call.messages for part in message.parts]
    return "\n".join("" if part == "<image>" else part for part in parts)


def _everything_said(game: TranscriptRow) -> set[str | None]:
    said: set[str | None] = {"yes", "no", "1", "2", "3", "4"}
    for turn in game.turns:
        said |= {turn.answer, turn.question, turn.counterfactual, turn.decision}
        said.add(json.dumps({"question": turn.question}))
    return said


def test_answer_rows_show_the_target_and_counterfactual_ones_the_nearest(
    local_store: Store,
) -> None:
    _, rows, played, _ = curated(local_store, PER_IMAGE, ALL)
    shown: Counter[bool] = Counter()
    for row in rows:
        game = played[row.source_row_id]
        if row.role == "answer":
            assert game.nearest is not None
            target, near = game.images[game.target], game.images[game.nearest]
            assert row.image_ids[0] in (target.image_id, near.image_id)
            shown[row.image_ids[0] == target.image_id] += 1
    assert shown[True] > 0
    assert shown[False] > 0


@pytest.mark.slow
def test_verdicts_say_yes_to_the_target_and_no_only_where_the_game_is_sure(
    local_store: Store,
) -> None:
    config = ALL.model_copy(update={"max_distractor_belief": 0.05})
    _, rows, played, _ = curated(local_store, PER_IMAGE, config, flip=0.1)
    verdicts = [row for row in rows if row.role == "verdict"]
    assert {_said(row) for row in verdicts} == {"yes", "no"}
    for row in verdicts:
        game = played[row.source_row_id]
        place = [ref.image_id for ref in game.images].index(row.image_ids[0])
        assert (_said(row) == "yes") == (place == game.target)
        if _said(row) == "no":
            assert game.turns[-1].beliefs[place] <= 0.05


def test_nothing_is_learnt_from_a_turn_whose_answer_the_guesser_doubted(
    local_store: Store,
) -> None:
    game = next(
        game
        for game in transcripts(games(NUM_GAMES), PER_IMAGE, Bayesians(0.2))
        if game.won and len(game.turns) > 1
    )
    doubted = game.turns[0].model_copy(update={"fits": [0.2] * len(game.images)})
    believed = game.turns[1].model_copy(update={"fits": [0.95] * len(game.images)})
    game = game.model_copy(update={"turns": [doubted, believed]})
    config = ALL.model_copy(update={"min_target_fit": 0.9})
    prompts = load_prompts("nursery")
    assert {row.turn for row in plan_rows(game, ALL, prompts)} == {0, 1}
    assert {row.turn for row in plan_rows(game, config, prompts)} == {1}


def test_turns_whose_looks_disagree_give_no_rows() -> None:
    game = transcripts(games(1), PER_IMAGE, Bayesians(0.0))[0]
    turns = [turn.model_copy(update={"agreement": share})
             for turn, share in zip(game.turns, (0.6, 1.0), strict=True)]
    game = game.model_copy(update={"turns": turns})
    config = ALL.model_copy(update={"min_agreement": 0.8})
    assert {row.turn for row in plan_rows(game, config, load_prompts("nursery"))} == {1}


@pytest.mark.slow
def test_doubted_turns_are_counted(local_store: Store) -> None:
    config = ALL.model_copy(update={"min_agreement": 1.0})
    manifest, rows, played, _ = curated(local_store, LOOKED, config)
    turns = [turn for game in played.values() for turn in game.turns]
    doubted = sum((turn.agreement or 0) < 1 for turn in turns)
    assert 0 < doubted < len(turns)
    assert (manifest.stats["turns"], manifest.stats["turns_doubted"]) == (len(turns), doubted)
    assert rows


@pytest.mark.slow
def test_a_share_of_the_rows_is_learnt_once_more_in_other_lights(local_store: Store) -> None:
    config = ALL.model_copy(update={"look_share": 0.5})
    _, rows, _, _ = curated(local_store, LOOKED, config)
    plain = [row for row in rows if not row.look]
    assert {row.look for row in rows} == {"", "deeper", "deepest"}
    assert 0.4 < (len(rows) - len(plain)) / len(plain) < 0.6
    places = [(group, number) for group in range(NUM_GROUPS) for number in range(4)]
    originals = {image(*place).image_id: picture(*place) for place in places}
    said = {row.model_copy(update={"row_id": "", "look": "", "images": []}).model_dump_json()
            for row in plain}
    for row in rows:
        shown = [encoded_look(originals[image_id], row.look) for image_id in row.image_ids]
        assert [each.bytes for each in row.images] == shown
        assert row.model_copy(
            update={"row_id": "", "look": "", "images": []}).model_dump_json() in said
    assert len({row.row_id for row in rows}) == len(rows)


def test_verdicts_that_are_no_clear_no_give_no_row() -> None:
    game = next(game for game in transcripts(games(NUM_GAMES), PER_IMAGE, Bayesians(0.0))
                if game.won)
    sure = ALL.model_copy(update={"max_distractor_fit": 0.01, "max_distractor_belief": 0.9})
    at = next(place for place in range(len(game.images)) if place != game.target)
    for fit, noes in ((0.4, 0), (0.001, 1)):
        fits = [fit if place == at else 0.6 for place in range(len(game.images))]
        turn = game.turns[-1].model_copy(update={"fits": fits, "beliefs": [0.0] * len(fits)})
        rows = plan_rows(game.model_copy(update={"turns": [turn]}), sure, load_prompts("nursery"))
        assert sum(row.role == "verdict" and row.completion == "no" for row in rows) == noes


def test_closed_answers_only_leaves_open_answers_out_but_not_their_questions() -> None:
    game = transcripts(games(1), PER_IMAGE, Bayesians(0.0))[0]
    turn = game.turns[0].model_copy(update={"answer": "top left", "counterfactual": "no"})
    game = game.model_copy(update={"turns": [turn]})
    config = ALL.model_copy(update={"closed_answers_only": True})
    rows = plan_rows(game, config, load_prompts("nursery"))
    assert len([row for row in plan_rows(game, ALL, load_prompts("nursery"))
                if row.role == "answer"]) == 2
    assert "ask" in {row.role for row in rows}
    assert [row.completion for row in rows if row.role == "answer"] == ["no"]
    open_only = turn.model_copy(update={"counterfactual": "a red star"})
    game = game.model_copy(update={"turns": [open_only]})
    assert "answer" not in {row.role for row in plan_rows(game, config, load_prompts("nursery"))}


@pytest.mark.slow
def test_lost_games_teach_their_answers_if_asked_to(local_store: Store) -> None:
    config = ALL.model_copy(update={"answers_of_dropped_games": True})
    manifest, rows, played, _ = curated(local_store, PER_IMAGE, config)
    dropped = {row.row_id: row.reason for row in read_quarantine(local_store, manifest)}
    of_dropped = [row for row in rows if row.source_row_id in dropped]
    assert "lost" in {dropped[row.source_row_id] for row in of_dropped}
    assert {row.role for row in of_dropped} == {"answer"}
    said = {game: {answer for turn in row.turns for answer in (turn.answer, turn.counterfactual)}
            for game, row in played.items()}
    assert all(_said(row) in said[row.source_row_id] for row in of_dropped)
    assert {row.role for row in rows if row.source_row_id not in dropped} >= {"ask", "verdict"}
    assert manifest.funnel["kept"] == len(played) - len(dropped)


@pytest.mark.parametrize(
    ("change", "sound"),
    [
        ({}, True),
        ({"answer": "it is image 2"}, False),
        ({"answer": "word " * 40}, False),
        ({"answer": "cannot tell"}, False),
    ],
)
def test_answers_of_a_lost_game_have_to_be_sound(
    change: dict[str, object], sound: bool
) -> None:
    game = transcripts(games(1), PER_IMAGE, Bayesians(0.0))[0]
    turns = [turn.model_copy(update=change) for turn in game.turns]
    lost = game.model_copy(update={"won": False, "turns": turns})
    assert drop_reason(lost, ALL) == "lost"
    assert has_sound_answers(lost, ALL) is sound


def _said(row: TrainRow) -> str | None:
    return row.completion[0].content[0].text


@pytest.mark.slow
def test_guess_rows_are_remapped_in_every_rotation(local_store: Store) -> None:
    _, rows, played, _ = curated(local_store, JOINT, ALL)
    by_game: dict[str, list[TrainRow]] = {}
    for row in rows:
        if row.role == "guess":
            by_game.setdefault(row.source_row_id, []).append(row)
    assert by_game
    for source, guesses in by_game.items():
        target = played[source].images[played[source].target].image_id
        assert sorted(_said(row) or "" for row in guesses) == ["1", "2", "3", "4"]
        assert all(row.image_ids[int(_said(row) or 0) - 1] == target for row in guesses)


def test_roles_have_their_weights_and_can_be_left_out(local_store: Store) -> None:
    config = ALL.model_copy(update={"role_weights": {"ask": 0.5, "answer": 2.0, "verdict": 0.0}})
    manifest, rows, _, _ = curated(local_store, PER_IMAGE, config)
    assert {(row.role, row.weight) for row in rows} == {("ask", 0.5), ("answer", 2.0)}
    assert manifest.stats["rows/ask"] == sum(row.role == "ask" for row in rows)


def test_without_rotations_there_is_one_guess_row(local_store: Store) -> None:
    game = transcripts(games(1), JOINT, Bayesians(0.0))[0]
    config = ALL.model_copy(update={"guess_rotations": False})
    rows = plan_rows(game, config, load_prompts("default"))
    assert [row.completion for row in rows if row.role == "guess"] == [str(game.target + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("select", ["curated", "unfiltered", "random"])
def test_the_funnel_adds_up(local_store: Store, select: str) -> None:
    broken = [
        QuarantineRow(row_id=f"q{n}", kind="games", reason="context_overflow", detail="",
                      source="", payload="{}")
        for n in range(3)
    ]
    config = ALL.model_copy(update={"select": select})
    manifest, rows, _, _ = curated(local_store, PER_IMAGE, config, broken=broken)
    funnel = manifest.funnel
    steps = ("played", "parsed", "won", "consistent", "kept")
    assert tuple(funnel)[:5] == steps
    assert funnel["played"] == NUM_GAMES + 3
    assert funnel["context_overflow"] == 3
    drops = sum(count for name, count in funnel.items() if name not in steps)
    assert funnel["played"] == funnel["kept"] + drops
    assert funnel["played"] > funnel["parsed"] > funnel["won"] > funnel["consistent"] > 0
    assert len({row.source_row_id for row in rows}) == funnel["kept"]
    reasons = Counter(row.reason for row in read_quarantine(local_store, manifest))
    assert sum(reasons.values()) == drops - 3
    assert all(funnel[reason] == count for reason, count in reasons.items())


@pytest.mark.slow
def test_a_role_balanced_set_has_as_many_yes_as_no(local_store: Store) -> None:
    config = ALL.model_copy(update={"balance_answers": True})
    manifest, rows, _, _ = curated(local_store, PER_IMAGE, config)
    said = Counter((row.role, _said(row)) for row in rows if _said(row) in ("yes", "no"))
    assert said["answer", "yes"] == said["answer", "no"] > 0
    assert said["verdict", "yes"] == said["verdict", "no"] > 0
    assert manifest.stats["rows_left_out/balance"] > 0


def test_no_row_stands_twice(local_store: Store) -> None:
    manifest, rows, _, _ = curated(local_store, PER_IMAGE, ALL)
    contents = Counter((tuple(r.image_ids), str(r.prompt), str(r.completion)) for r in rows)
    assert max(contents.values()) == 1
    assert len({row.row_id for row in rows}) == len(rows) == manifest.num_rows


@pytest.mark.slow
def test_finished_work_is_returned_and_finished_shards_are_kept(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, rows, _, _ = curated(local_store, PER_IMAGE, ALL)
    assert len(manifest.shards) > 2
    images, played = publish_images(local_store), _manifest(local_store, "transcripts")
    args = (ALL, load_prompts("nursery"), "train", 32, 9)
    assert curate(local_store, played, images, *args) == manifest
    local_store.delete("train/manifest.json")
    local_store.delete("train/receipts/00001.json")
    written: list[int] = []

    def counting(*args, **kwargs):  # type: ignore[no-untyped-def]
        written.append(args[2])
        return write_shard(*args, **kwargs)

    monkeypatch.setattr(curation, "write_shard", counting)
    again = curate(local_store, played, images, *args)
    assert written == [1]
    assert again.digest == manifest.digest
    assert list(read_rows(local_store, again, TrainRow)) == rows


@pytest.mark.slow
def test_the_manifest_names_the_prompts_and_is_as_repeatable_as_the_games(
    local_store: Store
) -> None:
    manifest, rows, _, _ = curated(local_store, PER_IMAGE, ALL)
    assert manifest.parents["prompts"] == load_prompts("nursery").digest == rows[0].prompt_version
    assert manifest.determinism == "engine"


def _manifest(store: Store, prefix: str) -> Manifest:
    return Manifest.model_validate_json(store.read_bytes(f"{prefix}/manifest.json"))


def test_rows_that_fail_the_write_check_are_quarantined(local_store: Store) -> None:
    game = transcripts(games(1), PER_IMAGE, Bayesians(0.0))[0]
    hollow = game.turns[0].model_copy(update={"answer": "  "})
    game = game.model_copy(update={"turns": [hollow, *game.turns[1:]]})
    manifest = curate(
        local_store,
        publish_transcripts(local_store, [game]),
        publish_images(local_store),
        DialogCurationConfig(role_weights={"answer": 1.0}),
        load_prompts("nursery"),
        "train",
        8,
        0,
    )
    [bad] = list(read_quarantine(local_store, manifest))
    assert (bad.kind, bad.source) == ("train", game.row_id)
    assert manifest.num_rows == 1


def test_no_kept_game_still_gives_an_artifact(local_store: Store) -> None:
    lost = [row.model_copy(update={"won": False})
            for row in transcripts(games(3), PER_IMAGE, Bayesians(0.0))]
    manifest = curate(local_store, publish_transcripts(local_store, lost),
                      publish_images(local_store), ALL, load_prompts("nursery"), "train", 8, 0)
    assert manifest.num_rows == 0
    assert manifest.funnel["lost"] == 3


def test_transcripts_of_other_prompts_are_refused(local_store: Store) -> None:
    played = publish_transcripts(local_store, transcripts(games(1), PER_IMAGE, Bayesians(0.0)))
    with pytest.raises(ConfigError, match="play again, or restore the prompts"):
        curate(local_store, played, publish_images(local_store), ALL, load_prompts("default"),
               "train", 8, 0)

"""The search: sentences and their ends, siblings, pruning, limits, what a row holds."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from model_ops.curation.ranking import mean_logprob, node_costs, path_costs
from model_ops.engines.driver import SCORER, Outcome, drive
from model_ops.engines.scripted import ScriptedEngine, reply_with
from model_ops.programs.calls import IMAGE, Call, Generate, Reply, Sample, Score, ScoreReply
from model_ops.programs.context import JobContext
from model_ops.programs.searching import search, search_id
from model_ops.prompts import load_prompts
from schemas.config import SearchConfig
from schemas.errors import ConfigError, DropError
from schemas.searches import DescriptionRow, SearchNode, SearchRow
from tests.model_ops.bits_world import image

Said = str | Sample
ITEM = DescriptionRow(row_id="prompt-1", prompt_id="7", image=image(0, 1), question="What is it?",
                      seed=3)


class World:
    """A model that goes on from a prefix by `says`, and a scorer that knows cosines by `fits`."""

    def __init__(self, says: Callable[[str, int], Said | Sequence[Said]],
                 fits: Callable[[str], float] = lambda text: 0.5) -> None:
        self.says, self.fits = says, fits
        self.calls: list[Generate] = []
        self.scored: list[Score] = []

    def model(self, call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        self.calls.append(call)
        said = self.says(call.prefix, call.sampling.num_samples)
        texts = [said] * call.sampling.num_samples if isinstance(said, str | Sample) else said
        plain = reply_with(call, *[text if isinstance(text, str) else "" for text in texts])
        samples = tuple(text if isinstance(text, Sample) else sample
                        for text, sample in zip(texts, plain.samples, strict=True))
        return Reply(samples, 10, 1, 9)

    def scorer(self, call: Call, seed: int) -> ScoreReply:
        assert isinstance(call, Score)
        self.scored.append(call)
        return ScoreReply(tuple(map(self.fits, call.texts)), len(call.texts))


def context(prompts: str = "default", **settings: Any) -> JobContext[SearchConfig]:
    return JobContext(load_prompts(prompts), SearchConfig(**{"num_continuations": 2, **settings}),
                      1, "00-calibrated", "model-digest", 7)


def outcome_of(world: World, scored: bool = True, **settings: Any) -> Outcome:
    engines = {"": ScriptedEngine(world.model)}
    engines |= {SCORER: ScriptedEngine(world.scorer)} if scored else {}
    program = search(ITEM, context(**settings))
    (outcome,) = drive([(ITEM.row_id, program)], engines, 1, 3)
    return outcome


def found(world: World, **settings: Any) -> SearchRow:
    outcome = outcome_of(world, **settings)
    assert outcome.row is not None, outcome.error
    row: SearchRow = outcome.row
    return row


def said(text: str, stopped_by: str | None, logprob: float = -1.0, finish: str = "stop",
         num_tokens: int = 4) -> Sample:
    return Sample(text, num_tokens, logprob, finish, None, stopped_by)


def texts(row: SearchRow) -> list[str]:
    return [node.text for node in row.nodes[1:]]


def scripted(lines: dict[str, Sequence[Said]]) -> Callable[[str, int], Sequence[Said]]:
    return lambda prefix, num: lines[prefix]


# --- a whole search ---

TWO = {
    "": [" A cat sits.", " A dog runs."],
    " A cat sits.": [" It is black.", ""],
    " A dog runs.": [" It is brown", " It is brown"],
    " A cat sits. It is black.": ["", ""],
}


def test_a_search_is_one_row_with_all_its_nodes() -> None:
    world = World(scripted(TWO), lambda text: len(text) / 100)
    row = found(world, scorer="clip-digest")
    assert [(n.node_id, n.parent_id, n.depth, n.text) for n in row.nodes] == [
        (0, None, 0, ""), (1, 0, 1, "A cat sits."), (2, 0, 1, "A dog runs."),
        (3, 1, 2, "It is black."), (4, 2, 2, "It is brown")]
    assert [n.is_final for n in row.nodes] == [False, True, False, True, True]
    assert [n.finish_reason for n in row.nodes] == ["", "eos", "sentence", "eos", "eos"]
    assert [n.kept for n in row.nodes] == [True, True, True, True, False]
    assert [n.cosine for n in row.nodes] == [None, 0.11, 0.11, 0.12, 0.11]
    assert (row.num_merged, row.num_truncated, row.scorer_digest) == (1, 4, "clip-digest")
    assert (row.prompt_id, row.question, row.image) == ("7", "What is it?", ITEM.image)
    assert (row.num_calls, row.num_prompt_tokens, row.num_image_tokens) == (4, 40, 36)
    assert row.num_output_tokens == 3 + 3 + 3 + 1 + 3 + 3 + 1 + 1
    assert row.row_id == search_id(ITEM, context(scorer="clip-digest"))


def test_levels_are_asked_and_scored_together() -> None:
    world = World(scripted(TWO))
    found(world)
    assert [call.prefix for call in world.calls] == [
        "", " A cat sits.", " A dog runs.", " A cat sits. It is black."]
    assert [call.texts for call in world.scored] == [
        ("A cat sits.", "A dog runs."), ("It is black.", "It is brown")]
    for call in world.calls:
        assert call.sampling.stop == (".", "!", "?") and call.sampling.keep_stop
        assert (call.sampling.temperature, call.sampling.num_samples) == (0.9, 2)
        assert (call.images, call.reward) == ((ITEM.image,), None)
        assert call.messages[-1].parts == (IMAGE, "What is it?")


@pytest.mark.parametrize("gap", [" ", "\n\n", ""])
def test_a_prefix_is_passed_on_as_it_was_sampled(gap: str) -> None:
    def says(prefix: str, num: int) -> list[str]:
        depth = prefix.count("!")
        return ([f"{gap}  Line {'abc'[depth]} !"] if depth < 3 else [""]) * num

    world = World(says)
    row = found(world)
    assert texts(row) == ["Line a !", "Line b !", "Line c !"]
    assert world.calls[-1].prefix == f"{gap}  Line a !{gap}  Line b !{gap}  Line c !"


# --- ends of sentences ---


def test_an_abbreviation_or_a_decimal_goes_on_within_its_node() -> None:
    lines: dict[str, Sequence[Said]] = {
        "": [said(" Dr.", ".", -1.0, num_tokens=2), said(" A cat.", ".", -9.0)],
        " Dr.": [said(" No weighs 3.", ".", -2.0, num_tokens=5)],
        " Dr. No weighs 3.": [said("5 kg!", "!", -4.0, num_tokens=3)]}
    world = World(lambda prefix, num: lines.get(prefix, [""] * num))
    row = found(world, max_sentences=1)
    assert texts(row) == ["Dr. No weighs 3.5 kg!", "A cat."]
    assert (row.nodes[1].num_tokens, row.nodes[1].logprob) == (10, -7.0)
    assert [(c.prefix, c.sampling.num_samples, c.sampling.max_tokens) for c in world.calls] == [
        ("", 2, 70), (" Dr.", 1, 68), (" Dr. No weighs 3.", 1, 63)]
    assert len(world.scored) == 1


def test_a_reply_may_end_in_a_number() -> None:
    lines: dict[str, Sequence[Said]] = {"": [" There are 3.", " A cat."], " There are 3.": [""]}
    row = found(World(lambda prefix, num: lines.get(prefix, [""] * num)), max_sentences=1)
    assert [(n.text, n.finish_reason, n.is_final) for n in row.nodes[1:]] == [
        ("There are 3.", "eos", True), ("A cat.", "max_sentences", True)]


def test_a_sentence_that_ends_in_a_number_is_a_node_of_its_own() -> None:
    """What the model went on with shows it; that is dropped, and the next sentence is sampled as
    any other. A list's number and a decimal's first half are no sentences."""
    lines: dict[str, Sequence[Said]] = {
        "": [said(" There are 3.", ".", -1.0, num_tokens=4), said("1.", ".", num_tokens=2)]}
    going_on: dict[str, Said] = {
        " There are 3.": said(" A dog sits.", ".", -9.0, num_tokens=5), "1.": " A cow."}
    world = World(lambda prefix, num: [going_on[prefix]] if num == 1 and prefix in going_on
                  else lines.get(prefix, [" It sits.", ""]))
    row = found(world, max_sentences=2, keep_top=9)
    assert texts(row) == ["There are 3.", "1. A cow.", "It sits.", "It sits."]
    ended = row.nodes[1]
    assert (ended.said, ended.num_tokens, ended.logprob) == (" There are 3.", 4, -1.0)
    assert (ended.finish_reason, ended.is_final, ended.kept) == ("eos", True, True)
    assert [(c.prefix, c.sampling.num_samples) for c in world.calls] == [
        ("", 2), (" There are 3.", 1), ("1.", 1), (" There are 3.", 2), ("1. A cow.", 2)]
    assert row.num_output_tokens == 4 + 2 + 5 + 2 + 2 * (2 + 1), "what was dropped was paid for"


def test_siblings_that_stop_at_the_same_abbreviation_go_on_apart() -> None:
    going_on = iter([[" Who."], [" No."]])
    row = found(World(lambda prefix, num: next(going_on) if num == 1 else [" Dr."] * 2),
                max_sentences=1)
    assert (texts(row), row.num_merged) == (["Dr. Who.", "Dr. No."], 0)


def test_a_model_that_counts_for_ever_runs_out_of_tokens() -> None:
    world = World(lambda prefix, num: ["1."] * num)
    row = found(world, max_sentence_tokens=6)
    assert [n.dropped_reason for n in row.nodes[1:]] == ["no_sentence_end"]
    assert (row.nodes[1].num_tokens, row.num_merged, world.scored) == (6, 1, [])


def test_a_model_that_never_ends_a_sentence_has_a_row_without_a_reply() -> None:
    cut = said(" and and so on", None, finish="length")
    row = found(World(lambda prefix, num: [cut, said(" or else", None, finish="length")]))
    assert [(n.finish_reason, n.dropped_reason, n.is_final, n.kept) for n in row.nodes[1:]] == [
        ("length", "no_sentence_end", False, False)] * 2


@pytest.mark.parametrize("nothing", ["", " ", '"', "\n"])
def test_an_end_that_says_nothing_finishes_the_parent_and_adds_no_node(nothing: str) -> None:
    row = found(World(lambda prefix, num: nothing if prefix else " A cat."))
    assert [(n.text, n.is_final, n.finish_reason) for n in row.nodes[1:]] == [
        ("A cat.", True, "eos")]


def test_a_reply_that_never_begins_is_dropped() -> None:
    outcome = outcome_of(World(lambda prefix, num: ""))
    assert outcome.error is not None and outcome.error.reason == "empty_reply"
    row = found(World(lambda prefix, num: ["", " A cat", " \n"]), num_continuations=3)
    assert [n.is_final for n in row.nodes] == [False, True], "the root is no reply"
    assert row.num_empty == 2


@pytest.mark.parametrize(("text", "reason"), [
    ("no.", "too_short"), (" a \u30cd\u30b3.", "foreign_script"), ("so " * 9 + ".", "repeated")])
def test_what_the_clean_up_drops_is_neither_scored_nor_continued(text: str, reason: str) -> None:
    world = World(lambda prefix, num: [""] * num if prefix else [text, " A cat."])
    row = found(world)
    assert [(n.dropped_reason, n.kept, n.cosine) for n in row.nodes[1:]] == [
        (reason, False, None), (None, True, 0.5)]
    assert [call.texts for call in world.scored] == [("A cat.",)]
    assert [call.prefix for call in world.calls] == ["", " A cat."]


# --- siblings and pruning ---


def test_equal_siblings_are_one_node_but_equal_cousins_are_not() -> None:
    def says(prefix: str, num: int) -> list[str]:
        return [" A cat.", " A dog.", "  A cat."] if not prefix else [" It sits.", " It sits", ""]

    row = found(World(says), num_continuations=3, max_sentences=2, keep_top=9)
    assert texts(row) == ["A cat.", "A dog.", "It sits.", "It sits", "It sits.", "It sits"]
    assert row.num_merged == 1
    assert [n.parent_id for n in row.nodes[3:]] == [1, 1, 2, 2]


def brood(prefix: str, num: int) -> list[Sample]:
    """Sentences whose mean log-probability falls from the first sibling to the last."""
    depth = prefix.count(".")
    return [said(f" child {'abcdefgh'[number]} of {depth} ones.", ".", -(number + 1.0) * 4)
            for number in range(num)]


@pytest.mark.parametrize(("top", "bottom"), [(1, 2), (3, 2), (1, 0), (0, 1), (2, 9), (0, 4)])
@pytest.mark.parametrize("prune_by", ["lm", "calibrated"])
def test_pruning_keeps_exactly_the_best_and_the_worst(
    top: int, bottom: int, prune_by: str
) -> None:
    world = World(brood, lambda text: -0.01 * "abcdefgh".index(text.split()[1]))
    row = found(world, num_continuations=5, keep_top=top, keep_bottom=bottom, prune_by=prune_by,
                max_sentences=4)
    for depth in (1, 2, 3):
        level = [n for n in row.nodes if n.depth == depth]
        order = sorted(level, key=lambda n: cost_so_far(row.nodes, n, prune_by))
        want = order if len(order) <= top + bottom else order[:top] + order[len(order) - bottom:]
        assert {n.node_id for n in level if n.kept} == {n.node_id for n in want}
        assert len(want) == min(len(level), top + bottom)
    last = [n for n in row.nodes if n.depth == 4]
    assert not any(n.kept for n in last) and all(n.finish_reason == "max_sentences" for n in last)


def cost_so_far(nodes: Sequence[SearchNode], node: SearchNode, prune_by: str) -> float:
    if prune_by == "calibrated":
        return path_costs(nodes, node_costs(nodes, 0.9, "rank"))[node.node_id]
    total = 0.0
    while node.parent_id is not None:
        total, node = total - mean_logprob(node), nodes[node.parent_id]
    return total


def test_lambda_decides_what_the_calibrated_order_is_about() -> None:
    def kept(**settings: Any) -> str:
        world = World(brood, lambda text: 0.1 * "abcdefgh".index(text.split()[1]))
        row = found(world, num_continuations=4, keep_top=1, keep_bottom=0, max_sentences=2,
                    prune_by="calibrated", **settings)
        return next(n.text for n in row.nodes if n.kept and n.depth)

    assert kept(lam=0.0).startswith("child a") and kept(lam=1.0).startswith("child d")


def test_finished_and_dropped_siblings_take_no_place() -> None:
    lines: list[Said] = [said(" the best of them", None, -0.1), said(" no.", ".", -0.2),
                         said(" A cat.", ".", -1.0), said(" A dog.", ".", -2.0),
                         said(" A cow.", ".", -3.0)]
    world = World(lambda prefix, num: [""] * num if prefix else lines)
    row = found(world, num_continuations=3, keep_top=1, keep_bottom=1)
    assert [n.text for n in row.nodes[1:] if n.kept] == ["A cat.", "A cow."]
    assert row.nodes[1].is_final and not row.nodes[1].kept


def test_few_unfinished_nodes_all_go_on() -> None:
    """Section 2: the beam is cut where as many can go on as were asked for, and not before."""
    lines = [said(f" Line {name} on.", ".", -1.0 - place) for place, name in enumerate("abcd")]
    world = World(lambda prefix, num: [""] * num if prefix else lines)
    for num, kept in ((4, "ad"), (5, "abcd")):
        row = found(world, num_continuations=num, keep_top=1, keep_bottom=1)
        assert "".join(n.text.split()[1] for n in row.nodes if n.kept and n.depth) == kept


def test_a_calibrated_beam_may_be_cut_by_the_papers_rewards() -> None:
    """Ranks among siblings forget what a parent was worth; sums of rewards do not."""
    cosines = {"Good": 0.30, "Fair": 0.29, "Low": 0.05, "Lower": 0.04, "High": 0.35, "Higher": 0.34}

    def brood(prefix: str, num: int) -> list[Said]:
        if prefix.count(".") > 1:
            return [""] * num
        first, second = {0: ("Good", "Fair"), 1: (("Low", "Lower") if "Good" in prefix
                                                  else ("High", "Higher"))}[prefix.count(".")]
        return [said(f" {first} one.", "."), said(f" {second} one.", ".")]

    def kept(mode: str) -> list[str]:
        row = found(World(brood, lambda text: cosines[text.split()[0]]), num_continuations=2,
                    keep_top=2, keep_bottom=0, prune_by="calibrated", lam=1.0, reward_mode=mode,
                    max_sentences=3)
        return [n.text.split()[0] for n in row.nodes if n.kept and n.depth == 2]

    assert kept("paper_raw") == ["High", "Higher"] and kept("rank") == ["Low", "Lower"]


# --- limits ---


def test_a_reply_that_is_long_enough_is_finished_as_it_is() -> None:
    world = World(lambda prefix, num: said(f" Sentence {'abcdef'[prefix.count('.')]} on.", "."))
    row = found(world, max_tokens=9)
    assert [(n.depth, n.finish_reason, n.is_final) for n in row.nodes[1:]] == [
        (1, "sentence", False), (2, "sentence", False), (3, "max_tokens", True)]
    row = found(world, max_sentences=2)
    assert [n.finish_reason for n in row.nodes[1:]] == ["sentence", "max_sentences"]


# --- ids, prompts, failures ---


def test_ids_come_from_what_is_asked_and_how() -> None:
    one, same = context(), context(preset=None)
    reference = search_id(ITEM, context(preset="reference", num_continuations=2,
                                        sentence_ends=[".", "!", "?"]))
    assert search_id(ITEM, one) == search_id(ITEM, same) == reference
    others = [context(lam=0.5), context(scorer="other"), context(prompts="nursery")]
    ids = [search_id(ITEM, c) for c in (one, *others)]
    ids.append(search_id(ITEM.model_copy(update={"row_id": "prompt-2"}), one))
    assert len(set(ids)) == len(ids)


def test_the_same_seed_gives_the_same_row() -> None:
    assert found(World(brood), num_continuations=5) == found(World(brood), num_continuations=5)


def test_without_a_scorer_the_configuration_is_wrong() -> None:
    with pytest.raises(ConfigError, match="the job has no scorer: give it a CLIP"):
        outcome_of(World(brood), scored=False)


def test_an_image_that_cannot_be_scored_drops_the_search() -> None:
    def broken(text: str) -> float:
        raise DropError("undecodable", "not a picture")

    outcome = outcome_of(World(brood, broken))
    assert outcome.error is not None and outcome.error.reason == "undecodable"

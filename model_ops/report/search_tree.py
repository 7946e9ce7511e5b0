"""What the report shows of calibrated stages: a search tree, its chosen and rejected replies beside
each other, and the rewards over the rounds.

The one idea: pairs are chosen by row id, and the tree is the one that the first of them comes from,
so that neither is ours to make pretty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from model_ops.images import ImageReader
from model_ops.lineage.places import Place, find_row
from model_ops.lineage.trees import TreeLine, nodes_of, tree_lines
from model_ops.report.charts import Rewards, reward_chart
from model_ops.report.history import History, RoundView, StageView
from model_ops.report.pairs import PairSample, some_of_each_reason
from model_ops.report.samples import SHARDS_READ, picture, sampled_rounds
from model_ops.report.thumbnails import Thumbnail, thumbnail
from schemas.artifacts import read_shard
from schemas.checks import count_words, text_of
from schemas.manifest import Manifest
from schemas.records import Metric
from schemas.rows import PairRow, QuarantineRow
from schemas.searches import SearchRow
from schemas.store import Store

PAIRS_SHOWN = 6
FIGURES = ("chair_s", "chair_i", "caption_words", "chair_recall", "pope", "pope_f1")
"""What a run of this method is read by, per domain: caption length stands beside CHAIR."""
CURVES = ("chair_s", "chair_i", "caption_words", "pope")


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole search about one picture."""

    row: SearchRow
    picture: Thumbnail | None
    lines: list[TreeLine]


@dataclass(frozen=True, slots=True)
class SearchStage:
    """What one calibrated stage of one round shows."""

    round: int
    stage: str
    tree: Tree | None
    kept: list[PairSample]
    dropped: list[PairSample]


@dataclass(frozen=True, slots=True)
class Iteration:
    """A round in the figures of the method (methods/calibrated_csr.md, section 4.2)."""

    round: int
    figures: list[Metric | None]
    """In the order of `Iterations.names`."""
    trained: list[Manifest]
    """The pairs of its calibrated stages."""

    @property
    def num_pairs(self) -> int | None:
        """Pairs that were kept; None for a round without a calibrated stage."""
        return sum(made.num_rows for made in self.trained) if self.trained else None

    def sides(self, name: str) -> list[tuple[float, float]]:
        """A mean over chosen and over rejected replies (`reward`, `cos100`, `words`), by stage."""
        keys = f"mean_chosen_{name}", f"mean_rejected_{name}"
        return [(made.stats[keys[0]], made.stats[keys[1]]) for made in self.trained
                if made.stats.keys() >= set(keys)]

    @property
    def rewards(self) -> list[Rewards]:
        """What chosen and rejected replies were worth, stage by stage."""
        return [Rewards(self.round, *sides) for sides in self.sides("reward")]


@dataclass(frozen=True, slots=True)
class Iterations:
    """All rounds side by side."""

    names: list[str]
    rows: list[Iteration]
    chart: Markup | None
    """Mean reward of chosen and rejected replies; None where no stage made pairs."""

    @property
    def curves(self) -> list[str]:
        """The metrics that are drawn beside the rewards."""
        return [name for name in self.names if name.rpartition("/")[2] in CURVES]


def search_stages(store: Store, history: History) -> list[SearchStage]:
    """The calibrated stages of the rounds that samples are shown of, oldest first."""
    reader = ImageReader(store, history.images) if history.images else None
    return [_stage(store, view.record.round, stage, reader) for view in sampled_rounds(history)
            for stage in _calibrated(view)]


def iterations(history: History) -> Iterations | None:
    """The rounds of a run with calibrated stages; None for other runs."""
    if not any(_calibrated(view) for view in history.rounds):
        return None
    domains = dict.fromkeys(name.rpartition("/")[0] for name in sorted(history.metrics))
    names = [name for domain in domains for name in (f"{domain}/{each}" for each in FIGURES)
             if name in history.metrics]
    rows = [_iteration(view, names) for view in history.rounds]
    rewards = [each for row in rows for each in row.rewards]
    return Iterations(names, rows, reward_chart(rewards) if rewards else None)


def _iteration(view: RoundView, names: Sequence[str]) -> Iteration:
    found = [stage.manifests.get("train") for stage in _calibrated(view)]
    return Iteration(view.record.round, [view.metric(name) for name in names],
                     [made for made in found if made is not None])


def _calibrated(view: RoundView) -> list[StageView]:
    return [stage for stage in view.stages if stage.record.method == "calibrated"]


def _stage(
    store: Store, number: int, stage: StageView, reader: ImageReader | None
) -> SearchStage:
    train, pairs = stage.manifests.get("train"), []
    if train is not None:
        pairs = sorted((row for shard in train.shards[:SHARDS_READ]
                        for row in read_shard(store, train, shard.index, PairRow)),
                       key=lambda row: row.row_id)[:PAIRS_SHOWN]
    dropped = some_of_each_reason(store, train) if train is not None else []
    searches = stage.manifests.get("searches")
    found = _search(store, searches, [row.source_row_id for row in pairs]) if searches else None
    return SearchStage(
        round=number,
        stage=stage.record.name,
        tree=_tree(store, found, stage.manifests.get("nodes"), reader) if found else None,
        kept=[_kept(row) for row in pairs],
        dropped=[_dropped(store, row, searches, reader) for row in dropped])


def _search(store: Store, searches: Manifest, wanted: Sequence[str]) -> SearchRow | None:
    """The first of the *wanted* searches; without any, the first of all by row id."""
    for row_id in wanted[:1]:
        found = find_row(store, Place(None, None, "searches", searches), row_id)
        if found is not None and isinstance(found.row, SearchRow):
            return found.row
    rows = [row for shard in searches.shards[:1]
            for row in read_shard(store, searches, shard.index, SearchRow)]
    return min(rows, key=lambda row: row.row_id, default=None)


def _tree(
    store: Store, search: SearchRow, nodes: Manifest | None, reader: ImageReader | None
) -> Tree:
    judged = nodes_of(store, nodes, search.row_id)
    return Tree(search, picture(reader, search.image), tree_lines(search.nodes, judged))


def _kept(row: PairRow) -> PairSample:
    rewards = {"chosen": (row.chosen_reward, row.chosen),
               "rejected": (row.rejected_reward, row.rejected)}
    return PairSample(
        row_id=row.row_id,
        kind=f"{row.num_candidates} finished replies" if row.num_candidates else row.role,
        question=text_of(row.prompt[-1:]), chosen=text_of(row.chosen),
        rejected=text_of(row.rejected),
        picture=thumbnail(row.images[0].bytes) if row.images else None,
        verdicts=[f"{name}: reward {reward:.3f}, {count_words(text_of(said))} words"
                  for name, (reward, said) in rewards.items() if reward is not None],
        prompt_version=row.prompt_version)


def _dropped(
    store: Store, row: QuarantineRow, searches: Manifest | None, reader: ImageReader | None
) -> PairSample:
    """The search that gave no pair; without it, what is told of it."""
    place = Place(None, None, "searches", searches) if searches else None
    found = find_row(store, place, row.row_id)
    search = found.row if found and isinstance(found.row, SearchRow) else None
    replies = [node.text for node in search.nodes if node.is_final] if search else []
    return PairSample(
        row_id=row.row_id, kind=f"{len(replies)} finished replies" if search else row.kind,
        question=search.question if search else row.detail, chosen="", rejected="",
        picture=picture(reader, search.image) if search else None,
        verdicts=[row.detail] if search and row.detail else [],
        prompt_version=search.prompt_version if search else "", reason=row.reason)

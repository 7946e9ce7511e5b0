"""PIE in the report: does a model engage, kind by kind, and does it still simply answer?

The one idea: base, champion and latest candidate stand side by side, and so do the variants that
show what the reward word does. Every figure says what it was measured with, since none of it is the
paper's benchmark (methods/contrastive_macaroon.md, sections 0 and 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from model_ops.pie_names import PieName, parse_name
from model_ops.report.bars import BarRow, bar_chart
from model_ops.report.history import History, RoundView, find
from schemas.manifest import Manifest
from schemas.questions import ODD_TYPES, TIERS, slug
from schemas.records import Metric
from schemas.store import Store

VARIANTS = {
    "": "as the model is used",
    "good": "with “good”",
    "none": "with no word",
    "bad": "with “bad”",
    "prompted": "criterion in the prompt",
    "none-prompted": "criterion in the prompt, no word",
}
"""Variants of the benchmark in the order in which they are shown, in words."""
AVERAGES = {
    "aar": "all questions (micro)",
    "aar_macro": "mean of kinds (macro)",
    "aar_tier": "mean of tiers",
    "aar_soft": "micro, ambiguous = 0.5",
    "aar_macro_soft": "macro, ambiguous = 0.5",
    "aar_tier_soft": "tiers, ambiguous = 0.5",
}
JUDGES = {
    "rules": "by rules from the facts of the nursery",
    "vlm": "by a local model",
    "endpoint": "by a model behind an endpoint",
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A model of the charts: its CSS class, its round, and what it is called."""

    name: str
    view: RoundView
    label: str

    def figure(self, name: PieName) -> Metric | None:
        """One of its figures."""
        return self.view.metric(name.metric)


@dataclass(frozen=True, slots=True)
class PieView:
    """The charts of one domain's PIE, with what they were measured with."""

    domain: str
    measured_with: str
    contenders: list[Contender]
    kinds: Markup
    averages: Markup
    overask: Markup
    variants: Markup | None
    """AAR of all variants; None where only one was measured."""


def pie_views(store: Store, history: History) -> list[PieView]:
    """One view per domain that a round measured PIE on."""
    names = [found for metric in history.metrics if (found := parse_name(metric))]
    contenders = _contenders(history) if names else []
    return [_view(store, domain, _variants(names, domain), contenders)
            for domain in sorted({name.domain for name in names})]


def _contenders(history: History) -> list[Contender]:
    """The base, the champion and the latest candidate; a model that is two of them counts once."""
    last, champion = history.rounds[-1], history.champion_round
    found = {0: Contender("base", history.rounds[0], "base")}
    for name, view in (("champion", champion), ("candidate", last)):
        if view is not None and view.record.round not in found:
            found[view.record.round] = Contender(name, view, f"{name}, round {view.record.round}")
    return list(found.values())


def _variants(names: Sequence[PieName], domain: str) -> list[str]:
    present = {name.variant for name in names if name.domain == domain}
    return [*(v for v in VARIANTS if v in present), *sorted(present - VARIANTS.keys())]


def _view(
    store: Store, domain: str, variants: list[str], contenders: list[Contender]
) -> PieView:
    main = variants[0]

    def row(variant: str, figure: str, label: str, note: str = "") -> BarRow:
        name = PieName(domain, variant, figure)
        return BarRow(label, [each.figure(name) for each in contenders], note)

    def chart(rows: Sequence[BarRow]) -> Markup:
        return bar_chart(rows, [contender.name for contender in contenders])

    def over_variants(figure: str) -> Markup:
        return chart([row(each, figure, VARIANTS.get(each, each)) for each in variants])

    return PieView(
        domain=domain, contenders=contenders,
        measured_with=_measured_with(store, domain, main, contenders[-1]),
        kinds=chart([row(main, slug(kind), kind, TIERS[kind]) for kind in ODD_TYPES]),
        averages=chart([row(main, figure, label) for figure, label in AVERAGES.items()]),
        overask=over_variants("overask"),
        variants=over_variants("aar") if len(variants) > 1 else None)


def _measured_with(store: Store, domain: str, variant: str, latest: Contender) -> str:
    """Whose questions, whose judge: in words, as far as the manifests are there."""
    name = f"{domain}-pie-{variant}".rstrip("-")
    odd = latest.figure(PieName(domain, variant, "aar"))
    clear = latest.figure(PieName(domain, variant, "overask"))
    planned = find(store, f"benchmarks/{name}/items")
    answered = find(store, latest.view.record.evaluation.items.get(name, ""))
    counts = f"{odd.n if odd else 0:,} odd and {clear.n if clear else 0:,} clear questions"
    return f"{counts}{_origin(planned)}, judged {_judge(answered)}"


def _origin(planned: Manifest | None) -> str:
    if planned is None:
        return ""
    uri = planned.config.get("questions_uri")
    return f" of {uri}" if uri else " regenerated by the grammar of the nursery"


def _judge(answered: Manifest | None) -> str:
    judge = answered.config.get("settings", {}).get("judge", {}) if answered else {}
    named = judge.get("model") or judge.get("model_name")
    known = JUDGES.get(str(judge.get("kind")), "by a judge that is not recorded")
    return f"{known} ({named})" if named else known

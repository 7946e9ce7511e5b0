"""Numbers and verdicts in words: the formats of the report and its one-sentence summary.

Everything returns plain text; escaping is the template's business.
"""

from model_ops.report.history import History, RoundView
from schemas.records import Metric

MINUS = "\N{MINUS SIGN}"
CODES = {
    "parse_fail": "reply not parseable",
    "order": "depends on image order",
    "blind": "guessed without dialog",
    "leak": "names a position or file",
    "caption_dump": "answer is a caption",
    "repeat": "repeated question",
    "cannot_tell": "too often cannot tell",
    "inconsistent": "answers differ when asked again",
    "no_counterfactual": "same answers for a distractor",
    "group_cap": "group has enough games",
    "target_cap": "target has enough games",
    "max_turns": "turn limit",
    "guessed": "guessed early",
    "type_mismatch": "question of another kind",
    "asking_no_question": "no question written",
    "opening_cap": "opening has enough questions",
    "clear_left_out": "clear questions left out",
    "cut_off": "reply cut off",
    "criteria_leak": "speaks of its instructions",
    "equal_pair": "both replies alike",
    "no_question": "desired reply does not ask",
    "rejected_asks": "undesired reply asks",
    "no_refusal": "desired reply does not refuse",
    "desired_asks": "desired reply asks",
    "desired_refuses": "desired reply refuses",
    "rejected_answers": "undesired reply answers",
    "judge_desired": "desired reply not judged so",
    "judge_undesired": "undesired reply not judged so",
    "over_cap": "kind has enough pairs",
    "no_final": "no reply was finished",
    "single_final": "only one reply was finished",
    "identical": "best and worst reply are the same",
    "small_margin": "rewards too close",
    "length_ratio": "one reply is much longer",
    "no_sentence_end": "no sentence end was found",
}
"""Codes of `curation` and of a game's end whose bare words would not be understood."""


def number(value: float) -> str:
    """A metric: 0.512."""
    return f"{value:.3f}".replace("-", MINUS)


def words(value: float) -> str:
    """A mean caption length: 23.4 words."""
    return f"{value:.1f} words"


def signed(value: float) -> str:
    """A change of a metric: +0.031."""
    return f"{value:+.3f}".replace("-", MINUS)


def interval(metric: Metric) -> str:
    """A confidence interval: [0.48, 0.54]."""
    return f"[{metric.low:.3f}, {metric.high:.3f}]".replace("-", MINUS)


def count(value: float) -> str:
    """A count with thousands separators: 12,345."""
    return f"{value:,.0f}"


def percent(part: float, whole: float) -> str:
    """A share: 12.3 %; a dash where there is nothing to share."""
    return f"{100 * part / whole:.1f} %" if whole else "\N{EN DASH}"


def duration(seconds: float) -> str:
    """Wall-clock time in the two largest units: 2 h 05 min, 3 min 20 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short(digest: str) -> str:
    """The part of a digest that people compare."""
    return digest.removeprefix("sha256:")[:12]


def spaced(code: str) -> str:
    """A step, stop or drop code for reading: `order` -> `depends on image order`."""
    return CODES.get(code, code.replace("_", " "))


def verdict(history: History) -> str:
    """What happened, in one sentence."""
    if not history.rounds:
        return "No round has finished yet."
    latest = history.rounds[-1]
    now = latest.metric(history.primary) if history.primary else None
    if latest.record.decision == "base" or history.primary is None:
        return _base_verdict(history.primary, now)
    if latest.record.decision == "promote":
        return f"Round {latest.record.round} was promoted{_rise(latest, history.primary, now)}."
    return _held_verdict(history, latest, history.primary, now)


def _base_verdict(name: str | None, now: Metric | None) -> str:
    if name is None or now is None:
        return "Only the base model is here, and it has not been measured."
    chance = f"; chance is {now.chance:.2f}" if now.chance is not None else ""
    figure = f"{name} is {number(now.value)} {interval(now)}"
    return f"Only the base model has been measured so far: {figure}{chance}."


def _rise(view: RoundView, name: str, now: Metric | None) -> str:
    before = view.rival.evaluation.metrics.get(name) if view.rival else None
    if now is None or before is None:
        return ""
    gain = view.record.gain
    by = f" (gain {signed(gain.value)} {interval(gain)})" if gain else f" {interval(now)}"
    return f": {name} went from {number(before.value)} to {number(now.value)}{by}"


def _held_verdict(history: History, latest: RoundView, name: str, now: Metric | None) -> str:
    lead = history.champion_round
    keeps = f"round {lead.record.round} stays champion" if lead else "there is no champion"
    best = lead.metric(name) if lead else None
    figures = f": {name} {number(now.value)} against {number(best.value)}" if now and best else ""
    return f"Round {latest.record.round} was held, {keeps}{figures}."

"""The names of PIE's metrics taken apart: `field/pie-bad_aar` is domain, variant and figure.

A benchmark that is measured with four words and prompts has some sixty metrics, POPE with its three
splits some twenty; what of them a table or a chart shows is decided by name, here.
"""

import re
from typing import NamedTuple

from schemas.questions import QUESTION_TYPES, slug

_FIGURES = "|".join(
    ["aar[a-z_]*", "overask", "unjudged", "parse_error", *map(slug, QUESTION_TYPES)])
"""What `benchmarks.pie_summary` gives; a variant has any letters (`very_bad`)."""
_NAME = re.compile(rf"(?P<domain>.+)/pie(?:-(?P<variant>[\w.-]+?))?_(?P<figure>{_FIGURES})")

_POPE_SPLIT = re.compile(r".+/pope_(random|popular|adversarial)(_[a-z0-9_]+)?")


class PieName(NamedTuple):
    """A metric of PIE: `field/pie-bad_aar` is (`field`, `bad`, `aar`)."""

    domain: str
    variant: str
    """"" for the run with the word and prompt that the model is used with."""
    figure: str

    @property
    def benchmark(self) -> str:
        """The name without the figure: `field/pie-bad`."""
        return f"{self.domain}/{'-'.join(filter(None, ['pie', self.variant]))}"

    @property
    def metric(self) -> str:
        """The whole name."""
        return f"{self.benchmark}_{self.figure}"


def parse_name(metric: str) -> PieName | None:
    """The parts of a metric's name, or None if it is not of PIE."""
    found = _NAME.fullmatch(metric)
    return PieName(found["domain"], found["variant"] or "", found["figure"]) if found else None


def is_headline(metric: str) -> bool:
    """Whether a metric is no detail: of PIE, only the average (micro) and the over-ask rate; of
    POPE, what all splits give together."""
    name = parse_name(metric)
    if name is None:
        return not is_of_split(metric)
    return name.figure in ("aar", "overask")


def is_of_split(metric: str) -> bool:
    """Whether a metric is of POPE on one of its splits alone."""
    return _POPE_SPLIT.fullmatch(metric) is not None


def is_of_variant(metric: str) -> bool:
    """Whether a metric is of PIE with another word or prompt than the model is used with."""
    name = parse_name(metric)
    return name is not None and bool(name.variant)

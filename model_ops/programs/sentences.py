"""Where a sampled sentence ends, and what is wrong with it: pure rules on its text.

methods/calibrated_csr.md, section 2.2 (the reference's clean-up, written anew). Its one idea: the
engine stops at every sentence end, and a text tells by itself whether that was one; a full stop
after a single letter ("U.S.", "e.g.") or an abbreviation ("Dr.") was not, and after a digit what
follows tells ("3.5", "There are 3. A dog"; a number alone is a list's: "1. A dog").
"""

import re

MIN_CHARACTERS = 4
"""A shorter sentence is no sentence."""

_ABBREVIATIONS = ("Mr", "Mrs", "Ms", "Dr", "St", "Mt", "Prof", "Sr", "Jr", "Rev", "Gen", "Col",
                  "Capt", "Lt", "Sgt", "Gov", "Ave", "Blvd", "Dept", "Fig", "Vol", "Inc", "Ltd",
                  "Corp", "Co", "vs", "approx", "incl")
_UNFINISHED = re.compile(
    rf"(?:\d|(?<![\w'\u2019])(?:(?:[^\W\d_]\.)*[^\W\d_]|{'|'.join(_ABBREVIATIONS)}))\.$")
_NUMBER = re.compile(r"\d\.$")
_LISTED = re.compile(r"(?:\A|\n)\W*\d+\.$")

_FOREIGN = re.compile(
    "[\u0400-\u052f"  # Cyrillic
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"  # Korean
    "\u3040-\u30ff\u31f0-\u31ff"  # Japanese
    "\u2600-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff]")  # pictographs
_REPEATED = re.compile(
    r"(\S)(?:\s*\1){10}"
    r"|\b(\w+)\b(?:\W+\2\b){5}"
    r"|(?:&nbsp;){2}"
    r"|[\"'“”]{10}"
    r"|(?:, ?){13}"
    r"|(?:\n[^\S\n]*){6}")


def is_unfinished(text: str) -> bool:
    """Whether the full stop at the end of *text* ends no sentence: the model is to go on."""
    return bool(_UNFINISHED.search(text))


def had_ended(text: str, more: str) -> bool:
    """Whether the full stop after a digit at the end of *text* was a sentence's, now that it went
    on with *more*: white space and words."""
    return (bool(_NUMBER.search(text)) and not _LISTED.search(text)
            and more[:1].isspace() and says_something(more))


def says_something(text: str) -> bool:
    """Whether there is a letter or a digit in *text*."""
    return any(character.isalnum() for character in text)


def drop_reason(text: str) -> str | None:
    """Why the sentence *text* counts for nothing, or None if nothing is wrong with it.

    `foreign_script`: Cyrillic, Korean, Japanese, pictographs. `repeated`: a word 6 times in a row,
    a character 11 times (10 quotation marks, 13 commas, 6 newlines), `&nbsp;` twice. `too_short`:
    fewer than 4 characters.
    """
    if _FOREIGN.search(text):
        return "foreign_script"
    if _REPEATED.search(text):
        return "repeated"
    return "too_short" if len(text.strip()) < MIN_CHARACTERS else None

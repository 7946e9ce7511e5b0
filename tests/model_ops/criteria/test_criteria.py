"""Criteria sets: the shipped one is whole, and every mistake in an edited one is named."""

import shutil
from pathlib import Path

import pytest

from model_ops.criteria import load_criteria, locate_criteria, portable_criteria
from schemas.errors import ConfigError
from schemas.questions import CLEAR, HAS_MIDDLE, QUESTION_TYPES, TIERS

DEFAULT = Path(locate_criteria("default"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the default set, to be edited."""
    return Path(shutil.copytree(DEFAULT, tmp_path / "mine"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_default_set_has_every_kind_as_the_specification_says() -> None:
    criteria = load_criteria("default")
    assert set(criteria.criteria) == set(QUESTION_TYPES)
    for kind in QUESTION_TYPES:
        criterion = criteria.of(kind)
        assert criterion.question_type == kind and len(criterion.examples) >= 3
        assert (criterion.rubric.ambiguous is not None) == (kind in HAS_MIDDLE)
        asks_back = TIERS.get(kind) in ("ambiguous", "personalizable")
        assert criterion.asks == (True if asks_back else False if kind == CLEAR else None)
        assert (criterion.refusal_words is None) == asks_back
        assert criterion.desired != criterion.undesired


def test_the_nursery_has_a_set_of_its_own() -> None:
    nursery = load_criteria("nursery")
    assert set(nursery.criteria) == set(QUESTION_TYPES)
    assert nursery.digest != load_criteria("default").digest


def test_a_folder_is_a_set_and_any_edit_changes_its_digest(folder: Path) -> None:
    whole = load_criteria(str(folder))
    assert whole.digest == load_criteria("default").digest
    edit(folder / "clear.yaml", 'version: "1"', "version: 2")
    (folder / "notes.md").write_text("other files do not count")
    edited = load_criteria(str(folder))
    assert edited.of(CLEAR).version == "2"
    assert edited.digest != whole.digest


def test_words_that_yaml_takes_for_truth_values_stay_words(folder: Path) -> None:
    path = folder / "clear.yaml"
    path.write_text(path.read_text().partition("rubric:")[0] + "rubric:\n  true: it answers\n"
                    "  ambiguous: null\n  false: it does not\nasks: no\nrefusal_words: [no, off]\n")
    criterion = load_criteria(str(folder)).of(CLEAR)
    assert (criterion.rubric.true, criterion.rubric.ambiguous) == ("it answers", None)
    assert (criterion.asks, criterion.refusal_words) == (False, ["no", "off"])


@pytest.mark.parametrize(("name", "old", "new", "message"), [
    ("clear.yaml", "undesired:", "unwanted:", "undesired: Field required; unwanted: Extra inputs"),
    ("clear.yaml", "asks: false", "asks: perhaps", "asks: Input should be a valid boolean"),
    ("clear.yaml", 'version: "1"', 'version: "1', "is no YAML"),
    ("clear.yaml", 'version: "1"', "version:", "version: Value error, must not be empty"),
    ("clear.yaml", "question_type: Clear", "question_type: Cleer", "question_type: Input should"),
    ("clear.yaml", "question_type: Clear", "question_type: False Premise",
     "says question_type 'False Premise', its name says 'Clear'"),
    ("clear.yaml", '  "false":', "  ambiguous: so so\n  \"false\":", "have no middle"),
    ("false_premise.yaml", "examples:", "examples: []\nother:", "other: Extra inputs"),
    ("subject_ambiguity.yaml", "asks: true", "refusal_words: []", "must not be empty lists"),
    ("subject_ambiguity.yaml", "asks: true", "asks: true\nrubric: yes", "is no YAML|valid dict"),
])
def test_a_mistake_is_named_with_its_file(
    folder: Path, name: str, old: str, new: str, message: str
) -> None:
    edit(folder / name, old, new)
    with pytest.raises(ConfigError, match=message) as caught:
        load_criteria(str(folder))
    assert str(folder / name) in str(caught.value)


def test_an_empty_file_and_a_bare_text_are_no_criteria(folder: Path) -> None:
    for content in ("", "just words", "- a\n- list", "\x00\xff"):
        (folder / "clear.yaml").write_text(content)
        with pytest.raises(ConfigError, match=r"clear\.yaml"):
            load_criteria(str(folder))
    (folder / "clear.yaml").write_bytes(b"version: \xff\xfe")
    with pytest.raises(ConfigError, match="is no YAML"):
        load_criteria(str(folder))
    (folder / "clear.yaml").unlink()
    (folder / "clear.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"clear\.yaml cannot be read"):
        load_criteria(str(folder))


def test_missing_and_unknown_kinds_are_errors(folder: Path) -> None:
    (folder / "clear.yaml").rename(folder / "clear.yml")
    with pytest.raises(ConfigError, match=r"clear\.yml is named after no kind"):
        load_criteria(str(folder))
    (folder / "clear.yml").unlink()
    with pytest.raises(ConfigError, match=r"has no clear\.yaml: copy what is missing from"):
        load_criteria(str(folder))
    with pytest.raises(ConfigError, match="no kind of question 'Riddle': known are False Premise"):
        load_criteria("default").of("Riddle")


@pytest.mark.parametrize("name", ["", "klingon", "default/clear.yaml", "/nowhere/at/all"])
def test_what_is_no_set_says_which_there_are(name: str, monkeypatch: pytest.MonkeyPatch,
                                             tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no criteria set .*: give one of default"):
        load_criteria(name)


def test_what_travels_is_a_name_or_an_absolute_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert portable_criteria("default") == "default"
    assert portable_criteria("mine") == str(folder)
    (folder / "clear.yaml").unlink()
    with pytest.raises(ConfigError, match=r"no clear\.yaml"):
        portable_criteria("mine")

"""What a job's digest depends on: all that shapes rows, and nothing else."""

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from model_ops.criteria import locate_criteria
from model_ops.engines.job import (
    LocalModel,
    PoolWork,
    ProgramJob,
    by_content,
    code_version,
    find_program,
    inputs_digest,
)
from schemas.config import EngineConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from tests.model_ops.engines.plays import HERE, KIND

ITEMS = Manifest(kind="questions", prefix="items", inputs_digest="1")
IMAGES = Manifest(kind="images", prefix="images", inputs_digest="2")


def digest_of(engine: EngineConfig | None = None, items: Manifest = ITEMS, path: str = "/a",
              model: str = "m", **changes: Any) -> str:
    job = ProgramJob(**{"program": f"{HERE}:KIND", "prompts": "nursery", "round": 1, "stage": "s",
                        "seed": 0, "models": {"": LocalModel(path=path, digest=model)}, **changes})
    return inputs_digest(PoolWork(items, IMAGES, job, "out"), engine or EngineConfig())


def test_what_shapes_the_rows_changes_the_digest() -> None:
    changed = [digest_of(), digest_of(seed=1), digest_of(settings={"calls": 4}),
               digest_of(model="n"), digest_of(round=2), digest_of(items=IMAGES),
               digest_of(prompts="default"),
               digest_of(EngineConfig(max_model_len=512))]
    assert len(set(changed)) == len(changed)


def test_how_the_work_is_spread_does_not() -> None:
    wide = EngineConfig(num_actors=8, num_gpus=1, live_programs=999, kv_cache_gib=9)
    assert digest_of(wide) == digest_of()
    assert digest_of(path="/elsewhere") == digest_of()
    assert digest_of(settings={"calls": 3}) == digest_of()


def test_criteria_count_by_their_content_not_by_their_place(tmp_path: Path) -> None:
    def of(criteria: str) -> str:
        return digest_of(program="imagine", prompts="default", settings={"criteria": criteria})

    copy = copytree(locate_criteria("default"), tmp_path / "copy")
    assert of("default") == of(str(copy))
    (copy / "clear.yaml").write_text((copy / "clear.yaml").read_text() + "# edited")
    assert of("default") != of(str(copy))
    with pytest.raises(ConfigError, match="no criteria set 'klingon'"):
        of("klingon")
    asking = {"questions": {}, "criteria": str(copy)}
    assert digest_of(program="ask_question", prompts="default", settings=asking) != digest_of(
        program="ask_question", prompts="default", settings={**asking, "criteria": "default"})
    assert by_content({"metric": "m", "criteria": None}) == {"metric": "m", "criteria": None}


@pytest.mark.parametrize("source", ["dialog.py", "chat.py", "clip_scorer.py", "looks.py",
                                    "vqa_score.py", "ranking.py", "forms.py"])
def test_the_code_that_shapes_rows_is_part_of_the_digest(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    before, read = code_version("vqa"), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == source))
    assert code_version.__wrapped__("vqa") != before


def test_programs_are_found_in_the_registry_or_by_module() -> None:
    assert find_program(f"{HERE}:KIND") is KIND
    assert find_program("dialog").settings_type.__name__ == "DialogPlayConfig"
    with pytest.raises(ConfigError, match="no program 'chess': known are dialog"):
        find_program("chess")

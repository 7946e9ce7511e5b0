"""What a wrong configuration file is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.console import load_config
from schemas.errors import ConfigError

NURSERY = {"uri": "nursery://field", "limit": 8}


def told(tmp_path: Path, **content: Any) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"images": NURSERY, **content}))
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    return str(raised.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(("content", "said"), [
    ({"sede": 1}, "sede: no such field; did you mean `seed`?"),
    ({"stages": [{"play": {"guessr": "joint"}}]},
     "stages.0.dialog.play.guessr: no such field; did you mean `guesser`?"),
    ({"stages": [{"method": "contrastive", "train": {"objective": "crl", "batchsize": 8}}]},
     "stages.0.contrastive.train.crl.batchsize: no such field; did you mean `batch_size`?"),
    ({"stages": [{"method": "calibrated", "play": {}}]},
     "stages.0.calibrated.play: no such field"),
    ({"evaluation": {"benchmarks": [{"kind": "pie", "images": NURSERY, "pie": {"numclear": 1}}]}},
     "evaluation.benchmarks.0.pie.numclear: no such field; did you mean `num_clear`?"),
    ({"engine": {"zzz": 1}}, "engine.zzz: no such field"),
])
def test_an_unknown_field_is_told_the_one_that_was_meant(
    tmp_path: Path, content: dict[str, Any], said: str
) -> None:
    assert told(tmp_path, root="r", **content) == said


def test_a_missing_root_is_told_where_it_goes(tmp_path: Path) -> None:
    assert told(tmp_path) == "`root` is missing: set it in the file, or give --root"


def test_other_mistakes_keep_their_words(tmp_path: Path) -> None:
    assert told(tmp_path, root="r", seed="x").startswith("seed: Input should be a valid integer")

"""A pool that searches, in a process of its own: `python -m tests.bench.search_pool ROOT NUM`.

The stage's own search, on the pool of nursery-calibrated.yaml: as many engines and threads as it
says, which an engine in the same process would change for all (`OMP_NUM_THREADS`). Rows are left
under `PREFIX` of ROOT; printed is a JSON line, the seconds that they took with all starts.
"""

import json
import sys
import time

from deploy.console import load_config
from model_ops import calibrated
from model_ops.images import import_images
from model_ops.models import publish_base
from model_ops.stages import StagePlace
from schemas.config import CalibratedStage, RunConfig, SearchConfig
from schemas.store import Store
from tests.bench.workload import SEARCHING, measured_config

PREFIX = "rounds/round=0001/00-calibrated/searches"


def without_looks(settings: SearchConfig) -> SearchConfig:
    """The image as it is alone: as the reference's way asks."""
    return settings.model_copy(update={"looks": [], "scorer_look": None})


def pool_config(num: int) -> RunConfig:
    """The example's pool and search, the model and *num* images of the other benchmarks."""
    asked, example = measured_config(), load_config(SEARCHING)
    (stage,) = example.stages
    assert isinstance(stage, CalibratedStage)
    return example.model_copy(update={
        "model": asked.model, "images": asked.images.model_copy(update={"limit": num}),
        "engine": example.engine.model_copy(update={"max_model_len": asked.engine.max_model_len}),
        "stages": [stage.model_copy(update={"search": without_looks(stage.search)})]})


def main(root: str, num: int) -> None:
    """Search, and print what it took."""
    store, config = Store(root), pool_config(num)
    place = StagePlace(config, 1, 0)
    images, model = import_images(store, config.images), publish_base(store, config.model)
    prompts = calibrated.plan_prompts(store, place, images)
    begun = time.perf_counter()
    found = calibrated.search(store, place, prompts, images, model)
    assert (found.prefix, found.num_rows) == (PREFIX, num)
    print(json.dumps(time.perf_counter() - begun))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

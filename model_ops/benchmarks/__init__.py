"""What a model is measured with. The items are fixed by seed, so evaluations pair item by item."""

from model_ops.benchmarks.items import Items, plan_benchmark, refuse_training_images
from model_ops.benchmarks.summary import item_clusters, item_scores, summarise

__all__ = [
    "Items",
    "item_clusters",
    "item_scores",
    "plan_benchmark",
    "refuse_training_images",
    "summarise",
]

"""The rows of the calibrated method: what is asked, the search tree, its nodes as they were judged.

methods/calibrated_csr.md, section 7. Its one idea: a search is one row with all that it scored, so
that preferences can be made again from it with other weights.
"""

from schemas.rows import ImageRef, Provenance, Row


class DescriptionRow(Row):
    """A planned search of the calibrated method, or a rehearsal's prompt: what is asked about which
    image."""

    row_id: str
    prompt_id: str
    """The file's own `id`; without a file the image's id."""
    image: ImageRef
    question: str
    seed: int


class DescribedRow(Provenance):
    """What a model replied to such a prompt by itself, at temperature 0 (a rehearsal's)."""

    image: ImageRef
    question: str
    reply: str
    finish_reason: str
    """`length`: it was cut off."""
    num_calls: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_image_tokens: int


class SearchNode(Row):
    """One sentence of a search tree; node 0 is the root, which has none. Parents come first."""

    node_id: int
    parent_id: int | None
    depth: int
    """Sentences from the root."""
    text: str
    """The new sentence alone, stripped."""
    said: str
    """The same as it was sampled: a reply is these joined."""
    num_tokens: int
    logprob: float
    """Summed over the sentence's tokens (natural log)."""
    cosine: float | None
    """Of the new sentence with the image, in [-1, 1]; None for the root and where not scored."""
    is_final: bool
    """A finished reply ends here."""
    finish_reason: str
    """`eos`, `sentence`, `length` (no end found), `max_tokens`, `max_sentences`; "" for the root.
    A parent that was finished by an empty continuation has `eos`."""
    kept: bool
    """It was continued."""
    look: str = ""
    """The light in which the model saw the image when it said this; "": as it is."""
    dropped_reason: str | None = None
    """Why it counts for nothing, not even for its siblings' ranks: `repeated`, `foreign_script`,
    `too_short`, `no_sentence_end`."""


class SearchRow(Provenance):
    """A whole search about one image: all nodes, in the order in which they were made."""

    prompt_id: str
    image: ImageRef
    question: str
    nodes: list[SearchNode]
    num_merged: int
    """Continuations that were equal to a sibling."""
    num_empty: int = 0
    """Replies that ended before they had begun; they are no nodes."""
    num_truncated: int
    """Sentences that were longer than the scorer's context."""
    scorer_digest: str
    num_calls: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_image_tokens: int


class NodeRow(Provenance):
    """A node of a search as the preference sees it (methods/calibrated_csr.md, section 7, but for
    `penalised_score`: sampling penalises nothing, it would always be null)."""

    search_id: str
    """Row id of the search."""
    prompt_id: str
    image_id: str
    node_id: int
    parent_id: int | None
    depth: int
    text: str
    num_tokens: int
    sum_logprob: float
    mean_logprob: float
    clip_cos100: float | None
    is_final: bool
    finish_reason: str
    kept: bool
    look: str
    dropped_reason: str | None
    rank: float | None
    """position / siblings by `mean_logprob`, best first: in (0, 1]; None if it does not count."""
    clip_rank: float | None
    """The same by `clip_cos100`."""
    cost: float | None
    """Lower is better. `rank`: lam * clip_rank + (1 - lam) * rank; `paper_raw`: minus the
    sentence's reward."""
    key: float | None
    """Of a finished reply that ends here: what replies are compared by (`reward_mode`)."""
    choice: str | None
    """`chosen` or `rejected`, at the ends of the two replies of the pair."""

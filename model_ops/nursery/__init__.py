"""The embedded default: a procedural image world, a tiny VLM and a tiny CLIP made for it, with
their weights.
"""

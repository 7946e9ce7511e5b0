"""Prefect tasks: a name, retries, progress and artifacts around one function of `model_ops` each.

No logic: what is computed, and whether it was computed before, is known below Prefect.
"""

"""What an artifact is: row models, run configuration, manifest, store, errors.

Nothing here knows how a model is used; only pydantic, pyarrow and fsspec are imported.
"""

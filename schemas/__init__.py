"""What an artifact is: row models, run configuration, manifest, store, errors.

Nothing here knows how a model is used; only pydantic, pyarrow and fsspec are imported
(and s3fs and its clients for their errors, when there is one).
"""

"""What an artifact is: row models, run configuration, manifest, store, errors.

Nothing here knows how a model is used; only pydantic, pyarrow and fsspec are imported
(s3fs and its clients too, once storage has failed: for the classes of their errors).
"""

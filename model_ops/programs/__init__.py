"""The methods as pure generators: no engine, no Ray, no Prefect inside."""

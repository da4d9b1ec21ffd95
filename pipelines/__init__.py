"""What runs the library: the terminal, YAML, Dask and MLflow live here and nowhere else."""

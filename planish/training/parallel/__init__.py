"""Training in several processes, on several GPUs or machines."""

"""What stands between a socket and a resource. Knows nothing of models."""

"""The shapes of requests and answers. One file per API family, on top of `fields.py`."""

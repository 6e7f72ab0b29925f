"""The life of a worker process: its turn at the engine, what it inherits, how it stops."""

"""The model that is served, the engine behind it, and the way of a request into and out of it."""

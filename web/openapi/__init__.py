"""/openapi.json: the generator, the table of operations, and their words."""

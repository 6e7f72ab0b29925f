"""An API that nobody has, in the three files that a new dialect takes. tests/contract/
test_dialects.py mounts it on the server's own application."""

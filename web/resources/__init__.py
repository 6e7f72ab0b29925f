"""One file per API family: a request comes in as HTTP and goes out as HTTP. No resource knows
another; what they share lies in `web/schemas/`, `web/chat/turn.py` and `web/dialects/`.
"""

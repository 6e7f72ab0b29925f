"""Text to token ids and back: the Tokenizer, and the vocabularies that one is made of.

Called by the engine and by users. A vocabulary follows from a rule (vocabularies.py), a
tokenizer.json (huggingface.py) or a table of bytes. Never knows about prompts or chat.
"""

from .tokenizer import Tokenizer, world_file

__all__ = ["Tokenizer", "world_file"]

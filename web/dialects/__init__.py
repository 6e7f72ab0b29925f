"""How an answer is written in the words of one API."""

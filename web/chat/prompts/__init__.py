"""From messages to the text that a model is fed, and the words that end its turn."""

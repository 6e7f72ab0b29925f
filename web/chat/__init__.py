"""What is said, whoever asked: messages, prompts, calls of tools, and the answer that comes
back."""

"""Tools in a prompt, in the form of the public function-calling data that the models have learnt.

Called by `chat/prompts/formats.py`. `web/chat/tool_calls.py` reads what a model writes in this
form.
"""

from __future__ import annotations

import msgspec

from web.chat.messages import Call, Message


def preamble(description: str) -> str:
    """What comes before everything else."""
    return (
        "System: You are a helpful assistant with access to the following functions. "
        f"Use them if required -{description}\n\n"
    )


def spoken(message: Message) -> Message:
    """A message with its calls as text."""
    if not message.calls:
        return message
    parts = [message.content] if message.content else []
    return msgspec.structs.replace(
        message, content="\n".join([*parts, *map(_written, message.calls)]), calls=()
    )


def _written(call: Call) -> str:
    """Values are as Python prints them, always in quotes."""
    arguments = ", ".join(f'"{key}"="{value}"' for key, value in call.arguments.items())
    return f"{call.name}\n```python\ntool_call({arguments})\n```"

"""Where a chat answer ends: where anybody else's turn would begin.

Called by `chat/turn.py` and `rwkv-native chat`. /completions has no default stops.
"""

from __future__ import annotations

from web.chat.prompts.parts import Names

# Beside the names of the conversation: labels of the data that the models have learnt.
_OTHERS = ("System", "Observation", "Human", "Bot", "Bob", "Alice")


def chat_stops(asked: tuple[str, ...] | None, names: Names) -> list[str]:
    """The request's stops, or the labels that turns begin with; and always those of the
    conversation itself: whoever asks to stop at "END" does not ask the model to go on with the
    user's part.

    Only whole labels, after a blank line and with their colon: RWKV Runner's "\\n\\nUser" cuts
    answers before "Users", its "\\n\\nA" at every paragraph that begins so.
    """
    if asked is None:
        labels = (names.user, names.assistant, names.system, names.tool, *_OTHERS)
        return [f"\n\n{label}:" for label in dict.fromkeys(labels)]
    stops = list(asked)
    for label in (names.user, names.assistant):
        marker = f"\n\n{label}:"
        if not any(marker.startswith(stop) for stop in stops):
            stops.append(marker)
    return stops

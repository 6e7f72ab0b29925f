"""Where a chat answer ends: RWKV Runner's documented list, and the model's own turn markers.

Called by `resources/chat.py`. /completions has no default stops.
"""

from __future__ import annotations

from web.prompts.world import Names

# Runner also adds the first *token* of both labels; for World that is "\n\nAss", which cuts answers
# at every paragraph that begins with "Assume". We do not.
DEFAULT_STOPS = (
    "\n\nUser",
    "\n\nQuestion",
    "\n\nQ",
    "\n\nHuman",
    "\n\nBob",
    "\n\nAssistant",
    "\n\nAnswer",
    "\n\nA",
    "\n\nBot",
    "\n\nAlice",
    "\n\nObservation",
)


def chat_stops(asked: tuple[str, ...] | None, names: Names) -> list[str]:
    """The request's stops, or the default list, and always the labels that begin the next turn:
    whoever asks to stop at "END" does not ask the model to go on with the user's part."""
    stops = list(DEFAULT_STOPS if asked is None else asked)
    for label in (names.user, names.assistant):
        marker = f"\n\n{label}:"
        if not any(marker.startswith(stop) for stop in stops):
            stops.append(marker)
    return stops

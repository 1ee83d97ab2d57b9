"""Text from outside (titles, notes, names), made safe once: to print, to store, and to hand to C libraries."""

import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Unicode's general categories: controls (ESC, C1, NUL), formats (bidirectional overrides, zero width), surrogates,
# private use, unassigned; line and paragraph separators are spaces.
_REPLACED = {"Cc", "Cf", "Cs", "Co", "Cn"}
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # Persian and Indian words need them


def clean(text: str, limit: int = 500) -> str:
    """``text`` as one line of at most ``limit`` characters that can be encoded, printed and stored anywhere.

    Runs of white space, line ends included, become one space. Control characters, escape sequences' first byte,
    bidirectional overrides and lone surrogates become U+FFFD. What is longer than ``limit`` ends in an ellipsis.
    """
    # What is far beyond the limit is not looked at: a title may be a gigabyte.
    words = " ".join(text[: 4 * limit + 16].split())
    shown = "".join(
        REPLACEMENT if unicodedata.category(c) in _REPLACED and c not in _JOINERS else c
        for c in words
    )
    if len(shown) > limit or len(text) > 4 * limit + 16:
        return shown[: limit - 1].rstrip() + "…"
    return shown

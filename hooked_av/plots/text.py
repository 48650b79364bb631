"""Token text as it can be shown: every space and line break visible, nothing that breaks a line or a font."""

_MARKS = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "": "∅"}


def visible(text: str) -> str:
    r"""Token text with its spaces and line breaks visible; what cannot be printed is written as an escape.

    >>> visible(" three\n\x00")
    '␣three⏎\\x00'
    """
    if not text:
        return _MARKS[""]
    return "".join(_MARKS.get(c, c if c.isprintable() else _escape(c)) for c in text)


def minus(numbers: str) -> str:
    """Numbers with the sign that axes have.

    >>> minus("-0.50")
    '−0.50'
    """
    return numbers.replace("-", "−")


def drawable(text: str, glyphs: frozenset[int]) -> str:
    r"""`visible`, with an escape for each character that a font does not have.

    >>> drawable(" 你", frozenset(map(ord, "␣abc")))
    '␣\\u4f60'
    """
    return "".join(c if ord(c) in glyphs else _escape(c) for c in visible(text))


def shortened(text: str, n_characters: int) -> str:
    """At most so many characters, the last one an ellipsis if some were left out.

    >>> shortened("interpretability", 8)
    'interpr…'
    """
    return text if len(text) <= n_characters else f"{text[: n_characters - 1]}…"


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65_536 else f"\\U{code:08x}"

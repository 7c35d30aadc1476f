"""English prose that every machine with this project's environment already has.

Nothing is downloaded: the text is Newton's *Opticks*, which one of vLLM's dependencies carries as
test data, and the licences that Debian installs. Half a million characters in two styles are few
enough that a model sees all of them several times in a minute. With Python's documentation added
it had learnt less of each, and its sentences were worse.
"""

import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

BOOK = "tvm_ffi/3rdparty/libbacktrace/Isaac.Newton-Opticks.txt"
LICENCES = Path("/usr/share/common-licenses")

SHORTEST_PARAGRAPH = 80
"""Characters below which a paragraph is more often a heading or a fragment than a sentence."""

SENTENCES = re.compile(r"[A-Z\"'“(].*[.!?:]['\"”)]?", re.DOTALL)
NOT_PROSE = re.compile(r"---|[=<>{}|\\_^~#*@+]|https?:")
MARKUP = re.compile(r"\b_([^_]+)_(?!\w)|\[[^\]]*\]")


def documents() -> Iterator[str]:
    """Yield texts: clean paragraphs separated by blank lines; no paragraph comes twice."""
    seen: set[str] = set()
    for path in _files():
        text = path.read_text("utf-8", errors="replace")
        fresh = [paragraph for paragraph in prose(text) if paragraph not in seen]
        seen.update(fresh)
        if fresh:
            yield "\n\n".join(fresh)


def prose(text: str) -> Iterator[str]:
    """Yield those paragraphs of `text` that are whole English sentences, each on one line."""
    for block in re.split(r"\n\s*\n", text):
        paragraph = " ".join(MARKUP.sub(r"\1", block).split())
        if _is_prose(paragraph):
            yield paragraph.replace("--", " - ")


def _is_prose(paragraph: str) -> bool:
    if len(paragraph) < SHORTEST_PARAGRAPH or not SENTENCES.fullmatch(paragraph):
        return False
    plain = sum(c.isalpha() or c in " ,.'" for c in paragraph)
    return plain > 0.95 * len(paragraph) and not NOT_PROSE.search(paragraph)


def _files() -> list[Path]:
    book = Path(sysconfig.get_path("purelib")) / BOOK
    return [path for path in (book, *sorted(LICENCES.glob("*"))) if path.is_file()]

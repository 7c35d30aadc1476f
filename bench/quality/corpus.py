"""English prose to learn from: Debian's documentation packages, fetched by name with apt.

`python -m bench.quality.corpus [--out FILE]` writes one xz-compressed text, its documents separated
by form feeds. The packages are unpacked, not installed; nothing runs as part of it.
"""

import gzip
import html
import lzma
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click

from demo.corpus import documents as short_documents
from hack import cache

PACKAGES = (
    "apache2-doc",
    "debian-reference-en",
    "git-doc",
    "linux-doc-6.1",
    "perl-doc",
    "postgresql-doc-15",
    "python3.11-doc",
    "rust-doc",
    "sqlite3-doc",
    "vim-doc",
)
SUFFIXES = (".html", ".html.en", ".pod", ".rst", ".txt", ".info")
END = "\f"

FEWEST_CHARACTERS_OF_A_DOCUMENT = 400
SHORTEST_PARAGRAPH = 80
"""Characters below which a paragraph is more often a heading or a fragment than a sentence."""
SENTENCES = re.compile(r"[A-Z\"'“(`].*[.!?:;]['\"”)`]?", re.DOTALL)
LEAST_PLAIN = 0.88
"""Part of a paragraph that must be letters, spaces and commas, so that no code is among it."""

NOT_TEXT = re.compile(r"<(script|style|pre|nav|table)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
BLOCK = re.compile(r"</?(p|li|dd|dt|div|h\d|ul|ol|br)\b[^>]*>", re.IGNORECASE)
TAG = re.compile(r"<[^>]*>")
POD = re.compile(r"[A-Z]<+ ?([^<>]*?) ?>+|``|:\w+:`|`_*|\*\*")
"""Marks of POD and of reStructuredText inside a sentence."""


def default_path() -> Path:
    """Where the corpus lies unless told otherwise."""
    return cache.default().root / "quality" / "corpus.txt.xz"


def ensure(path: Path) -> Path:
    """Write the corpus to `path` unless it is there."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with lzma.open(unfinished, "wt", encoding="utf-8", preset=6) as out:
        out.writelines(text + END for text in documents(path.parent / "packages"))
    unfinished.rename(path)
    return path


def read(path: Path) -> list[str]:
    """The documents of a corpus that :func:`ensure` wrote."""
    with lzma.open(path, "rt", encoding="utf-8") as text:
        return text.read().split(END)[:-1]


def documents(folder: Path) -> Iterator[str]:
    """Yield texts, paragraphs separated by blank lines; no paragraph comes twice."""
    seen: set[int] = set()
    yield from short_documents()
    for path in sorted(_unpacked(folder).rglob("*")):
        if path.is_file() and path.name.removesuffix(".gz").endswith(SUFFIXES):
            fresh = [part for part in paragraphs(plain(path)) if hash(part) not in seen]
            seen.update(map(hash, fresh))
            text = "\n\n".join(fresh)
            if len(text) >= FEWEST_CHARACTERS_OF_A_DOCUMENT:
                yield text


def paragraphs(text: str) -> Iterator[str]:
    """Yield those paragraphs of `text` that are English sentences, each on one line."""
    for block in re.split(r"\n\s*\n", text):
        paragraph = " ".join(block.split())
        if len(paragraph) >= SHORTEST_PARAGRAPH and SENTENCES.fullmatch(paragraph):
            letters = sum(c.isalpha() or c in " ,.'" for c in paragraph)
            if letters > LEAST_PLAIN * len(paragraph):
                yield paragraph


def plain(path: Path) -> str:
    """The text of a file without its markup."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    text = content.decode("utf-8", errors="replace")
    if ".html" in path.name:
        text = BLOCK.sub("\n\n", NOT_TEXT.sub("\n\n", text))
        return html.unescape(TAG.sub("", text)).replace("¶", "")
    return POD.sub(lambda mark: mark.group(1) or "", text)


def _unpacked(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / "root"
    if not root.exists():
        subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=True)
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    return root


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=None, help="The file to write.")
def main(out: Path | None) -> None:
    """Gather the corpus that bench.quality.train learns from."""
    path = ensure(out or default_path())
    texts = read(path)
    click.echo(f"{sum(map(len, texts)):,} characters in {len(texts):,} documents: {path}")


if __name__ == "__main__":
    main()

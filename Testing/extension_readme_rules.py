"""What the Extensions Index asks of an extension's README."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from check_extension_index import Checkout

MODULE = "SparseUNet3D"


def summary(checkout: Checkout) -> Iterator[str]:
    """The first paragraph after the title says in one or two sentences what the extension is for."""
    text = re.search(r"\A# .+\n+([^#!\n].*(?:\n.+)*)", checkout.text("README.md"))
    sentences = re.findall(r"[^\s.!?][^.!?]*[.!?](?=\s|$)", text[1]) if text else []
    if len(sentences) not in (1, 2):
        yield "README.md: begin with a paragraph of one or two sentences that says what the extension is for"


def picture(checkout: Checkout) -> Iterator[str]:
    """At least one picture, and none whose file is missing."""
    targets = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", checkout.text("README.md"))
    targets += re.findall(r'<img[^>]+src="([^"]+)"', checkout.text("README.md"))
    if not targets:
        yield "README.md: add a picture, best a screenshot"
    for target in targets:
        if "://" not in target and not (checkout.root / target).is_file():
            yield f"README.md: the picture {target} does not exist"


def modules(checkout: Checkout) -> Iterator[str]:
    """A section named after the modules has a sentence about each."""
    if not re.search(rf"\b{MODULE}\b[^.]*\w\.", _section(checkout.text("README.md"), r"modules?")):
        yield f"README.md: add a section 'Modules' with a sentence about the module {MODULE}"


def citation(checkout: Checkout) -> Iterator[str]:
    if not re.search(r"\w", _section(checkout.text("README.md"), r"cit(e|ation|ing)|publications?")):
        yield "README.md: add a section 'How to cite'"


def licence(checkout: Checkout) -> Iterator[str]:
    if not re.search(r"Apache|MIT|BSD", _section(checkout.text("README.md"), r"licen[cs]e")):
        yield "README.md: add a section 'Licence' that names the licence"


def tutorial(checkout: Checkout) -> Iterator[str]:
    """In the README or in the documentation; it tells where its data come from."""
    paths = [checkout.root / "README.md", *checkout.root.glob("Documentation/**/*.md")]
    texts = [path.read_text(encoding="utf-8") for path in paths if path.is_file()]
    titled = [text for text in texts if re.search(r"^#+ .*(tutorial|step by step)", text, re.IGNORECASE | re.MULTILINE)]
    if not any(re.search(r"sample\s+data", text, re.IGNORECASE) for text in titled):
        yield "README.md or Documentation/*.md: add a section 'Tutorial' that says how to get its sample data"


def _section(text: str, title: str) -> str:
    """The text below the first heading that has a word like the title, down to the next heading of its level."""
    found = re.search(rf"^(#+) [^\n]*\b(?:{title})\b[^\n]*\n(.*?)(?=^\1 |\Z)", text, re.I | re.M | re.S)
    return found[2] if found else ""

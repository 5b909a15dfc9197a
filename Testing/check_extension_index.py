"""Says, without a network, whether the checkout is what Slicer's Extensions Index asks for.

    python Testing/check_extension_index.py [FOLDER]

Prints one line per rule; exits with 1 if one is broken. Not seen from here: that the raw URLs answer, that the
repository has the topic 3d-slicer-extension, and what reviewers think of texts.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import extension_code_rules as code
import extension_readme_rules as readme

NAME = "SparseUNet3D"
KEYS = {
    "$schema": str,
    "build_dependencies": list,
    "build_subdirectory": str,
    "category": str,
    "enabled": bool,
    "scm_revision": str,
    "scm_type": str,
    "scm_url": str,
    "tier": int,
}
REQUIRED_KEYS = ("$schema", "category", "scm_url")
SCHEMA = re.compile(
    r"https://raw\.githubusercontent\.com/Slicer/Slicer/main/Schemas/"
    r"slicer-extension-catalog-entry-schema-v1\.0\.[12]\.json#?"
)
CATEGORIES = {"Active Learning", "Segmentation"}
LICENCES = {"LICENSE", "LICENCE", "License.txt", "license.txt", "LICENSE.txt", "COPYING", "COPYING.txt"}
LARGEST_CHECKOUT = 100e6
LARGEST_FILE = 1024 * 1024
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Problems = Iterator[str]


class Checkout:
    """The files that the rules look at."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, name: str) -> str:
        path = self.root / name
        return path.read_bytes().decode("utf-8") if path.is_file() else ""

    @cached_property
    def entry(self) -> dict[str, Any]:
        """The description file; empty where it cannot be read, which a rule of its own tells."""
        try:
            content = json.loads(self.text(f"{NAME}.json"))
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def variable(self, name: str) -> str:
        """An EXTENSION_ variable, found by the pattern that the index uses."""
        found = re.search(rf'set\s*\({name}\s*"([^"]+)"[ ]*\)', self.text("CMakeLists.txt"), re.IGNORECASE)
        return found[1].strip() if found else ""

    @cached_property
    def files(self) -> list[Path]:
        """What a clone would have, as far as it is not under .git; all files if git is of no help."""
        command = ["git", "-C", str(self.root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        try:
            listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        except (OSError, subprocess.CalledProcessError):
            return [path for path in self.root.rglob("*") if path.is_file() and ".git" not in path.parts]
        return [path for name in listed if name and (path := self.root / name).is_file()]


def entry_format(checkout: Checkout) -> Problems:
    data = checkout.text(f"{NAME}.json")
    if not data:
        yield f"write {NAME}.json"
    elif not checkout.entry:
        yield f"{NAME}.json is no JSON object; correct it"
    if "\r" in data or "\t" in data:
        yield f"{NAME}.json: indent with spaces and end lines with LF alone"
    if data and not re.search(r"[^\n]\n\Z", data):
        yield f"{NAME}.json: end the file with one line break"


def entry_schema(checkout: Checkout) -> Problems:
    entry = checkout.entry
    for key in REQUIRED_KEYS:
        if key not in entry:
            yield f"{NAME}.json: add '{key}'"
    for key, value in entry.items():
        if key not in KEYS:
            yield f"{NAME}.json: remove '{key}', which the schema does not know"
        elif type(value) is not KEYS[key]:
            yield f"{NAME}.json: '{key}' has to be of type {KEYS[key].__name__}"
    if not SCHEMA.fullmatch(str(entry.get("$schema"))):
        yield f"{NAME}.json: '$schema' has to be the URL of version 1.0.1 or 1.0.2 of the catalog entry schema"
    if entry.get("scm_type", "git") != "git":
        yield f"{NAME}.json: 'scm_type' has to be git"
    if entry.get("tier", 1) not in (1, 3, 5):
        yield f"{NAME}.json: 'tier' has to be 1, 3 or 5"
    if any(not isinstance(name, str) for name in entry.get("build_dependencies", [])):
        yield f"{NAME}.json: 'build_dependencies' has to be a list of names"
    if entry.get("category") not in CATEGORIES:
        yield f"{NAME}.json: 'category' has to be one of the index's own, such as Segmentation"


def names(checkout: Checkout) -> Problems:
    if NAME.lower().startswith("slicer"):
        yield "an extension's name must not start with Slicer"
    url = str(checkout.entry.get("scm_url", ""))
    if not re.match(r"(https|git)://", url):
        yield f"{NAME}.json: 'scm_url' has to start with https:// or git://"
    repository = url.rpartition("/")[2].removesuffix(".git")
    if not re.match(r"Slicer[-_]?\w|SlicerExtension-\w", repository):
        yield f"the repository has to be called Slicer{NAME}, not '{repository}'"
    project = re.search(r"project\s*\(\s*([^\s)]+)", checkout.text("CMakeLists.txt"), re.IGNORECASE)
    if not project or project[1] != NAME:
        yield f"CMakeLists.txt: the first project() has to be project({NAME})"
    if checkout.variable("EXTENSION_HOMEPAGE") != url.removesuffix(".git"):
        yield "CMakeLists.txt: EXTENSION_HOMEPAGE has to be the repository of 'scm_url'"


def extension_texts(checkout: Checkout) -> Problems:
    if not checkout.variable("EXTENSION_CONTRIBUTORS"):
        yield "CMakeLists.txt: set EXTENSION_CONTRIBUTORS"
    sentences = len(re.findall(r"\w[.!?](?=\s|$)", checkout.variable("EXTENSION_DESCRIPTION")))
    if sentences not in (1, 2):
        yield f"CMakeLists.txt: EXTENSION_DESCRIPTION has to be one or two sentences, not {sentences}"


def pictures(checkout: Checkout) -> Problems:
    """Raw URLs of PNG files that are in the checkout, on the branch that the index builds."""
    url = str(checkout.entry.get("scm_url", "")).removesuffix(".git")
    raw = url.replace("https://github.com/", "https://raw.githubusercontent.com/")
    base = f"{raw}/{checkout.entry.get('scm_revision')}/"
    for variable in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"):
        addresses = checkout.variable(variable).split()
        if not addresses:
            yield f'CMakeLists.txt: write set({variable} "...") on one line, without a comment'
        for address in addresses:
            path = checkout.root / address.removeprefix(base)
            if not address.startswith(base):
                yield f"CMakeLists.txt: {variable} has to start with {base}, not be {address}"
            elif not path.is_file() or path.read_bytes()[:8] != PNG_SIGNATURE:
                yield f"{variable}: {path.relative_to(checkout.root).as_posix()} is no PNG file; add it"
            elif variable == "EXTENSION_ICONURL" and path.read_bytes()[16:24] != bytes((0, 0, 0, 128)) * 2:
                yield f"{path.name}: the icon has to have 128 x 128 pixels"


def dependencies(checkout: Checkout) -> Problems:
    in_cmake = set(checkout.variable("EXTENSION_DEPENDS").split()) - {"NA"}
    in_entry = set(checkout.entry.get("build_dependencies", []))
    if in_cmake != in_entry:
        yield f"EXTENSION_DEPENDS ({in_cmake or 'none'}) and 'build_dependencies' ({in_entry or 'none'}) have to agree"
    if "PyTorch" not in in_entry:
        yield "PyTorch comes with the extension PyTorch: name it in EXTENSION_DEPENDS and in 'build_dependencies'"


def licence(checkout: Checkout) -> Problems:
    if not any((checkout.root / name).is_file() for name in LICENCES):
        yield f"add the licence as one of {', '.join(sorted(LICENCES))}"


def sizes(checkout: Checkout) -> Problems:
    lengths = {path: path.stat().st_size for path in checkout.files}
    history = sum(path.stat().st_size for path in (checkout.root / ".git").rglob("*") if path.is_file())
    total = sum(lengths.values()) + history
    if total > LARGEST_CHECKOUT:
        yield f"a clone takes {total / 1e6:.0f} MB; at most 100 are allowed, history included"
    for path, length in lengths.items():
        if length > LARGEST_FILE:
            yield f"{path.relative_to(checkout.root)} has {length / 1024:.0f} kB: at most 1024; make it smaller"


RULES: dict[str, Callable[[Checkout], Problems]] = {
    "description file is clean JSON": entry_format,
    "description file obeys the schema": entry_schema,
    "names and addresses": names,
    "description and contributors": extension_texts,
    "icon and screenshots": pictures,
    "dependencies agree": dependencies,
    "licence file": licence,
    "sizes": sizes,
    "README: summary": readme.summary,
    "README: picture": readme.picture,
    "README: modules": readme.modules,
    "README: how to cite": readme.citation,
    "README: licence": readme.licence,
    "README: tutorial with sample data": readme.tutorial,
    "imports when Slicer starts": code.imports_at_start,
    "library imports without PyTorch": code.library_without_torch,
    "PyTorch is not installed by pip": code.no_pip_for_torch,
}


def problems(root: Path) -> dict[str, list[str]]:
    """What is wrong with a checkout, by rule."""
    checkout = Checkout(root)
    return {title: list(rule(checkout)) for title, rule in RULES.items()}


def main() -> int:
    found = problems(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1])
    for title, texts in found.items():
        print(f"{'WRONG' if texts else 'ok   '} {title}{': ' if texts else ''}{'; '.join(texts)}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

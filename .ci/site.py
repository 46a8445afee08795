"""Pages of the site that live elsewhere: README and its neighbours at the root, and the help of every command."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

from subpixmap.cli.main import EXAMPLES, app

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "LICENSE": "licence.md",
    "NOTICE": "licence.md",
}
LINK = re.compile(r"(\]\()([^)\s:#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root and the page of commands."""
    for name, page in ROOT_PAGES.items():
        if not name.endswith(".md"):
            continue
        text = LINK.sub(lambda link: link[1] + in_site(link[2]), (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "commands.md", content=commands()))
    files.append(File.generated(config, "licence.md", content=licence()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links of docs/ to pages of the root lead to their copies."""
    return LINK.sub(lambda link: link[1] + in_site(posixpath.join("docs", link[2])), markdown)


def in_site(path: str) -> str:
    """A path within the repository -> the same within docs/; a path within docs/ stays."""
    path = posixpath.normpath(path)
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    return path.removeprefix("docs/")


def licence() -> str:
    """LICENSE and NOTICE, as they are."""
    return "# Licence\n\n" + "\n\n".join(
        f"```text\n{(ROOT / name).read_text(encoding='utf-8')}```" for name in ("NOTICE", "LICENSE")
    )


def commands() -> str:
    """The help of all commands, as the command line prints it."""
    parts = [
        "# Commands",
        "What `subpixmap COMMAND --help` says. Exit codes are explained on the [first page](index.md#exit-codes).",
    ]
    for example in EXAMPLES.values():
        words = example.split()[: 2 if example.startswith("sample ") else 1]
        shown = CliRunner().invoke(app, [*words, "--help"], prog_name="subpixmap", env={"COLUMNS": "96"}).stdout
        parts += [f"## subpixmap {' '.join(words)}", f"```text\n{shown.strip()}\n```"]
    return "\n\n".join(parts) + "\n"

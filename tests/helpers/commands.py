"""Command lines of documents and scripts, held against the command line of the package."""

import dataclasses
import re
import shlex
from typing import Any

import typer.main

from subpixmap.cli import main as cli
from subpixmap.cli import options


def find(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words that follow."""
    command: Any = typer.main.get_command(cli.app)
    while hasattr(command, "commands"):
        assert words, "no command is named"
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    return command, words


def require_known(words: list[str]) -> None:
    """A command line that the command line of the package understands: names, options, types."""
    command, words = find(words)
    values = command.make_context(command.name, list(words)).params
    if command.name in ("run", "plan"):
        fields = {field.name for field in dataclasses.fields(options.RunOptions)}
        options.RunOptions(**{name: value for name, value in values.items() if name in fields}).request()


def option_names(command: Any) -> set[str]:
    """Every way to write the options of a command."""
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}


def all_options() -> set[str]:
    """The options of all commands."""
    known = {"--help", "--version", "--install-completion", "--show-completion"}
    commands = list(typer.main.get_command(cli.app).commands.values())  # type: ignore[attr-defined]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        known |= option_names(command)
    return known


def shell_lines(text: str) -> list[str]:
    """The commands of a page: lines of fenced or indented blocks that begin with `subpixmap`."""
    parts = re.split(r"^ *```.*$", text.replace("\\\n", " "), flags=re.MULTILINE)
    fenced = [line for part in parts[1::2] for line in re.findall(r"^ *(subpixmap .*)$", part, re.MULTILINE)]
    return fenced + [line for part in parts[::2] for line in re.findall(r"^ {4,}(subpixmap .*)$", part, re.MULTILINE)]


def require_known_line(line: str) -> bool:
    """Hold a line of a page against the command line. False where only its options can be (`...`)."""
    words = shlex.split(line, comments=True)[1:]
    if not re.search(r"\.\.\.|[\[\]|]", line.split(" #")[0]):
        require_known(words)
        return True
    command, rest = find([word.strip("[]") for word in words if word.strip("[]") not in ("", "...")])
    unknown = {word for word in rest if word.startswith("--")} - option_names(command)
    assert not unknown, (line, unknown)
    return False

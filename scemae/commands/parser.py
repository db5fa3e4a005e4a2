"""An argparse parser that raises ConfigError in one sentence and can name its options."""

import argparse
import re
from typing import Any, NoReturn

from scemae.config.closest import hint
from scemae.errors import ConfigError

RAW = argparse.RawDescriptionHelpFormatter


class Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError where argparse would print its usage and exit with 2."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.declared: list[argparse.Action] = []
        self.inner: dict[str, Parser] = {}
        super().__init__(*arguments, **settings)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Declare an argument, and remember it."""
        action = super().add_argument(*names, **settings)
        self.declared.append(action)
        return action

    def add_subparsers(self, **settings: Any) -> Any:
        """Declare the commands of this one; `inner` has their parsers by name."""
        action = super().add_subparsers(**settings)
        self.inner = action.choices
        return action

    def flags(self) -> list[str]:
        """Every visible option that begins with two dashes."""
        visible = [one for one in self.declared if one.help != argparse.SUPPRESS]
        return [flag for one in visible for flag in one.option_strings if flag.startswith("--")]

    def option(self, flag: str) -> argparse.Action | None:
        """The option that is spelt so, hidden ones too."""
        return next((one for one in self.declared if flag in one.option_strings), None)

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
            message = f"found no {missing[1]}, which the command needs"
        elif wrong := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message):
            message += hint(wrong[1], [name.strip(" '") for name in wrong[2].split(",")])
        raise ConfigError(f"{message}; see `{self.prog} --help`")

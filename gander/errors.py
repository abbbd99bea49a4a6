"""Mistakes that a person can mend."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """One line: what was wrong, what came, what would do.

    The command line prints it without a traceback and exits with 2. Everything else that is raised is our bug.
    """


def shown(text: str) -> str:
    """`text` on one line that any terminal can print: what is no character, ends a line or commands a terminal is escaped."""
    commands = r"[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    return re.sub(commands, lambda match: ascii(match[0])[1:-1], text)


def unknown(kind: str, got: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not there: no knob called 'discriminator_rl'; did you mean 'discriminator_lr'?"""
    known = sorted(known)
    near = get_close_matches(got, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
    return UserError(f"no {kind} called {got!r}; {hint}")


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """The error for an optional package that is not installed."""
    return UserError(f"{purpose} needs the package {package!r}, which is not installed: pip install 'gander-torch[{extra}]'")

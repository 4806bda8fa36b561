"""Optional packages of encoders: one error that names what is missing and the command that installs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from manifests.install import install
from runtime.errors import MissingExtraError


def require(user: str, packages: Iterable[str], extra: str | None, bare: Iterable[str] = ()) -> None:
    """Raise MissingExtraError where one of the packages that `user` imports is not installed.

    `extra` of speechmill brings them, or pip by the requirements `bare`.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        remedy = install([extra] if extra else [], [] if extra else bare or missing)
        raise MissingExtraError(f"{user} needs {', '.join(missing)}, not installed here", remedy)

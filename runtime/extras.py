"""Optional packages of encoders: one error that names what is missing and the command that installs it."""

from __future__ import annotations

from collections.abc import Iterable

from manifests.install import install, installed
from runtime.errors import MissingExtraError


def require(user: str, packages: Iterable[str], extra: str | None, bare: Iterable[str] = ()) -> None:
    """Raise MissingExtraError where one of the packages that `user` imports is not installed.

    `extra` of speechmill brings them, or pip by the requirements `bare`.
    """
    missing = [package for package in packages if not installed(package)]
    if missing:
        extras, alone = ([extra], []) if extra else ([], list(bare or missing))
        error = MissingExtraError(f"{user} needs {', '.join(missing)}, not installed here", install(extras, alone))
        error.needs = [f"{user} needs {package}" for package in missing]
        error.extras, error.bare = extras, alone
        raise error

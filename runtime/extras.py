"""Check optional packages of encoders: one error names those that are missing and the command that installs them."""

from __future__ import annotations

from collections.abc import Iterable

from manifests.install import install, installed
from runtime.errors import MissingExtraError


def require(user: str, packages: Iterable[str], extra: str | None, bare: Iterable[str] = ()) -> None:
    """Raise MissingExtraError if a package is not installed.

    Args:
        user: What needs the packages, for the message.
        packages: Names of the packages, as they are imported.
        extra: The extra of speechmill that installs them; None if there is none.
        bare: Without an extra, the requirements that pip installs; by default the names of the packages.
    """
    missing = [package for package in packages if not installed(package)]
    if missing:
        extras, requirements = ([extra], []) if extra else ([], list(bare or missing))
        error = MissingExtraError(
            f"{user} needs {', '.join(missing)}, not installed here", install(extras, requirements)
        )
        error.needs = [f"{user} needs {package}" for package in missing]
        error.extras, error.bare = extras, requirements
        raise error

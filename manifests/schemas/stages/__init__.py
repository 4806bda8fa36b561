"""The annotation stages: each file of this folder specifies one, and a new file adds one."""

from __future__ import annotations

import importlib
import pkgutil

from manifests.schemas.spec import StageSpec


def load_specs() -> dict[str, StageSpec]:
    """Read the `SPEC` of each file of this folder."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    specs: dict[str, StageSpec] = {name: importlib.import_module(f"{__name__}.{name}").SPEC for name in modules}
    return dict(sorted(specs.items(), key=lambda item: (item[1].order, item[0])))


STAGE_SPECS = load_specs()
"""The specification of each stage by its name, in the order in which stages run."""

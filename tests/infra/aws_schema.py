"""What Terraform needs to know of the AWS provider to check our modules where the provider itself cannot be had.

Names, types and nesting are read from the source maps inside a published package of generated bindings.
"""

from __future__ import annotations

import base64
import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

USED = re.compile(r'^(resource|data) "(aws_\w+)"', re.M)
CLASS = re.compile(r"^ *export (?:abstract )?class (\w+) ", re.M)
FIELD = re.compile(r"// (\w+) - computed: (true|false), optional: (true|false), required: (true|false)")
WRITTEN = re.compile(
    r"^ +(\w+): \{\s*value: (.*?),\s*isBlock: (true|false),\s*type: \"(\w+)\",\s*storageClassType: \"([^\"]+)\"",
    re.M | re.S,
)
PRIMITIVE = {"string": "string", "number": "number", "boolean": "bool", "any": "string"}


def used(folder: Path) -> set[str]:
    """Module names of the bindings of what is used below `folder`: 'aws-s3-bucket', 'data-aws-caller-identity'."""
    found = {match for file in folder.rglob("*.tf") for match in USED.findall(file.read_text())}
    return {("data-" if kind == "data" else "") + name.replace("_", "-") for kind, name in found}


def schemas(wheel: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Blocks by kind ('provider', 'resource', 'data') and type, for the wanted modules of the bindings."""
    made: dict[str, dict[str, Any]] = {"provider": {}, "resource": {}, "data": {}}
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with outer.open(name) as packed, tarfile.open(fileobj=packed, mode="r|gz") as inner:
            for member in inner:
                module = Path(member.name).stem
                if not member.name.endswith(".js") or module not in wanted | {"aws-provider"}:
                    continue
                file = inner.extractfile(member)
                assert file is not None
                kind = "provider" if module == "aws-provider" else "data" if module.startswith("data-") else "resource"
                made[kind][module.removeprefix("data-").replace("-", "_")] = Bindings(file.read().decode()).block()
    assert sum(map(len, made.values())) == len(wanted) + 1, f"{wheel.name} lacks bindings for some of {sorted(wanted)}"
    return made


class Bindings:
    """One generated module: a class a block, its fields in comments, and beside it a function that writes the block."""

    def __init__(self, javascript: str) -> None:
        encoded = javascript.rpartition("base64,")[2].split()[0]
        source = json.loads(base64.b64decode(encoded))["sourcesContent"][0]
        starts = [*CLASS.finditer(source)]
        ends = [start.start() for start in starts[1:]] + [len(source)]
        self.classes = {start[1]: source[start.start() : end] for start, end in zip(starts, ends, strict=True)}
        self.top = next(
            name for name, code in self.classes.items() if re.search(r"extends cdktn\.Terraform", code[:300])
        )
        self.written = {"": self._entries(source[source.index("synthesizeHclAttributes") :].split("\n  }", 1)[0])}
        for function in re.finditer(r"^export function (\w+)ToHclTerraform\((.*?)^}", source, re.M | re.S):
            self.written[function[1][len(self.top) :].removeprefix("Mapper")] = self._entries(function[2])

    @staticmethod
    def _entries(code: str) -> dict[str, tuple[str, bool, str, str]]:
        return {
            name: (value, block == "true", nesting, kind) for name, value, block, nesting, kind in WRITTEN.findall(code)
        }

    def block(self, struct: str = "", depth: int = 0) -> dict[str, Any]:
        """Attributes and nested blocks of a struct; '' is the resource itself."""
        attributes, blocks = {}, {}
        for name, computed, optional, required, code in self._fields(struct):
            value, is_block, nesting, kind = self.written[struct].get(name, ("", False, "", ""))
            flags = {"required": required, "optional": optional, "computed": computed}
            if is_block and depth < 8:
                inner = re.sub(r"(List|Map)$", "", kind.rpartition(".")[2])
                single = nesting == "struct"
                blocks[name] = {
                    "nesting": "single" if single else nesting,
                    "min": int(required and not single),
                    "max": int(not single and "istMapperHcl" not in value),
                    "block": self.block(inner, depth + 1),
                }
            else:
                attributes[name] = {"type": self._type(nesting, kind, code), **flags}
        return {"attributes": attributes, "blocks": blocks}

    def _fields(self, struct: str) -> list[tuple[str, bool, bool, bool, str]]:
        code = self.classes.get(f"{struct}OutputReference" if struct else self.top, "")
        _, *parts = FIELD.split(code)
        rows = [parts[at : at + 5] for at in range(0, len(parts), 5)]
        if not rows:  # the provider's blocks are only ever written, so nothing says what reading them gives
            return [(name, False, True, False, "") for name in self.written[struct]]
        return [(name, *(flag == "true" for flag in flags), code) for name, *flags, code in rows]  # type: ignore[misc]

    def _type(self, nesting: str, kind: str, code: str) -> Any:
        """A type in Terraform's JSON. What is only read and no plain value counts as a string: nobody reads it here."""
        if plain := re.fullmatch(r"(string|number|boolean|any)(List|Map|)", kind):
            container = {"List": "set" if nesting == "set" else "list", "Map": "map", "": ""}[plain[2]]
            return [container, PRIMITIVE[plain[1]]] if container else PRIMITIVE[plain[1]]
        if kind:
            inner = re.sub(r"(List|Map)$", "", kind.rpartition(".")[2])
            written = self.written[inner]
            members = {
                name: self._type(*written[name][2:] if name in written else ("", ""), code)
                for name, *_, code in self._fields(inner)
            }
            return ["object", members] if nesting == "struct" else [nesting, ["object", members]]
        read = re.search(r"this\.get(\w+?)Attribute\(", code)
        return {"Number": "number", "Boolean": "bool", "List": ["list", "string"], "StringMap": ["map", "string"]}.get(
            read[1] if read else "", "string"
        )

"""Writes configs/default.toml: every setting with its default and, from the docstring under it, what it means."""

import ast
import inspect
import json
import sys
import textwrap
from pathlib import Path
from typing import Any, get_args

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from server.config import Config

HEAD = """\
# Every setting with its default; made by scripts/default_config.py, kept true by tests/test_config.py.
# An overlay holds only what differs: make run ARGS="--config my.toml". One setting: --set turns.endpoint_s=0.6,
# or in the environment: VISAVIS__TURNS__ENDPOINT_S=0.6. A table whose type changes starts from that type's defaults.
"""


def docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Field -> the docstring under it, base classes included."""
    found: dict[str, str] = {}
    for cls in reversed(struct.__mro__):
        if not issubclass(cls, msgspec.Struct) or cls is msgspec.Struct:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        name = None
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
            elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                found[name] = " ".join(str(node.value.value).split())
                name = None
    return found


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def table(path: str, struct: Any, commented: bool = False) -> list[str]:
    mark = "# " if commented else ""
    summary = (inspect.getdoc(type(struct)) or "").splitlines()[0]
    lines = ["", f"{mark}[{path}]" + (f"  # {summary}" if summary and not commented else "")]
    if commented and summary:
        lines.insert(1, f"# {summary}")
    config = struct.__struct_config__
    if config.tag is not None:
        lines.append(f"{mark}{config.tag_field} = {toml(config.tag)}")
    notes = docs(type(struct))
    for name in struct.__struct_fields__:
        text = f"{name} = {toml(msgspec.to_builtins(getattr(struct, name)))}"
        lines.append(mark + text + (f"  # {notes[name]}" if name in notes else ""))
    return lines


def render() -> str:
    config = Config()
    lines = [HEAD.rstrip()]
    hints = {f.name: f.type for f in msgspec.structs.fields(Config)}
    for name in Config.__struct_fields__:
        value = getattr(config, name)
        if name == "personas":
            for persona, settings in value.items():
                lines += table(f"personas.{persona}", settings)
            continue
        lines += table(name, value)
        for other in get_args(hints[name]):
            if isinstance(other, type) and not isinstance(value, other) and other.__struct_config__.tag:
                lines += ["", f"# or, instead of the {name} table above:", *table(name, other(), commented=True)[1:]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent.parent / "configs" / "default.toml").write_text(render(), "utf-8")

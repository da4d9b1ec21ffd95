"""Every public name of `emulate`, with its signature and the first paragraph of its docstring, read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import emulate
from pipelines.manual import markdown

ROOT = Path(emulate.__file__).parent
Definition = ast.FunctionDef | ast.ClassDef


def definition(name: str) -> Definition:
    """The `def` or `class` of a name of the front door."""
    home = next(module for module, names in emulate._HOMES.items() if name in names)
    return next(x for x in definitions(ROOT / f"{home}.py") if x.name == name)


def definitions(path: Path) -> Iterator[Definition]:
    """The public functions and classes that a file defines."""
    for x in ast.parse(path.read_text("utf-8")).body:
        if isinstance(x, Definition) and not x.name.startswith("_"):
            yield x


def signature(x: Definition) -> str:
    """As it is called: `Normal(mean: float, sd: float)`, `fit(recipe: Recipe, runs: Runs, *, seed: int) -> Emulator`."""
    if isinstance(x, ast.ClassDef):
        init = next((f for f in x.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
        return f"{x.name}({_arguments(init) if init else ', '.join(_fields(x))})"
    returned = f" -> {ast.unparse(x.returns)}" if x.returns else ""
    return f"{x.name}({_arguments(x)}){returned}".replace("'", '"')


def _arguments(f: ast.FunctionDef) -> str:
    a = f.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + [*a.defaults]
    words = [_argument(x, d) for x, d in zip(plain, defaults, strict=True) if x.arg not in ("self", "cls")]
    words += [f"*{_argument(a.vararg)}"] if a.vararg else ["*"] if a.kwonlyargs else []
    words += [_argument(x, d) for x, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    words += [f"**{_argument(a.kwarg)}"] if a.kwarg else []
    return ", ".join(words).replace("'", '"')


def _argument(x: ast.arg, default: ast.expr | None = None) -> str:
    name = f"{x.arg}: {ast.unparse(x.annotation)}" if x.annotation else x.arg
    return f"{name} = {ast.unparse(default)}" if default else name


def _fields(x: ast.ClassDef) -> Iterator[str]:
    """The fields of a dataclass as arguments."""
    if not any("dataclass" in ast.unparse(d) for d in x.decorator_list):
        return
    if any("kw_only=True" in ast.unparse(d) for d in x.decorator_list):
        yield "*"
    for f in x.body:
        if isinstance(f, ast.AnnAssign) and "ClassVar" not in ast.unparse(f.annotation):
            kept = ast.unparse(f.value) if f.value else ""
            default = "" if not kept else " = ..." if kept.startswith("field(") else f" = {kept}"
            yield f"{ast.unparse(f.target)}: {ast.unparse(f.annotation)}{default}".replace("'", '"')


def _methods(x: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for f in x.body:
        if isinstance(f, ast.FunctionDef) and not f.name.startswith("_"):
            property_ = any(ast.unparse(d).endswith(("property", "setter")) for d in f.decorator_list)
            yield (f.name if property_ else signature(f)), markdown.first_paragraph(ast.get_docstring(f))


def page() -> str:
    """The page `reference/library.md`."""
    parts = ["Letters mean the same everywhere: `theta` physical parameters `[..., d]`, `u` the unit cube `[..., d]`, `y` physical "
             "output `[..., m]`; n runs, d parameters, m outputs. Every docstring holds an example that runs: "
             "`help(emulate.Space)`. Entries of rooms stand in [Rooms](rooms.md)."]  # fmt: skip
    for name in emulate.__all__:
        x = definition(name)
        parts += [f"## {name}", f"```text\nemulate.{signature(x)}\n```", markdown.first_paragraph(ast.get_docstring(x))]
        if isinstance(x, ast.ClassDef) and (rows := list(_methods(x))):
            parts += [markdown.table(("", "what it is"), [(markdown.code(n), what) for n, what in rows])]
    parts += [
        "## Modules beside",
        "What is used by `from emulate import MODULE`, or `from emulate.MODULE import NAME`.",
    ]
    rows = []
    for path in [*sorted(ROOT.glob("*.py")), *sorted(ROOT.glob("adapters/*.py"))]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        listed = [x.name for x in definitions(path)]
        if listed and path.stem != "__init__":
            what = markdown.first_paragraph(ast.get_docstring(ast.parse(path.read_text("utf-8"))))
            rows.append(
                (f"[{name}](../../../emulate/{path.relative_to(ROOT)})", what, ", ".join(map(markdown.code, listed)))
            )
    parts += [markdown.table(("module", "what it is", "names"), rows)]
    return markdown.page("Library", "the source of `emulate`", *parts)

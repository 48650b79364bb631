"""The shape of the package: which file may import which, what is public, what an import costs, how long things are."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import hooked_av

ROOT = Path(hooked_av.__file__).parent
# A file imports from its own folder and from folders above it; files in front stand alone.
ORDER = [
    "errors",
    "figures",
    "config",
    "media",
    "prompt",
    "hooks",
    "decoder",
    "interventions",
    "families",
    "forward",
    "replay",
    "generation",
    "model",
    "plots",
    "analyses",
    "datasets",
    "tiny",
    "study",
    "cli",
    "__main__",
    "__init__",
]
MAX_FUNCTION_LINES = 40  # without the docstring
HEAVY = {"transformers", "transformer_lens", "av", "pandas", "matplotlib", "pyarrow", "PIL", "accelerate"}


def name_of(path: Path) -> str:
    """`analyses/logit_lens.py` -> `analyses.logit_lens`, `analyses/__init__.py` -> `analyses`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def place(module: str) -> int:
    """The row of ORDER that holds `module`."""
    folder = module.partition(".")[0]
    if folder not in ORDER:
        raise LookupError(
            f"hooked_av.{module} has no place in the order: add {folder} to ORDER in {Path(__file__).name}"
        )
    return ORDER.index(folder)


def imported(module: str, tree: ast.AST) -> set[str]:
    """Our own modules that `module` imports, anywhere in the file (inside functions and TYPE_CHECKING blocks too)."""
    found = set()
    package = module if MODULES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ["hooked_av", *filter(None, package.split("."))][: None if node.level < 2 else 1 - node.level]
            base = ".".join([*above, *filter(None, [node.module])] if node.level else [node.module or ""])
            inside = {f"{base}.{alias.name}" for alias in node.names}
            modules = {name for name in inside if name.removeprefix("hooked_av.") in MODULES}
            found |= modules | ({base} if modules != inside else set())
    ours = (name for name in found if name.split(".")[0] == "hooked_av")
    return {name.removeprefix("hooked_av").removeprefix(".") or "__init__" for name in ours}


def upward(module: str, tree: ast.AST) -> list[str]:
    here = place(module)
    return sorted(
        f"hooked_av.{module} imports hooked_av.{target}, which is below it"
        for target in imported(module, tree)
        if place(target) > here
    )


def circles(edges: dict[str, set[str]]) -> set[str]:
    """Modules that import each other, directly or by way of others."""
    left = {module: {target for target in targets if target != module} for module, targets in edges.items()}
    while free := {module for module, targets in left.items() if not targets & left.keys()}:
        left = {module: targets for module, targets in left.items() if module not in free}
    return set(left)


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, less the docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - (docstring.end_lineno - docstring.lineno + 1)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards_only(module):
    assert upward(module, TREES[module]) == []


def test_no_files_import_each_other():
    assert circles({module: imported(module, tree) & MODULES.keys() for module, tree in TREES.items()}) == set()


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


def test_every_folder_says_what_it_is_for_and_what_it_may_import():
    folders = sorted(path.parent for path in ROOT.rglob("*.py") if path.parent != ROOT)
    for folder in dict.fromkeys(folders):
        said = ast.get_docstring(TREES[".".join(folder.relative_to(ROOT).parts)])
        assert said, folder
        if folder.parent == ROOT:
            assert "May import: " in said, folder


@pytest.mark.parametrize(
    ("module", "line", "target"),
    [
        ("errors", "import hooked_av.media", "media"),
        ("errors", "import hooked_av", "__init__"),
        ("errors", "from hooked_av import media", "media"),
        ("errors", "from hooked_av import Clip", "__init__"),
        ("media.clip", "from hooked_av.prompt.spans import Spans", "prompt.spans"),
        ("media.clip", "from ..prompt.spans import Spans", "prompt.spans"),
        ("media.clip", "from ..prompt import spans", "prompt.spans"),
        ("media.clip", "def f():\n    from hooked_av.prompt.spans import Spans", "prompt.spans"),
        ("media", "import hooked_av.prompt", "prompt"),
        ("families.omni.family", "from ...model import X", "model"),
        ("families.omni.family", "import hooked_av.model", "model"),
        ("prompt.inputs", "from hooked_av.plots.strip.strip import show_inputs", "plots.strip.strip"),
        ("analyses.results", "from hooked_av.datasets import run", "datasets.run"),
    ],
)
def test_an_upward_import_is_seen(module, line, target):
    assert upward(module, ast.parse(line)) == [f"hooked_av.{module} imports hooked_av.{target}, which is below it"]


def test_downward_and_foreign_imports_pass():
    below = "import numpy\nfrom hooked_av.errors import MediaError\nfrom ..errors import X\nfrom .files import Y"
    assert upward("media.clip", ast.parse(below)) == []
    assert upward("analyses.lenses.logit_lens", ast.parse("from ..results import x\nfrom ...errors import y")) == []


def test_a_module_without_a_place_is_named():
    with pytest.raises(LookupError, match=r"hooked_av\.utils has no place in the order: add utils to ORDER"):
        place("utils")


def test_import_is_lazy():
    code = f"""
import sys, time, torch
before, start = set(sys.modules), time.perf_counter()
import hooked_av
seconds = time.perf_counter() - start
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(f"import hooked_av after torch: {{1000 * seconds:.1f}} ms")
print("heavy:", sorted(new & {HEAVY!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    print(done.stdout)
    assert "heavy: []" in done.stdout


def test_public_names_are_sorted_and_listed_once():
    assert hooked_av.__all__ == sorted(set(hooked_av.__all__))
    assert set(hooked_av.__all__) <= set(dir(hooked_av))


def test_type_checkers_see_the_same_names_in_the_same_places():
    block = next(node for node in TREES["__init__"].body if isinstance(node, ast.If))
    lines = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname: f"{node.module}.{alias.name}" for node in lines for alias in node.names}
    assert seen == {name: f"hooked_av.{home}.{name}" for name, home in hooked_av._HOME.items()}


@pytest.mark.parametrize("name", hooked_av.__all__)
def test_every_public_name_resolves(name):
    assert getattr(hooked_av, name).__name__ == name


@pytest.mark.parametrize("name", [name for name in hooked_av.__all__ if name[0].islower()])
def test_every_public_function_has_an_example_that_can_be_run(name):
    assert ">>>" in (getattr(hooked_av, name).__doc__ or "")  # which `pytest --doctest-modules` runs


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(AttributeError, match=r"'hooked_av' has no attribute 'Spanz'; the nearest names: Span, Spans"):
        _ = hooked_av.Spanz


def test_version_is_the_installed_one():
    assert version("hooked-av") == hooked_av.__version__


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module):
    long = {function.name: length(function) for function in functions(TREES[module])}
    assert {name: n for name, n in long.items() if n > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("module", MODULES)
def test_no_print_and_no_bare_except(module):
    for node in ast.walk(TREES[module]):
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        is_bare = isinstance(node, ast.ExceptHandler) and node.type is None
        assert not is_print, f"{MODULES[module]}:{node.lineno} prints"
        assert not is_bare, f"{MODULES[module]}:{node.lineno} has a bare except"


def test_assets_are_inside_the_package():
    for name in ["py.typed", "data/bigbuckbunny.mp4", "data/ATTRIBUTION.md", "data/tokenizer/vocab.json"]:
        assert (ROOT / name).is_file(), name

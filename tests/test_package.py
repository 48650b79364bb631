"""The shape of the package: which file may import which, what is public, what an import costs, how long things are."""

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import hooked_av

ROOT = Path(hooked_av.__file__).parent
# A file imports from its own folder and from folders above it; files in front stand alone.
ORDER = [
    "errors",
    "doors",
    "former",
    "frozen",
    "devices",
    "whole_files",
    "named_figures",
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
    "checks",
    "cli",
    "__main__",
    "__init__",
]
MAX_FUNCTION_LINES = 40  # without the docstring
HEAVY = {"transformers", "transformer_lens", "av", "pandas", "matplotlib", "pyarrow", "PIL", "accelerate"}


def name_of(path: Path) -> str:
    """`media/clip.py` -> `media.clip`, `analyses/__init__.py` -> `analyses`."""
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


FOLDERS = {"analyses", "checks", "datasets", "errors", "interventions", "plots", "tiny"}
PUBLIC = [name for name in hooked_av.__all__ if name not in FOLDERS]


def test_public_names_are_few_sorted_and_written_once():
    assert hooked_av.__all__ == sorted(set(hooked_av.__all__))
    assert set(hooked_av.__all__) == set(hooked_av.__dir__())
    assert set(hooked_av.__all__) > FOLDERS
    assert len(PUBLIC) <= 46, "a name that is not typed every day belongs into a folder"
    assert not set(PUBLIC) & set(hooked_av._MOVED)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves(name):
    assert getattr(hooked_av, name).__name__ == name


@pytest.mark.parametrize("folder", ["analyses", "datasets", "interventions", "plots", "tiny"])
def test_names_of_a_folder_resolve_and_are_its_own(folder):
    package = getattr(hooked_av, folder)
    assert package.__all__
    for name in package.__all__:
        found = getattr(package, name)
        assert found.__name__ == name
        assert found.__module__.startswith(f"hooked_av.{folder}.")


def test_type_checkers_see_the_version():
    stub = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
    declared = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert declared == {"__version__"}


@pytest.mark.parametrize("name", hooked_av._MOVED)
def test_a_name_that_has_moved_works_and_says_where_it_is(name):
    with pytest.warns(DeprecationWarning, match=rf"hooked_av\.{name} is now hooked_av\.") as caught:
        old = getattr(hooked_av, name)
    home, _, leaf = str(caught[0].message).split(" is now ")[1].rpartition(".")
    assert getattr(import_module(home), leaf) is old
    assert name not in dir(hooked_av)


def test_the_warning_points_at_the_line_that_uses_the_old_name():
    code = "import hooked_av as av\n\nav.SpanError"
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.startswith(
        "<string>:3: DeprecationWarning: hooked_av.SpanError is now hooked_av.errors.SpanError"
    )


@pytest.mark.parametrize("name", [name for name in PUBLIC if name[0].islower()])
def test_every_public_function_has_an_example_that_can_be_run(name):
    assert ">>>" in (getattr(hooked_av, name).__doc__ or "")  # which `pytest --doctest-modules` runs


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(AttributeError, match=r"'hooked_av' has no attribute 'Clipp'; the nearest names: Clip"):
        _ = hooked_av.Clipp


def test_version_is_the_installed_one():
    assert version("hooked-av") == hooked_av.__version__


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module):
    long = {function.name: length(function) for function in functions(TREES[module])}
    assert {name: n for name, n in long.items() if n > MAX_FUNCTION_LINES} == {}


def test_a_name_has_one_meaning():
    """No class and no type alias has the name of another one elsewhere; private ones may."""
    homes: dict[str, list[str]] = {}
    for module, tree in TREES.items():
        for node in tree.body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in names:
                if name[0].isupper() and not name.isupper():
                    homes.setdefault(name, []).append(module)
    assert {name: several for name, several in homes.items() if len(several) > 1} == {}


def test_nobody_reaches_into_a_model_or_a_pass():
    """What replays, generation and analyses need of a model is public (`model.begin`)."""
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = ast.unparse(node.value)
                assert owner.split(".")[-1] not in ("model", "one", "run", "baseline"), f"{module}: {owner}.{node.attr}"


def test_a_model_is_never_any():
    """What is called model has the type of one, so that a type checker sees what is asked of it."""
    loose = [
        f"{module}:{argument.lineno}"
        for module, tree in TREES.items()
        for function in functions(tree)
        for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        if argument.arg == "model" and (argument.annotation is None or ast.unparse(argument.annotation) == "Any")
    ]
    assert loose == []


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

"""What is handed out: the wheel and the sdist, what they hold, and that they work where the checkout is not."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import hooked_av

ROOT = Path(hooked_av.__file__).parent.parent
CITATION = ROOT / "CITATION.cff"
LARGEST_WHEEL = 20e6  # bytes
LICENCES = ("LICENSE", "hooked_av/data/ATTRIBUTION.md", "hooked_av/data/tokenizer/LICENSE")
DOCTESTS = """
import doctest, importlib, sys
import hooked_av
module = importlib.import_module("hooked_av.analyses.lenses.logit_lens")
found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
print(hooked_av.__file__, module.__file__, found.attempted, found.failed)
"""


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
    assert citation["version"] == hooked_av.__version__
    assert citation["license"] == "MIT"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["identifiers"][0]["value"] == "arXiv:2606.10147"


def test_the_version_is_written_once():
    """CITATION.cff, which others read, has it too: the test above holds it to the package's."""
    written = re.compile(rf"""version\S* *[=:] *["']?{re.escape(hooked_av.__version__)}""")
    files = [ROOT / "pyproject.toml", *sorted((ROOT / "hooked_av").rglob("*.py"))]
    assert [path.name for path in files if written.search(path.read_text(encoding="utf-8"))] == ["__init__.py"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """A folder with a wheel and an sdist, as `python -m build` makes them."""
    pytest.importorskip("build", reason="the extra test is not installed")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(dist, tmp_path_factory) -> Path:
    """The folder that the sdist holds."""
    (path,) = dist.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder / path.name.removesuffix(".tar.gz")


@pytest.mark.slow
def test_the_wheel_is_small_and_holds_the_package_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    folder = f"hooked_av-{hooked_av.__version__}.dist-info"
    own = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hooked_av").rglob("*") if path.is_file()}
    about = {f"{folder}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    about |= {f"{folder}/licenses/{name}" for name in LICENCES}
    assert names == about | {name for name in own if "__pycache__" not in name}
    assert {"hooked_av/py.typed", "hooked_av/data/bigbuckbunny.mp4", "hooked_av/__init__.pyi"} < names
    assert wheel.stat().st_size < LARGEST_WHEEL


@pytest.mark.slow
def test_the_sdist_holds_what_is_versioned(unpacked):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    versioned = {name for name in listed.stdout.splitlines() if not name.startswith(".")}  # no settings of git and CI
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert versioned - held == set()


@pytest.mark.slow
def test_tests_of_the_sdist_run_in_it(unpacked):
    """Those that read most of what is not the package."""
    tests = ["tests/test_package.py", "tests/test_links.py", "tests/test_site.py", "tests/test_benchmarks.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    ran = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, env=elsewhere())
    assert ran.returncode == 0, ran.stdout[-4000:]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of an environment that has the wheel, and of the running one all but hooked_av.

    A .pth file adds a folder, but not what the .pth files in that folder add: so not our editable install.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = home.glob("**/site-packages")
    (packages / "running.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return programs


def elsewhere() -> dict[str, str]:
    """Our environment's variables without those that lead to the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.slow
def test_the_installed_wheel_runs_its_examples(installed, tmp_path):
    command = [str(installed / "python"), "-c", DOCTESTS]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=elsewhere(), check=True)
    package, module, attempted, failed = ran.stdout.split()[-4:]
    assert Path(package).is_relative_to(installed.parent)
    assert Path(module).is_relative_to(installed.parent)
    assert int(attempted) > 0
    assert int(failed) == 0, ran.stdout


@pytest.mark.slow
def test_the_installed_wheel_runs_the_demo(installed, tmp_path):
    command = [str(installed / "hooked-av"), "demo", "--out", "shown"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=elsewhere())
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "shown" / "report.html").stat().st_size > 10_000

"""settings.json of a folder of results: what made them. A folder takes no other settings once it holds a result."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hooked_av.analyses.result_files import plain_value
from hooked_av.datasets.whole_files import writing
from hooked_av.errors import DatasetError
from hooked_av.whole_files import part_of

SETTINGS, FAILED_FOLDER = "settings.json", "failed"
_OURS = "hooked_av"  # the version, which all settings of ours hold
_SHOWN = 300  # characters of a setting in a message


def settled(path: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A folder for results of these settings, made if it is not there; what its settings.json says.

    A folder of ours in which nothing has finished is begun anew: its settings and failures make room.

    Errors: those of `check_settings`, and `DatasetError` for a folder that cannot be written.
    """
    settings = plain(settings)
    check_settings(path, settings)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        anew = (path / SETTINGS).exists() and bool(_differences(read_settings(path), settings))
        for failed in (path / FAILED_FOLDER).glob("*.json") if anew else ():  # first: they belong to the old settings
            failed.unlink(missing_ok=True)
        _settle(path / SETTINGS, settings, anew)
    begun = read_settings(path)
    _check_same(path, begun, settings)  # another run may have begun it just now
    return begun


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Whether results of these settings may go into a folder; nothing is made yet.

    Errors: `DatasetError` that names each difference, if it holds results of other settings; for a file, for a folder
    with other things in it, and for settings that cannot be read.
    """
    with writing(path):
        if path.exists() and not path.is_dir():
            raise not_ours(path, "a file")
        if any(path.glob("[!.]*")) and not (path / SETTINGS).exists():  # in this order: another run may begin it now
            raise not_ours(path, "a folder with other things in it")
        _check_permission(path)
    if (path / SETTINGS).exists():
        begun = read_settings(path)
        if holds_results(path) or _OURS not in begun:
            _check_same(path, begun, settings)


def holds_results(path: Path) -> bool:
    """Whether a folder holds a file other than its settings and the failures."""
    files = (file.relative_to(path) for file in path.rglob("*") if not file.is_dir())
    seen = (file for file in files if not any(part.startswith(".") for part in file.parts))
    return any(file != Path(SETTINGS) and file.parts[0] != FAILED_FOLDER for file in seen)


def read_settings(path: Path) -> dict[str, Any]:
    """What a folder's settings.json says.

    Errors: `DatasetError` for a folder without one, and for one that cannot be read.
    """
    file = path / SETTINGS
    if not file.exists():
        raise not_ours(path, f"no {SETTINGS}" if path.exists() else "nothing there")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, dict):
        raise _damaged(file, f"JSON of another kind: {_short(found)}")
    return found


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(dict(settings), default=plain_value))


def not_ours(path: Path, got: str) -> DatasetError:
    """The error for what is no folder of results."""
    return DatasetError(
        f"no folder of results: {path}",
        expected="a folder of earlier results, or a new one",
        got=got,
        next_step="check the path",
    )


def _check_permission(path: Path) -> None:
    nearest = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {nearest}")


def _settle(path: Path, settings: Mapping[str, Any], anew: bool) -> None:
    """Write the settings, in place of others or unless they are there: of runs that begin at once, one writes them."""
    part = part_of(path)
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(settings, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if anew or not _linked(part, path):
            os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _linked(part: Path, path: Path) -> bool:
    """Give a whole file its name unless that is taken, which a rename cannot; whether there is one now."""
    try:
        os.link(part, path)
    except OSError:  # taken, or a disk without hard links: there, two runs that begin at once do not see each other
        return path.exists()
    return True


def _differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    begun, now = _flat(begun), _flat(now)
    return [name for name in {**begun, **now} if begun.get(name) != now.get(name)]


def _check_same(path: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differ = _differences(begun, now)
    if not differ:
        return
    named = [name for name in differ if name != "samples"] or differ  # other ids make another manifest anyway
    was, asked = ({name: _flat(settings).get(name) for name in named} for settings in (begun, now))
    raise DatasetError(
        f"{path} was begun with other settings",
        expected=", ".join(f"{name}={_short(value)}" for name, value in was.items()),
        got=", ".join(f"{name}={_short(value)}" for name, value in asked.items()),
        next_step="take another folder for these settings; to begin anew, remove this one",
    )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of the analysis and of the prompts as `arguments.width`, each by itself."""
    nested = [name for name, value in settings.items() if isinstance(value, dict)]
    inner = {f"{name}.{key}": value for name in nested for key, value in settings[name].items()}
    return {name: value for name, value in settings.items() if name not in nested} | inner


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _damaged(file: Path, got: str) -> DatasetError:
    return DatasetError(
        f"{file} cannot be read",
        expected="the settings that a run has written there",
        got=got,
        next_step=f"if it is yours, take another folder; if it was damaged, delete {file.parent} and run again",
    )

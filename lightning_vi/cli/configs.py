"""The command `configs`, and the configuration files that come with the package."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning_vi
from lightning_vi.errors import InputValueError

SUMMARY = "list, print or copy the configuration files that come with the package"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to a parser.

    Args:
        commands: The subparsers of the console script.
    """
    parser = commands.add_parser("configs", help=SUMMARY, description=SUMMARY)
    parser.add_argument("names", nargs="*", metavar="NAME", help="files such as regression/mean_field_vi; default: all")
    parser.add_argument("--output_dir", type=Path, metavar="DIR", help="folder to copy the files to")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Lists all files, prints the named ones or copies them.

    Args:
        options: The arguments of the command.

    Raises:
        FileExistsError: If a copy exists.
        ValueError: If a name is unknown.
    """
    names = [find(name) for name in options.names] or shipped_names()
    if options.output_dir is not None:
        _copy(names, options.output_dir, options.overwrite)
    elif options.names:
        _say("\n".join((folder() / name).read_text().rstrip() for name in names))
    else:
        width = max(map(len, names))
        _say("\n".join(f"{name:{width}}  {_title(folder() / name)}" for name in names))


def folder() -> Path:
    """Returns the folder of the files: that of the installed package, or that of a checkout."""
    package = Path(lightning_vi.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_names() -> list[str]:
    """Returns the names of all files, as `regression/mean_field_vi.yaml`."""
    return sorted(path.relative_to(folder()).as_posix() for path in folder().rglob("*.yaml"))


def find(name: str) -> str:
    """Returns the name of a file, which may be given without its suffix or with `configs/` before it.

    Raises:
        ValueError: If there is no such file.
    """
    shipped = _shipped(name)
    if shipped is None:
        raise InputValueError(f"NAME must be one of {shipped_names()}, got {name!r}")
    return shipped


def with_shipped_configs(args: Sequence[str]) -> list[str]:
    """Returns a command line in which a missing file after `--config` is that of the package, if it has one.

    Args:
        args: The command line.
    """
    replaced: list[str] = []
    for argument in args:
        option, separator, value = argument.partition("=")
        is_value = bool(replaced) and replaced[-1] in ("--config", "-c")
        path = argument if is_value else value if separator and option == "--config" else None
        shipped = None if path is None or Path(path).exists() or not path.endswith(".yaml") else _shipped(path)
        if path is not None and shipped is not None:
            found = str(folder() / shipped)
            sys.stderr.write(f"lightning-vi: {path} is not here; it is the file of the package, {found}\n")
            argument = argument.removesuffix(path) + found
        replaced.append(argument)
    return replaced


def _shipped(name: str) -> str | None:
    plain = name.removeprefix("configs/")
    return next((known for known in shipped_names() if plain in (known, known.removesuffix(".yaml"))), None)


def _title(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("# ")


def _copy(names: Sequence[str], target: Path, overwrite: bool) -> None:
    if not overwrite and (existing := [str(target / name) for name in names if (target / name).exists()]):
        raise FileExistsError(f"{', '.join(existing[:3])} exists already: pass --overwrite to replace it")
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder() / name, target / name)
    _say(f"{len(names)} files are in {target}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")

"""Comparisons described in a file: a configuration of a fit, or a file of its own."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, Trainer
from torch import nn

# A file may name the classes of these packages without their path: `class_path: MLP`.
import lightning_vi.backbones
import lightning_vi.datamodules
import lightning_vi.priors  # noqa: F401
from lightning_vi import methods as method_room
from lightning_vi.arguments import suggestion
from lightning_vi.compare import ShiftProtocol
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood

BUDGET = ("optimizer", "lr_scheduler", "burnin_epochs", "num_mc_samples_train", "num_mc_samples_test")
"""Options of the method of a configuration that all methods get which take them."""
NO_PART_OF_A_COMPARISON = ("logger", "log_every_n_steps")
KEYS = (
    *("data", "data_sets", "backbone", "likelihood", "trainer", "methods", "seeds", "reference", "common_options"),
    *("test_sets", "ood_sets", "split_argument", "shifts"),
)


@dataclass(frozen=True)
class Configured:
    """Makes an object from its description in a file.

    Attributes:
        kind: Base class of the object.
        spec: Class path and arguments, or the name of a class.
        split_argument: Argument of the object that gets the seed.
    """

    kind: type
    spec: Any
    split_argument: str | None = None

    def __call__(self, where: Any = None) -> Any:
        """Makes a new object.

        Args:
            where: The seed, for an object with a `split_argument`; not used by others.

        Returns:
            The object.

        Raises:
            ValueError: If the description is wrong.
        """
        spec = copy.deepcopy(self.spec)
        if self.split_argument is not None:
            spec = {"class_path": spec} if isinstance(spec, str) else spec
            spec["init_args"] = {**spec.get("init_args", {}), self.split_argument: where}
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(self.kind, "it", required=True)
        return _parsed(parser, {"it": spec}).it


def read_comparison(path: Path) -> dict[str, Any]:
    """Reads a file.

    A configuration of `lightning-vi fit` is a comparison of its method with others: they get its data, network,
    likelihood and training, and its options of the training budget. A file of a comparison has the arguments of
    `lightning_vi.compare.compare`; classes are written as in a configuration.

    Args:
        path: The file.

    Returns:
        Arguments of `compare`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key is missing or unknown, or a description is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputValueError(f"{path} is no YAML file: {error}") from error
    if not isinstance(content, Mapping):
        raise InputValueError(f"{path} must be a configuration of a fit or of a comparison")
    found = _of_fit(content) if "model" in content else dict(content)
    if unknown := [key for key in found if key not in KEYS]:
        raise InputValueError(f"{path} has the unknown key {unknown[0]!r}{suggestion(unknown[0], KEYS)}")
    for key in ("backbone", "likelihood"):
        if key not in found:
            raise InputValueError(f"{path} has no {key}")
    if ("data" in found) == ("data_sets" in found):
        raise InputValueError(f"{path} must have either data, one data set, or data_sets, several by name")
    methods, options = _methods(found.get("methods", []), found.get("options", {}))
    split = found.get("split_argument")
    data = {name: _data(spec, split) for name, spec in found.get("data_sets", {"": found.get("data")}).items()}
    sets = {key: {name: _data(spec) for name, spec in found.get(key, {}).items()} for key in ("test_sets", "ood_sets")}
    chosen = {key: found[key] for key in ("seeds", "reference") if key in found}
    common = found.get("common_options", {})
    return {
        "methods": methods,
        "data": data,
        "backbone": Configured(nn.Module, found["backbone"]),
        "likelihood": Configured(Likelihood, found["likelihood"]),
        "trainer": _arguments(Trainer, found.get("trainer", {})),
        "options": options,
        "common_options": _arguments(method_room.MeanFieldVI, common),
        "shifts": _shifts(found.get("shifts", False)),
        **sets,
        **chosen,
    }


def _shifts(spec: Any) -> bool | ShiftProtocol:
    """True or False, or the options of a protocol."""
    if isinstance(spec, bool):
        return spec
    names = [field.name for field in fields(ShiftProtocol)]
    if not isinstance(spec, Mapping):
        raise InputValueError(f"shifts must be true, false or options of a ShiftProtocol, {names}, got {spec!r}")
    if unknown := [name for name in spec if name not in names]:
        raise InputValueError(f"shifts has the unknown option {unknown[0]!r}{suggestion(str(unknown[0]), names)}")
    return ShiftProtocol(**spec)


def _of_fit(content: Mapping[str, Any]) -> dict[str, Any]:
    model = content["model"]
    model = {"class_path": model} if isinstance(model, str) else model
    options = dict(model.get("init_args", {}))
    name = str(model["class_path"]).rpartition(".")[2]
    if "method" in options:
        raise InputValueError(
            f"the configuration is that of the calibration {name}: give that of its method, and --methods "
            f"'METHOD + {name}'"
        )
    found = {key: options.pop(key) for key in ("backbone", "likelihood") if key in options}
    trainer = {key: value for key, value in content.get("trainer", {}).items() if key not in NO_PART_OF_A_COMPARISON}
    return {
        **found,
        "data": content.get("data"),
        "trainer": trainer,
        "methods": {name: {"class_path": name, "init_args": options}},
        "common_options": {key: options[key] for key in BUDGET if key in options},
    }


def _methods(specs: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Methods by name, and the options of each."""
    if not isinstance(specs, Mapping):
        specs = dict.fromkeys(specs)
    methods: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for name, spec in specs.items():
        spec = {} if spec is None else {"class_path": spec} if isinstance(spec, str) else spec
        methods[name] = str(spec.get("class_path", name)).removeprefix("lightning_vi.")
        kind = getattr(method_room, methods[name].partition("+")[0].strip(), None)
        given = {**spec.get("init_args", {}), **options.get(name, {})}
        if kind is not None and given:
            found[name] = _arguments(kind, given)
    return methods, found


def _data(spec: Any, split_argument: str | None = None) -> Any:
    configured = Configured(LightningDataModule, spec, split_argument)
    return configured() if split_argument is None else configured


def _arguments(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the arguments of a class to their types, without defaults."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "it", instantiate=False, skip={"backbone", "likelihood"})
    parsed = _parsed(parser, {"it": dict(given)}).it
    return {name: parsed[name] for name in given}


def _parsed(parser: ArgumentParser, content: Mapping[str, Any]) -> Any:
    try:
        return parser.instantiate_classes(parser.parse_object(dict(content)))
    except Exception as error:
        if (cause := _input_error(error)) is not None:
            raise cause from error
        raise InputValueError(" ".join(str(error).split())) from error


def _input_error(error: BaseException | None) -> InputValueError | None:
    while error is not None and not isinstance(error, InputValueError):
        error = error.__cause__ or error.__context__
    return error


def choose(arguments: dict[str, Any], names: Iterable[str]) -> None:
    """Replaces the methods of a comparison, and keeps the options of those that stay.

    Args:
        arguments: Arguments of `compare`, which are changed.
        names: The methods.
    """
    known = arguments["methods"]
    arguments["methods"] = {name: known.get(name, name) for name in names}
    arguments["options"] = {name: each for name, each in arguments["options"].items() if name in arguments["methods"]}

"""Copies the folder `configs` into the package when it is built; all else is in `pyproject.toml`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Builds the package with the configuration files as `lightning_vi/configs`."""

    def run(self) -> None:
        """Copies the files after the modules; a package that is installed in place has the checkout."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "lightning_vi", "configs")
            shutil.copytree("configs", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sh"))


setup(cmdclass={"build_py": BuildWithConfigs})

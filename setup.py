"""Packages of the wheel: every package of the library, and `Resources/` as one more (see pyproject.toml)."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["VFMTransferLib", "VFMTransferLib.*"]), "VFMTransferLib.resources"])

"""Only what pyproject.toml cannot say: the configs lie beside the package and are installed inside it, as ovdense/configs."""
from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ovdense*"]), "ovdense.configs", "ovdense.configs._base_"],
    package_dir={"ovdense.configs": "configs", "ovdense.configs._base_": "configs/_base_"},
)

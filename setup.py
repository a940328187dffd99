"""Packaging. detectron2 is not among the requirements: the name of its distribution differs from
install to install. Importing transfer_maskrcnn without it says how to get it.

The lower bounds of torch, torchvision and numpy are those that the suite was run with
(requirements/py310-torch23.txt); requirements/runtime.txt has the newest."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"


def version() -> str:
    """The version, read as text: importing the package would need detectron2."""
    text = (ROOT / "transfer_maskrcnn" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("transfer_maskrcnn/__init__.py has no line '__version__ = ...'")
    return match.group(1)


class BuildWithConfigs(build_py):
    """Puts configs/ into the package; what is installed editable reads it where it is."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "transfer_maskrcnn", "configs")
            self.copy_tree(str(ROOT / "configs"), str(target))


setup(
    name="transfer-maskrcnn",
    version=version(),
    description="Fine-tunes a pretrained Mask R-CNN of detectron2 on your own dataset",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    keywords="mask-rcnn detectron2 instance-segmentation transfer-learning fine-tuning coco",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["transfer_maskrcnn", "transfer_maskrcnn.*"]),
    package_data={"transfer_maskrcnn": ["py.typed", "**/*.yaml", "**/*.html"]},
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["transfer-maskrcnn = transfer_maskrcnn.__main__:main"]},
    # Optional: without a C compiler, or Python.h, torchvision's RoIAlign is used.
    ext_modules=[
        Extension(
            "transfer_maskrcnn.modeling._roi_align",
            ["transfer_maskrcnn/modeling/roi_align.c"],
            depends=["transfer_maskrcnn/modeling/roi_weights.h"],
            libraries=["m"],
            extra_compile_args=["-O3", "-Wno-psabi"],
            optional=True,
        )
    ],
    python_requires=">=3.10,<3.14",
    install_requires=[
        "fvcore>=0.1.5",  # as iopath: the sal-detectron2 wheel needs it and does not say so
        # pycocotools does its work, slower, where there is no wheel of it
        "hotcoco>=1.3; platform_machine in 'x86_64 AMD64 aarch64 arm64'",
        "iopath>=0.1.9",
        "jinja2>=3.0",
        "contourpy>=1.0.1",
        "matplotlib>=3.6",
        "numpy>=1.26,<3",
        # not opencv-python: the same module, but it needs libGL; each breaks the other
        "opencv-python-headless>=4.5",
        "pillow>=9.5",
        "pycocotools>=2.0.6",
        "pyyaml>=6.0",
        "safetensors>=0.4",
        "shapely>=2.0",
        "tabulate>=0.8",
        "torch>=2.3,<3",
        "torchvision>=0.18,<1",
        "tqdm>=4.60",
    ],
    extras_require={
        # what a wheel of detectron2 that is installed without its dependencies needs beside ours
        "detectron2": [
            "cloudpickle>=2.0",
            "hydra-core>=1.1",
            "omegaconf>=2.1,<2.4",
            "packaging",
            "setuptools<81",  # its model_zoo imports pkg_resources
            "tensorboard>=2.10",
            "termcolor>=1.1",
            "yacs>=0.1.8",
        ],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings-python>=1.10"],
        "dev": [
            "hypothesis>=6.100",
            "mypy>=1.10",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.5",
            "types-PyYAML",
            "types-tabulate",
            "types-tqdm",
        ],
    },
)

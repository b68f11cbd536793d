"""How `pip install .` builds and installs daso_tf."""

from pathlib import Path

from setuptools import find_packages, setup

TENSORFLOW = ">=2.15.1"

setup(
    name="daso_tf",
    version="0.1.0",
    description="Long-tailed semi-supervised image classification with DASO in TensorFlow",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["daso_tf", "daso_tf.*"]),
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
        "tensorboard",  # tf.summary needs it; newer TensorFlow releases do not bring it along
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
        "cuda": [f"tensorflow[and-cuda]{TENSORFLOW}"],
        "safetensors": ["safetensors"],  # for daso_tf.convert to read such files
        "test": ["hypothesis", "pytest", "pytest-xdist", "ruff>=0.17,<0.18", "safetensors"],
    },
)

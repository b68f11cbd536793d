"""Compares the two programs of the strong views: the one for a CPU and the one for a GPU.

    python benchmarks/augment_programs.py

Compiles both with XLA on the device of this machine, reads the compiled programs, and prints a
Markdown table: the loops and branches that depend on data, and per call the fusions that run, the
bytes that they read and write, and the time. Each instruction reads its operands and writes its
result once; of an operand that is only gathered or sliced, and of a result that is only updated,
what is used counts. Loops that depend on data count with their mean number of rounds, branches with
the mean over all of them.
"""

import argparse
import math
import re
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import numpy as np
import tensorflow as tf

from daso_tf.augment import OPS, RandAugment
from daso_tf.platform import cores

BYTES = {"pred": 1, "8": 1, "16": 2, "32": 4, "64": 8}
PARTLY_READ = {"gather", "dynamic-slice", "slice"}
PARTLY_WRITTEN = {"scatter": 2, "dynamic-update-slice": 1}  # the operand with what is written
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}


class Instruction(NamedTuple):
    """One line of a program."""

    kind: str
    size: int  # bytes of the result
    operands: list[str]
    text: str


class Program:
    """The text that XLA writes about a compiled program, and what it costs."""

    def __init__(self, text: str, rounds: float):
        self.rounds = rounds  # of a loop that depends on data
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, str] = {}
        for line in text.splitlines():
            if head := re.match(r"(ENTRY )?%(\S+) \(.*\{$", line):
                self.current = head[2]
                self.entry = self.current
                self.computations[self.current] = {}
            elif found := re.match(
                r"\s+(ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z-]+)\((.*?)\)(?:,|$)", line
            ):
                root, name, shape, kind, operands = found.groups()
                listed = re.findall(r"%([^\s,)]+)", operands)
                self.computations[self.current][name] = Instruction(kind, size(shape), listed, line)
                if root:
                    self.roots[self.current] = name

    def executed(self, computation: str = "", times: float = 1) -> Iterator[tuple]:
        """Yields instructions with their computation and how often a call runs them."""
        computation = computation or self.entry
        for instruction in self.computations[computation].values():
            yield computation, instruction, times
            called = re.findall(r"(?:to_apply|body)=%([\w.-]+)", instruction.text)
            branches = re.findall(r"branch_computations=\{(.*?)\}", instruction.text)
            if instruction.kind == "call":
                yield from self.executed(called[0], times)
            elif instruction.kind == "while":
                known = re.search(r'known_trip_count":\{"n":"(\d+)"', instruction.text)
                yield from self.executed(
                    called[0], times * (int(known[1]) if known else self.rounds)
                )
            elif branches:
                names = branches[0].replace("%", "").split(", ")
                for name in names:
                    yield from self.executed(name, times / len(names))

    def moved(self, computation: str, instruction: Instruction) -> int:
        """Returns the bytes that an instruction reads and writes."""
        if instruction.kind in FREE or instruction.kind == "call":
            return 0
        values = self.computations[computation]
        body, root = {"": instruction}, instruction
        sizes = {name: values[name].size for name in instruction.operands}
        inside = {name: name for name in instruction.operands}
        if instruction.kind == "fusion":
            called = re.search(r"calls=%([\w.-]+)", instruction.text)[1]
            body = self.computations[called]
            root = body[self.roots[called]]
            parameters = {
                int(re.search(r"parameter\((\d+)\)", i.text)[1]): name
                for name, i in body.items()
                if i.kind == "parameter"
            }
            inside = {parameters[n]: name for n, name in enumerate(instruction.operands)}
        read = 0
        for name, outside in inside.items():
            users = [i for i in body.values() if name in i.operands]
            if all(i.kind in PARTLY_READ and i.operands[0] == name for i in users):
                read += min(sizes[outside], sum(i.size for i in users))
            elif not all(i.kind in PARTLY_WRITTEN and i.operands[0] == name for i in users):
                read += sizes[outside]
        if root.kind in PARTLY_WRITTEN:
            update = root.operands[PARTLY_WRITTEN[root.kind]]
            return read + (body[update].size if update in body else sizes[update])
        return read + instruction.size


def size(shape: str) -> int:
    """Returns the bytes of an array or a tuple of arrays, such as `u8[128,32]{1,0}`."""
    arrays = re.findall(r"(pred|[a-z]+?(?:8|16|32|64))\[([\d,]*)\]", shape)
    return sum(
        BYTES[re.sub(r"^[a-z]+(?=\d)", "", kind)] * math.prod(map(int, filter(None, n.split(","))))
        for kind, n in arrays
    )


def mean_rounds(batch: int) -> float:
    """Returns the mean number of chunks of the images that have drawn one operation each."""
    shares = [*[1 / 2 / len(OPS)] * (len(OPS) - 1), 1 / 2 + 1 / 2 / len(OPS)]
    counts = np.random.default_rng(0).multinomial(batch, shares, size=10_000)[:, :-1]
    return float(np.ceil(counts / max(batch // 32, 1)).sum(axis=1).mean())


def row(kind: str, images: tf.Tensor, rounds: int) -> str:
    """Returns a row of the table."""
    with mock.patch.object(cores, "gpus", lambda: int(kind == "GPU")):
        layer = RandAugment()
        views = tf.function(lambda images, seed: layer(images, seed=seed), jit_compile=True)
        seed = tf.constant([0, 1])
        start = time.perf_counter()
        views(images, seed).numpy()
        first = time.perf_counter() - start
        text = views.experimental_get_compiler_ir(images, seed)(stage="optimized_hlo")
    program = Program(text, mean_rounds(len(images)))
    executed = list(program.executed())
    waits = [
        i
        for _, i, _ in executed
        if i.kind == "conditional" or (i.kind == "while" and "known_trip_count" not in i.text)
    ]
    fusions = sum(times for _, i, times in executed if i.kind == "fusion")
    moved = sum(program.moved(where, i) * times for where, i, times in executed)
    seconds = []
    for number in range(rounds):
        start = time.perf_counter()
        views(images, tf.constant([0, number])).numpy()
        seconds.append(time.perf_counter() - start)
    pixels = images.shape[1]
    return (
        f"| {pixels}x{pixels} | for a {kind} | {len(waits)} | {fusions:.0f} | {moved / 1e6:.1f} | "
        f"{first:.1f} | {1e3 * statistics.median(seconds):.1f} |"
    )


def main() -> None:
    """Parses the command line, compiles and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="images per call")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[32, 96], help="sides of the images in pixels"
    )
    parser.add_argument("--rounds", type=int, default=15, help="number of measurements")
    options = parser.parse_args()
    device = tf.config.get_visible_devices()[-1].device_type
    print(f"Compiled for the {device}, TensorFlow {tf.__version__}; {options.batch} images.\n")
    print(
        "| pixels | program | loops and branches that depend on data | fusions | MB moved |", end=""
    )
    print(" first call, s | ms |\n|---|---|---|---|---|---|---|")
    for pixels in options.sizes:
        shape = [options.batch, pixels, pixels, 3]
        images = tf.constant(np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8))
        for kind in ("CPU", "GPU"):
            print(row(kind, images, options.rounds), flush=True)


if __name__ == "__main__":
    main()

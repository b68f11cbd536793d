"""Measures how many images per second a frozen encoder computes, in inference.

    python benchmarks/encoder_forward.py
    python benchmarks/encoder_forward.py --encoder=resnet_50 --resolution=224 --batch=16

A frozen encoder has BatchNorm folded into its convolutions (`daso_tf.encoders.folded`). The first
row is the encoder as it is built. The rows take turns, a batch at a time.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from daso_tf import encoders
from daso_tf.encoders import folded


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="efficientnet_lite0", help="as for daso-tf train")
    parser.add_argument("--resolution", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64, 256], help="images")
    parser.add_argument("--turns", type=int, default=15, help="batches of each row")
    arguments = parser.parse_args()

    mean = std = (0.5, 0.5, 0.5)
    encoder = encoders.build(arguments.encoder, arguments.resolution, mean, std)
    print("| encoder | batch | images/s (quartiles) | of the first row |")
    print("|---|---|---|---|")
    for batch in arguments.batch:
        images = tf.random.stateless_normal([batch, *[arguments.resolution] * 2, 3], (0, 1))
        seconds = {}
        forms = {"as built": encoder, "folded": folded(encoder)}
        functions = {
            name: tf.function(lambda x, of=form: of(x, training=False))
            for name, form in forms.items()
        }
        for _ in range(arguments.turns + 2):
            for name, function in functions.items():
                start = time.perf_counter()
                function(images).numpy()
                seconds.setdefault(name, []).append(time.perf_counter() - start)
        first = np.median(seconds["as built"][2:])
        for name, of_form in seconds.items():
            low, median, high = batch / np.percentile(of_form[2:], (75, 50, 25))
            ratio = median * first / batch
            print(
                f"| {name} | {batch} | {median:.0f} ({low:.0f}-{high:.0f}) | {ratio:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

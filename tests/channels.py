"""Channel statistics of the learners in the tests, as keyword arguments."""

STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}

# Files and numbers that were recorded before version 0.2 have these.
CIFAR_10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}

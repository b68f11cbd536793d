"""FixMatch + DASO, written plainly in PyTorch, as an independent check of the library.

It has three commands. They need PyTorch, NumPy and Pillow, and use nothing of the library:

    python benchmarks/pytorch_reference.py record OUT.npz --classes 7 --width 1
    python benchmarks/pytorch_reference.py verify TRACE.npz
    python benchmarks/pytorch_reference.py train ARRAYS.npz --depth 28 --steps 3000

`record` trains a network for some steps. Then it writes a trace of the next steps, which
`python -m daso_tf.replay OUT.npz` repeats. `verify` repeats a trace in this program. `train` trains
on the arrays of a file: `labeled_images`, `labeled_labels`, `unlabeled_images`, `unlabeled_labels`,
`test_images` and `test_labels` (uint8 images, N x H x W x 3). `record` uses such a file if --arrays
names one; otherwise it draws smooth random pictures.

Source: Oh, Kim, Kweon, "DASO: Distribution-Aware Semantics-Oriented Pseudo-label for Imbalanced
Semi-Supervised Learning", CVPR 2022.
"""

import argparse
import copy
import dataclasses
import json
import random
import sys
from collections import OrderedDict, defaultdict

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import nn


@dataclasses.dataclass
class Settings:
    """The values in the `config` of a trace, with the names that they have there."""

    num_classes: int = 10
    batch: int = 8
    mu: int = 2
    width: int = 1
    queue_size: int = 256
    conf: float = 0.95
    proto_temp: float = 0.05
    dist_temp: float = 1.5
    dist_aware: bool = True
    alpha: float = 0.5
    align_weight: float = 1.0
    la_tau: float = 0.0
    lr: float = 0.03
    steps: int = 8
    pretrain: int = 3
    period: int = 2
    mean: tuple = (0.4914, 0.4822, 0.4465)
    std: tuple = (0.2471, 0.2435, 0.2616)
    ema_decay: float = 0.999
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = True
    labeled_counts: tuple = ()


# ---------------------------------------------------------------- network


class Block(nn.Module):
    """A pre-activation residual block; in the first block, the shortcut is activated, too."""

    def __init__(self, inputs, outputs, stride, first):
        super().__init__()
        activate = [nn.BatchNorm2d(inputs), nn.LeakyReLU(0.1)]
        self.pre_act = nn.Sequential(*activate) if first else nn.Identity()
        self.layer = nn.Sequential(
            *([] if first else activate),
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.1),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        same = inputs == outputs and stride == 1
        self.identity = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):  # noqa: D102
        x = self.pre_act(x)
        return self.layer(x) + self.identity(x)


def wide_resnet(depth, width, num_classes):
    """Returns WRN-depth-width with a classifier; the parameters are named as in a trace."""
    widths = [16, 16 * width, 32 * width, 64 * width]
    parts = OrderedDict(init_conv=nn.Conv2d(3, 16, 3, 1, 1, bias=False))
    for unit in (1, 2, 3):
        blocks = [Block(widths[unit - 1], widths[unit], min(unit, 2), first=unit == 1)]
        for _ in range((depth - 4) // 6 - 1):
            blocks.append(Block(widths[unit], widths[unit], 1, first=False))
        parts[f"unit{unit}"] = nn.Sequential(*blocks)
    parts["unit4"] = nn.Sequential(
        nn.BatchNorm2d(widths[3]), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    for module in nn.Sequential(parts).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")
    linear = nn.Linear(widths[3], num_classes)
    nn.init.xavier_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    classifier = nn.Sequential(OrderedDict(classifier=linear))
    return nn.Sequential(OrderedDict(encoder=nn.Sequential(parts), classifier=classifier))


def weights_of(network):
    """Returns all parameters and BatchNorm statistics by name."""
    state = network.state_dict().items()
    return {name: value for name, value in state if "num_batches_tracked" not in name}


# ---------------------------------------------------------------- learner


class DASO:
    """The student, its moving average, the feature queues and the pseudo-label distribution."""

    def __init__(self, network, settings, dtype=torch.float64):
        self.settings, self.dtype, self.step_number = settings, dtype, 0
        self.student = network.to(dtype).train()
        self.ema = copy.deepcopy(self.student)
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
        features = self.student.classifier.classifier.in_features
        self.queues = [torch.zeros(0, features, dtype=dtype) for _ in range(settings.num_classes)]
        self.counted = torch.zeros(settings.num_classes, dtype=dtype)
        self.in_force = torch.zeros(settings.num_classes, dtype=dtype)

    def view(self, images):
        """Returns uint8 images as a normalized channels-first tensor."""
        mean, std = (
            torch.tensor(v, dtype=self.dtype) for v in (self.settings.mean, self.settings.std)
        )
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.dtype) / 255
        return ((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def update_prototypes(self, labeled, labels):
        """Queues averaged-network features; prototypes are the queues' means (section 3.2)."""
        self.ema.train()  # batch statistics
        for feature, label in zip(self.ema.encoder(labeled), labels.tolist(), strict=True):
            queue = torch.cat([self.queues[label], feature[None]])
            self.queues[label] = queue[-self.settings.queue_size :]
        return torch.stack(
            [q.mean(0) if len(q) else torch.zeros(q.shape[1]).to(q) for q in self.queues]
        )

    def similarity(self, features, prototypes):
        """Returns the logits of semantic pseudo-labels (section 3.2); 0 for an absent class."""
        return F.normalize(features) @ F.normalize(prototypes).T / self.settings.proto_temp

    def blend(self, linear, semantic):
        """Returns the target (section 3.3): more semantic for classes predicted more often."""
        settings = self.settings
        if not settings.dist_aware:
            return (1 - settings.alpha) * linear + settings.alpha * semantic
        if self.in_force.sum() == 0:
            return linear
        relative = (self.in_force / self.in_force.max()) ** (1 / settings.dist_temp)
        weight = relative[linear.argmax(1)][:, None]
        return (1 - weight) * linear + weight * semantic

    def step(self, labeled, labels, weak, strong):
        """Trains one step on uint8 views; returns what a trace records."""
        settings, semantic_on = self.settings, self.step_number >= self.settings.pretrain
        labels = torch.from_numpy(labels).long()
        labeled, weak, strong = map(self.view, (labeled, weak, strong))
        prototypes = self.update_prototypes(labeled, labels)

        features = self.student.encoder(torch.cat([labeled, weak, strong]))
        logits = self.student.classifier(features)
        sizes = [len(labeled), len(weak), len(strong)]
        _, weak_features, strong_features = features.split(sizes)
        labeled_logits, weak_logits, strong_logits = logits.split(sizes)

        if settings.la_tau:
            prior = torch.tensor(settings.labeled_counts, dtype=self.dtype)
            labeled_logits = labeled_logits + settings.la_tau * torch.log(prior / prior.sum())
        linear = final = weak_logits.detach().softmax(1)
        losses = {"loss_cls": F.cross_entropy(labeled_logits, labels)}
        semantic = None
        if semantic_on:
            semantic = self.similarity(weak_features.detach(), prototypes).softmax(1)
            alignment = F.cross_entropy(self.similarity(strong_features, prototypes), semantic)
            losses["loss_assign"] = settings.align_weight * alignment
            final = self.blend(linear, semantic)
        confidence, final_label = final.max(1)
        mask = (confidence >= settings.conf).to(self.dtype)
        per_image = F.cross_entropy(strong_logits, final_label, reduction="none")
        losses["loss_cons"] = (mask * per_image).sum() / len(weak)

        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        squares = [parameter.grad.square().sum() for parameter in self.student.parameters()]
        self.optimizer.step()
        self.update_ema()
        record = {name: loss.item() for name, loss in losses.items()}
        record |= {
            "grad_norm": torch.stack(squares).sum().sqrt().item(),
            "linear_pl": linear.argmax(1),
            "semantic_pl": semantic.argmax(1) if semantic_on else torch.full_like(final_label, -1),
            "final_pl": final_label,
            "final_confidence": confidence,
            "prototypes": prototypes,
            "pl_counts": self.in_force,
        }
        self.count(final_label)
        # How close the step came to another decision. Rounding must not be able to change one.
        gaps = [t.topk(2).values for t in (linear, final, semantic) if t is not None]
        margins = [(g[:, 0] - g[:, 1]).min() for g in gaps]
        margins.append((confidence - settings.conf).abs().min())
        return record, min(margins).item()

    @torch.no_grad()
    def update_ema(self):
        """Updates the average of weights and BatchNorm statistics; the decay is small at first."""
        decay = min(1 - 1 / (self.step_number + 1), self.settings.ema_decay)
        student = weights_of(self.student)
        for name, value in weights_of(self.ema).items():
            value.mul_(decay).add_(student[name], alpha=1 - decay)

    def count(self, labels):
        """Counts all final pseudo-labels, masked or not; the counts are used in the next period."""
        self.counted += torch.bincount(labels, minlength=self.settings.num_classes)
        self.step_number += 1
        if self.step_number % self.settings.period == 0:
            self.in_force, self.counted = self.counted, torch.zeros_like(self.counted)

    @torch.no_grad()
    def ema_logits(self, images):
        """Returns the logits of the averaged network in inference mode, for uint8 images."""
        self.ema.eval()
        parts = np.array_split(images, -(-len(images) // 500))
        return torch.cat([self.ema(self.view(part)) for part in parts]).numpy()


# ---------------------------------------------------------------- views and batches


def enhance(kind):
    """Returns one of Pillow's enhancements as a function of an image and a level."""
    return lambda image, level: kind(image).enhance(level / 10 * 0.9 + 0.05)


def affine(coefficients, unit):
    """Returns a shear or a translation by `unit(level, image size)` in a random direction."""

    def operation(image, level):
        amount = random.choice((-1, 1)) * unit(level, image.width)
        return image.transform(image.size, Image.Transform.AFFINE, coefficients(amount))

    return operation


OPERATIONS = (
    lambda image, _: ImageOps.autocontrast(image),
    lambda image, _: ImageOps.equalize(image),
    lambda image, _: image,
    enhance(ImageEnhance.Brightness),
    enhance(ImageEnhance.Color),
    enhance(ImageEnhance.Contrast),
    enhance(ImageEnhance.Sharpness),
    lambda image, level: ImageOps.posterize(image, int(level / 10 * 4) + 4),
    lambda image, level: ImageOps.solarize(image, 256 - int(level / 10 * 256)),
    lambda image, level: image.rotate(random.choice((-1, 1)) * int(level / 10 * 30)),
    affine(lambda v: (1, v, 0, 0, 1, 0), lambda level, _: level / 10 * 0.3),
    affine(lambda v: (1, 0, 0, v, 1, 0), lambda level, _: level / 10 * 0.3),
    affine(lambda v: (1, 0, v, 0, 1, 0), lambda level, size: int(level / 10 * 0.3 * size)),
    affine(lambda v: (1, 0, 0, 0, 1, v), lambda level, size: int(level / 10 * 0.3 * size)),
)


def weak_view(image):
    """Makes a weak view: reflect padding by an eighth, random crop, random horizontal flip."""
    height, width = image.shape[:2]
    pad = [int(height / 8), int(width / 8)]
    top, left = (random.randint(0, 2 * p) for p in pad)
    image = np.pad(image, [(p, p) for p in pad] + [(0, 0)], mode="reflect")
    image = image[top : top + height, left : left + width]
    return image[:, ::-1] if random.random() < 0.5 else image


def strong_view(image):
    """Makes a strong view: a weak view, RandAugment, cutout."""
    image = Image.fromarray(np.ascontiguousarray(weak_view(image)))
    for operation in random.choices(OPERATIONS, k=2):
        if random.random() < 0.5:
            image = operation(image, random.randint(1, 9))
    x0, y0 = (int(max(0, random.uniform(0, size) - 8)) for size in image.size)
    x1, y1 = (int(min(size, low + 16)) for size, low in zip(image.size, (x0, y0), strict=True))
    ImageDraw.Draw(image).rectangle((x0, y0, x1, y1), (127, 127, 127))
    return np.asarray(image)


def resized(images, size):
    """Resizes views to the size that the network sees, bilinear with antialiasing."""
    if images[0].shape[:2] == (size, size):
        return np.stack(images)
    shape = (size, size)
    pictures = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
    return np.stack([np.asarray(p.resize(shape, Image.Resampling.BILINEAR)) for p in pictures])


def batches(arrays, settings, resolution):
    """Yields (labeled, labels, weak, strong, unlabeled labels) forever, shuffled in each pass."""

    def endless(count):
        while True:
            yield from np.random.permutation(count)

    streams = {part: endless(len(arrays[part + "_images"])) for part in ("labeled", "unlabeled")}
    while True:
        chosen_labeled = [next(streams["labeled"]) for _ in range(settings.batch)]
        chosen_unlabeled = [next(streams["unlabeled"]) for _ in range(settings.batch * settings.mu)]
        labeled = resized(
            [weak_view(i) for i in arrays["labeled_images"][chosen_labeled]], resolution
        )
        unlabeled = arrays["unlabeled_images"][chosen_unlabeled]
        weak = resized([weak_view(i) for i in unlabeled], resolution)
        strong = resized([strong_view(i) for i in unlabeled], resolution)
        labels = [
            arrays["labeled_labels"][chosen_labeled],
            arrays["unlabeled_labels"][chosen_unlabeled],
        ]
        yield labeled, labels[0].astype(np.int32), weak, strong, labels[1].astype(np.int32)


def smooth_pictures(num_classes, size, head=20, imbalance=10.0):
    """Returns long-tailed arrays of smooth random pictures: blobs of the class and random blobs."""
    decay = imbalance ** (-np.arange(num_classes) / (num_classes - 1))
    blobs = np.random.uniform(0, 255, (num_classes, 4, 4, 3))
    arrays = {}
    for part, counts in (
        ("labeled", (head * decay).astype(int)),
        ("unlabeled", (4 * head * decay).astype(int)),
        ("test", np.full(num_classes, -(-32 // num_classes))),
    ):
        labels = np.repeat(np.arange(num_classes), counts)
        grids = (blobs[labels] + np.random.uniform(0, 255, (len(labels), 4, 4, 3))) / 2
        pictures = [Image.fromarray(grid.astype(np.uint8)) for grid in grids]
        arrays[part + "_labels"] = labels
        arrays[part + "_images"] = np.stack(
            [np.asarray(p.resize((size, size), Image.Resampling.BICUBIC)) for p in pictures]
        )
    return arrays


# ---------------------------------------------------------------- commands


def stored(value):
    """Returns a quantity in the type that a trace has."""
    if isinstance(value, float):
        return np.float64(value)
    return value.numpy().astype(np.float32 if value.is_floating_point() else np.int32)


def record(args, settings):
    """Writes a trace of a network that was trained on other batches before."""
    batch_stream, arrays = open_arrays(args, settings)
    network = wide_resnet(args.depth, settings.width, settings.num_classes)
    warm = DASO(network, dataclasses.replace(settings, lr=0.03, pretrain=args.warmup))
    for _ in range(args.warmup):
        warm.step(*next(batch_stream)[:4])
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())  # exact in float32, and half of each number compresses away
    learner = DASO(network, settings)
    trace = {"config": json.dumps(dataclasses.asdict(settings))}
    trace |= {f"init/{name}": stored(v) for name, v in weights_of(network).items()}
    for step in range(settings.steps):
        names = ("labeled", "labels", "weak", "strong", "unlabeled_labels")
        batch = dict(zip(names, next(batch_stream), strict=True))
        quantities, margin = learner.step(*list(batch.values())[:4])
        if margin < args.margin:
            sys.exit(f"step {step} is {margin:.1e} from another decision; use another --seed")
        batch |= {name: stored(value) for name, value in quantities.items()}
        trace |= {f"step{step:03d}/{name}": value for name, value in batch.items()}
        counts = np.bincount(batch["labels"], minlength=settings.num_classes)
        confident = (batch["final_confidence"] >= settings.conf).sum()
        changed = (batch["final_pl"] != batch["linear_pl"]).sum()
        print(
            f"step {step}: margin {margin:.1e}, a class has up to {counts.max()} images, "
            f"{(counts == 0).sum()} have none, {len(set(batch['final_pl']))} pseudo-labels, "
            f"{changed} changed by the blend, {confident} confident"
        )
    chosen = np.random.permutation(len(arrays["test_images"]))[:32]
    images = resized(list(arrays["test_images"][chosen]), args.resolution)
    trace |= {f"final/{name}": stored(v) for name, v in weights_of(network).items()}
    trace |= {"eval/images": images, "eval/labels": arrays["test_labels"][chosen].astype(np.int32)}
    trace["eval/ema_logits"] = learner.ema_logits(images).astype(np.float32)
    np.savez_compressed(args.path, **trace)


def verify(args):
    """Repeats a trace and prints the deviation of each quantity; True if all are below 1e-4."""
    trace = np.load(args.path, allow_pickle=False)
    config = json.loads(str(trace["config"]))
    fields = [field.name for field in dataclasses.fields(Settings)]
    settings = Settings(**{name: config[name] for name in fields})
    init, final = (
        {name[len(part) :]: trace[name] for name in trace.files if name.startswith(part)}
        for part in ("init/", "final/")
    )
    depth = 4 + 6 * len({name.split(".")[2] for name in init if name.startswith("encoder.unit2.")})
    network = wide_resnet(depth, settings.width, settings.num_classes)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in init.items()}, strict=False)
    learner = DASO(network, settings)
    difference, largest = defaultdict(float), defaultdict(float)

    def compare(name, found, reference):
        difference[name] = max(difference[name], np.abs(found - reference).max())
        largest[name] = max(largest[name], np.abs(reference).max())

    for step in range(settings.steps):
        inputs = [trace[f"step{step:03d}/{n}"] for n in ("labeled", "labels", "weak", "strong")]
        for name, value in learner.step(*inputs)[0].items():
            compare(name, stored(value), trace[f"step{step:03d}/{name}"])
    compare("ema_logits", learner.ema_logits(trace["eval/images"]), trace["eval/ema_logits"])
    for name, value in weights_of(network).items():
        kind = "statistics" if "running" in name else "parameters"
        difference[kind] += np.square(value.numpy() - final[name]).sum()
        largest[kind] += np.square(final[name].astype(np.float64) - init[name]).sum()
    for kind in ("statistics", "parameters"):
        difference[kind], largest[kind] = difference[kind] ** 0.5, largest[kind] ** 0.5
    deviations = {name: difference[name] / (largest[name] or 1) for name in difference}
    for name, deviation in deviations.items():
        print(f"{name:18}{deviation:10.2e}")
    return max(deviations.values()) < 1e-4


def train(args, settings):
    """Trains from random weights and prints the test accuracies of the averaged network."""
    batch_stream, arrays = open_arrays(args, settings)
    network = wide_resnet(args.depth, settings.width, settings.num_classes)
    learner = DASO(network, settings, torch.float32)
    images, labels = resized(list(arrays["test_images"]), args.resolution), arrays["test_labels"]
    accuracies, correct = [], []
    for step in range(1, settings.steps + 1):
        *inputs, truth = next(batch_stream)
        quantities, _ = learner.step(*inputs)
        correct.append((quantities["final_pl"].numpy() == truth).mean())
        if step % args.evaluate_every == 0:
            hits = learner.ema_logits(images).argmax(1) == labels
            balanced = np.mean([hits[labels == k].mean() for k in range(settings.num_classes)])
            accuracies.append((hits.mean(), balanced))
            print(
                f"step {step}: accuracy {hits.mean():.4f}, balanced {balanced:.4f}, "
                f"pseudo-labels right {np.mean(correct):.4f}, "
                f"loss {sum(v for k, v in quantities.items() if k.startswith('loss')):.4f}",
                flush=True,
            )
            correct = []
    median, balanced = np.median(accuracies[-20:], axis=0)
    print(f"median of the last {len(accuracies[-20:])}: {median:.4f}, balanced {balanced:.4f}")


def open_arrays(args, settings):
    """Seeds all generators and returns the batches and the arrays."""
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    if args.arrays:
        arrays = dict(np.load(args.arrays, allow_pickle=False))
    else:
        arrays = smooth_pictures(settings.num_classes, args.resolution)
    counts = np.bincount(arrays["labeled_labels"], minlength=settings.num_classes)
    settings.labeled_counts = counts.tolist()
    return batches(arrays, settings, args.resolution), arrays


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("record", "verify", "train"):
        options = commands.add_parser(command)
        options.add_argument("arrays" if command == "train" else "path")
        options.add_argument("--threads", type=int, default=1)
        if command == "verify":
            continue
        options.add_argument("--depth", type=int, default=10 if command == "record" else 28)
        options.add_argument(
            "--resolution", type=int, default=16, help="size that the network sees"
        )
        options.add_argument("--seed", type=int, default=0)
        if command == "record":
            options.add_argument("--arrays", help="a file as for train; by default random pictures")
            options.add_argument("--warmup", type=int, default=60, help="steps before the trace")
            options.add_argument(
                "--margin",
                type=float,
                default=1e-3,
                help="least distance to ties and to the threshold",
            )
        else:
            options.add_argument("--evaluate_every", type=int, default=500)
        for field in dataclasses.fields(Settings)[:-1]:  # the counts come from the labels
            kind = {"default": field.default, "type": field.type}
            if field.type is bool:
                kind = {"default": field.default, "action": argparse.BooleanOptionalAction}
            elif field.type is tuple:
                kind = {"default": field.default, "type": float, "nargs": 3}
            flag = "classes" if field.name == "num_classes" else field.name
            options.add_argument(f"--{flag}", dest=field.name, **kind)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.command == "verify":
        sys.exit(0 if verify(args) else 1)
    fields = dataclasses.fields(Settings)[:-1]
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields})
    {"record": record, "train": train}[args.command](args, settings)


if __name__ == "__main__":
    main()

"""Weak and strong views written plainly with Pillow and NumPy, one image at a time."""

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

LEVELS = range(1, 10)


def enhance(kind):
    return lambda image, factor: kind(image).enhance(factor)


def affine(matrix):
    return lambda image, v: image.transform(image.size, Image.Transform.AFFINE, matrix(v))


# Operation -> Pillow's, as a function of the image and the magnitude in the operation's own unit.
OPERATIONS = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "brightness": enhance(ImageEnhance.Brightness),
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "identity": lambda image, _: image,
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "rotate": lambda image, degrees: image.rotate(degrees),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "shear_x": affine(lambda v: (1, v, 0, 0, 1, 0)),
    "shear_y": affine(lambda v: (1, 0, 0, v, 1, 0)),
    "solarize": lambda image, threshold: ImageOps.solarize(image, threshold),
    "translate_x": affine(lambda v: (1, 0, v, 0, 1, 0)),
    "translate_y": affine(lambda v: (1, 0, 0, 0, 1, v)),
}


def magnitude(name, level, sign, size):
    """The magnitude of a level from 1 to 9 of 10, for an image of the size (width, height)."""
    level = level / 10
    return {
        "brightness": level * 0.9 + 0.05,
        "color": level * 0.9 + 0.05,
        "contrast": level * 0.9 + 0.05,
        "sharpness": level * 0.9 + 0.05,
        "posterize": int(level * 4) + 4,
        "rotate": sign * int(level * 30),
        "shear_x": sign * level * 0.3,
        "shear_y": sign * level * 0.3,
        "solarize": 256 - int(level * 256),
        "translate_x": sign * int(level * 0.3 * size[0]),
        "translate_y": sign * int(level * 0.3 * size[1]),
    }.get(name, 0.0)


def apply(name, array, magnitude):
    return np.asarray(OPERATIONS[name](Image.fromarray(array), float(magnitude)))


def flip_and_crop(array, flip, top, left):
    height, width = array.shape[:2]
    padding = [(height // 8, height // 8), (width // 8, width // 8), (0, 0)]
    padded = np.pad(array[:, ::-1] if flip else array, padding, mode="reflect")
    return padded[top : top + height, left : left + width]


def weak(array, random):
    top, left = (random.integers(2 * (length // 8) + 1) for length in array.shape[:2])
    return flip_and_crop(array, random.random() < 0.5, top, left)


def strong(array, random):
    image = Image.fromarray(weak(array, random))
    for name in random.choice(list(OPERATIONS), size=2):
        level, sign = random.integers(1, 10), random.choice([-1, 1])
        if random.random() < 0.5:
            image = OPERATIONS[name](image, magnitude(name, level, sign, image.size))
    return cut_out(
        np.asarray(image), random.uniform(0, image.width), random.uniform(0, image.height)
    )


def cut_out(array, x, y):
    image = Image.fromarray(array.copy())
    x0, y0 = int(max(0, x - 8)), int(max(0, y - 8))
    x1, y1 = int(min(image.width, x0 + 16)), int(min(image.height, y0 + 16))
    ImageDraw.Draw(image).rectangle((x0, y0, x1, y1), (127, 127, 127))
    return np.asarray(image)

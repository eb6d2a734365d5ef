"""The one way pixels become model input: decode, region of interest, resize, colour; and back out.

Training, calibration, evaluation, export and runtime all use these functions, so that no two of
them can see different pixels. `container` tells whether a file is whole, `reading` makes RGB of
it or of a camera's array, `pixel_path` brings that to the model's size, `writing` gives it out.
"""

from .container import DecodeError
from .pixel_path import PixelPath, Roi, another_shape, too_few
from .reading import IMAGE_SUFFIXES, decode, read, read_bytes, read_mask, to_rgb8
from .writing import encode_png, overlay, pixel_sha256, write_png

__all__ = [
    "IMAGE_SUFFIXES",
    "DecodeError",
    "PixelPath",
    "Roi",
    "another_shape",
    "decode",
    "encode_png",
    "overlay",
    "pixel_sha256",
    "read",
    "read_bytes",
    "read_mask",
    "to_rgb8",
    "too_few",
    "write_png",
]

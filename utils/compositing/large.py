"""Lower faces as sharp as the camera took them: the network's drawing, made of larger references.

What the network draws is mostly its references, moved. So the same displacements and shares are
applied to the references in full size, and what else it has drawn (the painted part, the light) is
enlarged and put on top.
"""

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np

from models.unet import Drawing
from models.warp import UNITS_PER_WIDTH
from utils.cli import DataError
from utils.compositing.paste import bell, blur
from utils.contract import lower_size, reference_path
from utils.dataset.clip import Clip
from utils.media.pixels import read_picture, to_uint8

CACHED = 64              # references that are held in memory
COVERED_LEVELS = 35      # of 255: where the drawing differs so much, it covers the references
COVER_SIGMA_PX = 1.0     # over this distance, px of the network


class LargeReferences:
    """Lower halves of a clip's frames, `scale` times as large as the network's.

    size: (width, height) of one.
    """

    def __init__(self, clip: Clip):
        self.scale = clip.meta.scale
        self.size = lower_size(self.scale)
        self.clip = clip
        self.kept = set(clip.meta.references)
        self.picture = lru_cache(CACHED)(self._picture)
        y, x = np.mgrid[:self.size[1], :self.size[0]]
        self.grid = np.dstack([x, y]).astype(np.float32)                     # (84 S, 168 S, 2) px

    def _picture(self, i):
        """(84 scale, 168 scale, 3) uint8 RGB of frame i; of one that was not kept what the network
        sees, enlarged.
        """
        if i not in self.kept:
            return self._resize(self.clip.lower_faces[i], cv2.INTER_CUBIC)
        return read_picture(reference_path(self.clip.data, i), self.size, DataError)

    def enlarge(self, drawing: Drawing, frames: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the B lower faces of a drawing, (84 scale, 168 scale, 3) uint8 RGB.

        frames (B, 2): numbers of the closed and the open reference. DataError if one is damaged.
        """
        shares = drawing.weights[:, :-1]                                     # (B, 2, H, W)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)
        moved = (shares[:, :, None] * drawing.warped).sum(dim=1)             # (B, 3, H, W)
        rest = drawing.picture - moved                                       # (B, 3, H, W)
        fields = (
            shares,
            drawing.displacement * (self.size[0] / UNITS_PER_WIDTH),         # px of full size
            255 * moved,
            255 * rest,
            255 * rest.abs().amax(dim=1, keepdim=True),
        )
        arrays = [field.float().movedim(-3, -1).cpu().numpy() for field in fields]
        for numbers, *of_one in zip(frames.tolist(), *arrays, strict=True):
            yield self._enlarge_one(numbers, *of_one)

    def _enlarge_one(self, frames, shares, displacement, moved, rest, covered):
        """shares (H, W, 2), displacement (2, H, W, 2), moved and rest (H, W, 3): see enlarge().
        covered (H, W, 1): the largest change of a colour by the rest, 0..255.
        """
        closed, opened = map(self._fetch, frames, displacement)
        share_closed, share_open = cv2.split(self._resize(shares))
        picture = cv2.blendLinear(closed, opened, share_closed, share_open)
        # what the network has drawn over is not to shine through, sharper than what covers it
        trust = self._resize(bell(blur(covered, COVER_SIGMA_PX), COVERED_LEVELS))
        soft = self._resize(to_uint8(moved), cv2.INTER_CUBIC)
        picture = cv2.blendLinear(picture, soft, trust, 1 - trust)
        rest = self._resize(rest, cv2.INTER_CUBIC)
        return cv2.add(picture, rest, dtype=cv2.CV_8U)

    def _fetch(self, frame, displacement):
        """Picture of a reference moved by (H, W, 2) px."""
        places = cv2.add(self.grid, self._resize(displacement))
        no_second = np.empty(0)  # x and y lie in one array
        maps = cv2.convertMaps(places, no_second, cv2.CV_16SC2)  # 1/32 px: faster than float32
        return cv2.remap(
            self.picture(frame),
            *maps,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )

    def _resize(self, field, interpolation=cv2.INTER_LINEAR):
        return cv2.resize(field, self.size, interpolation=interpolation)

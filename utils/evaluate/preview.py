"""preview.png: what the network draws of held-out frames while it is trained."""

from pathlib import Path

import cv2
import numpy as np
import torch

from models.unet import LipUNet
from utils.contract import MEL_FLOOR
from utils.dataset.batches import LipDataset
from utils.dataset.references import evenly_spaced
from utils.generate import Speaker, generate_lower_faces
from utils.media.pixels import encode_png
from utils.storage import write_atomically

FRAMES = 5               # held-out frames, one a row
ENLARGED = 2             # times the network's own size
HEADER_PX = 28           # height of the line of titles


def write_preview(path: Path, model: LipUNet, held: LipDataset, device: torch.device):
    """Write rows of held-out frames, from a closed to an open mouth: closed and open reference,
    generated, real, and generated on silence. model: in eval mode on the device.
    """
    clip = held.clip
    from_closed_to_open = np.argsort(clip.track.opening[held.frames])
    frames = evenly_spaced(held.frames[from_closed_to_open], FRAMES)
    closed, opened = held.references[frames].T
    own = clip.mel_windows[frames]
    silence = np.full_like(own, np.log(MEL_FLOOR))
    speaker = Speaker(model, clip, held.references, device)
    columns = {
        "closed reference": clip.lower_faces[closed],
        "open reference": clip.lower_faces[opened],
        "generated": list(generate_lower_faces(speaker, frames, own)),
        "real": clip.lower_faces[frames],
        "on silence": list(generate_lower_faces(speaker, frames, silence))
    }
    sheet = np.hstack([np.vstack(pictures) for pictures in columns.values()])
    sheet = cv2.resize(sheet, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
    white = (255, 255, 255)
    sheet = cv2.copyMakeBorder(sheet, HEADER_PX, 0, 0, 0, cv2.BORDER_CONSTANT, value=white)
    for k, title in enumerate(columns):
        left = 8 + k * sheet.shape[1] // len(columns)
        cv2.putText(
            sheet, title, (left, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA
        )
    write_atomically(path, encode_png(sheet))

"""How far off is what a network hears? What trainings of the sound branch share."""

import torch
from torch import Tensor

from models import losses
from models.unet import LipUNet
from utils.dataset.batches import LipDataset
from utils.face.landmarks import mouth_matrix


def hearing_loss(predicted: Tensor, real: Tensor) -> Tensor:
    """Loss of normalised landmarks (B, 130): that of all of them, and that of the mouth."""
    to_mouth = torch.from_numpy(mouth_matrix()).to(real.device)              # (130, 2)
    mouth = losses.mouth_loss(predicted @ to_mouth, real @ to_mouth)
    return losses.landmark_loss(predicted, real) + mouth


@torch.no_grad()
def held_out_hearing(model: LipUNet, held: LipDataset) -> float:
    """Loss of a network in eval mode on the sounds of the held-out part, as they were recorded."""
    device = model.mel_mean.device
    mel = torch.from_numpy(held.clip.mel_windows[held.frames]).to(device)
    real = torch.from_numpy(held.norm.landmarks[held.frames]).to(device)
    return hearing_loss(model.predict_landmarks(model.encode_audio(mel)), real).item()

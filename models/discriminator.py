"""Discriminator over crops of mouths: photographed or generated? Needed in training only."""

from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.parametrizations import spectral_norm


class Discriminator(nn.Module):
    """PatchGAN (Isola et al. 2017) with spectral normalisation (Miyato et al. 2018), which keeps
    it from running away from the generator. A 56x104 crop gives 7x13 logits, each for a patch
    about as large as a tooth and its lip.
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        self.layers = nn.ModuleList()
        channels_in = 3
        for width in channels:
            layer = nn.Conv2d(channels_in, width, 4, stride=2, padding=1)
            self.layers.append(spectral_norm(layer))
            channels_in = width
        to_logits = nn.Conv2d(channels_in, 1, 3, padding=1)
        self.to_logits = spectral_norm(to_logits)

    def forward(self, mouth: Tensor) -> tuple[Tensor, list[Tensor]]:  # (B, 3, h, w) 0..1
        """Logits (B, 1, h/8, w/8), above 0 for photographed, and the features of each layer."""
        features = []
        x = mouth * 2 - 1
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)            # (B, 32, h/2, w/2) .. (B, 128, h/8, w/8)
            features.append(x)
        return self.to_logits(x), features

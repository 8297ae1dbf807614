"""Judges crops of mouths, patch by patch: photographed or generated? Needed in training only."""

from torch import nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.parametrizations import spectral_norm


class Discriminator(nn.Module):
    """A PatchGAN (Isola et al. 2017) with spectral normalisation (Miyato et al. 2018), which keeps it from running
    away from the generator. A 56x104 crop becomes 7x13 verdicts, each on about the area of a tooth and its lip.
    """

    def __init__(self, channels=(32, 64, 128)):
        super().__init__()
        self.layers = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 4, 2, 1))
                                    for a, b in zip((3, *channels[:-1]), channels, strict=True))
        self.verdict = spectral_norm(nn.Conv2d(channels[-1], 1, 3, 1, 1))

    def forward(self, mouth):                                      # (B, 3, h, w) 0..1
        """Return (verdicts (B, 1, h/8, w/8): above 0 is photographed, list of the features of each layer)."""
        features, x = [], mouth * 2 - 1
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)                          # (B, 32, h/2, w/2) .. (B, 128, h/8, w/8)
            features.append(x)
        return self.verdict(x), features

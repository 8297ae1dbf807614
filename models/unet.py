"""The network: a U-Net over the lower half of the face with the sound fused in at the bottleneck.

    mel ──► audio branch ──► landmark head ──► where lips and jaw belong
                 │                                     ▼
                 │             reference lowers, carried there ────────► encoder
                 │                                                               ▼
                 └─────────────────────────────────────────────────────► bottleneck ──► decoder ──► generated lower

The network never sees the frame it draws: it gets the lower half of two *other* frames of the person (one with
the mouth closed, one with it open, from which it borrows lips and teeth), the sound, and two numbers that say how
the head is turned. Known 2-D trainers feed the current frame with a masked rectangle and learn to read the old
mouth from the cheeks and jaw around it.

In training the references are carried to where lips, jaw and nose really were, so the drawing part learns mouths and
not guesses: it need not blur what the sound leaves open. That is the landmark head's lesson alone.

Plain 3x3 convolutions at half resolution: depthwise ones count fewer operations and run slower on a CPU.
"""

import torch
import torch.nn.functional as F
from torch import nn

REACH = 0.07  # of the width, 12 pixels of 168: how far a landmark takes its surroundings along
RIDGE = 0.1   # how much it may stay behind for the sake of a smooth flow


# -- parts -------------------------------------------------------------------------------------------
class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels_in, channels, stride=1):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        self.norm = nn.GroupNorm(8, channels)
        same = channels_in == channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x):
        y = F.silu(self.norm(self.first(x)))
        return F.silu(self.second(y) + self.shortcut(x))


class AudioBranch(nn.Module):
    """What does this moment sound like? 1-D convolutions over time with the mel bands as channels, then a GRU
    from either side: it reads the sounds before and after in order, where they shape the mouth of the moment.
    """

    def __init__(self, mels, width, dropout):
        super().__init__()
        channels, hidden = (mels, 192, 192), 128
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, 5, 2, 2) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for b in channels[1:])
        self.forget = nn.Dropout1d(dropout / 2)                # whole channels: no single one may be relied on
        self.read = nn.GRU(channels[-1], hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(3 * 2 * hidden, width)

    def forward(self, mel):                                    # (B, T, mels)
        x = mel.transpose(1, 2)                                # (B, mels, T)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.forget(F.silu(norm(layer(x))))            # (B, 192, T/4) in the end
        x, _ = self.read(x.transpose(1, 2).float())            # (B, T/4, 256)
        middle = x.shape[1] // 2
        x = torch.cat([x[:, middle - 1], x[:, middle], x.mean(dim=1)], dim=1)  # (B, 768)
        return F.silu(self.out(self.dropout(x)))               # (B, width)


# -- assembly ----------------------------------------------------------------------------------------
class LipUNet(nn.Module):
    """See the module's docstring. Sizes are free: what does not divide by two is padded and cut inside.

    references: lower halves of other frames per input. mels: bands of the mel. points: landmarks that the
    head predicts. channels: of the four levels. audio_width: of the sound's vector. Buffers: mean and spread of each
    mel band; `usual`, where the landmarks lie by head pose alone, and `spread`, the pixels of a landmark of 1.
    """

    def __init__(self, references=2, mels=80, points=65, channels=(32, 48, 96, 128), audio_width=256,
                 dropout=0.3):
        super().__init__()
        self.model_args = {"references": references, "mels": mels, "points": points,
                           "channels": list(channels), "audio_width": audio_width, "dropout": dropout}
        self.references = references
        self.register_buffer("mel_mean", torch.zeros(mels))
        self.register_buffer("mel_std", torch.ones(mels))
        self.register_buffer("usual", torch.zeros(3, 2 * points))
        self.register_buffer("spread", torch.ones(()))
        c1, c2, c3, c4 = channels
        self.audio = AudioBranch(mels, audio_width, dropout)
        self.landmarks = nn.Linear(audio_width, 2 * points)
        self.pose = nn.Linear(2, 32)
        self.enter = Block(12 * references, c1)
        self.down2, self.down3, self.down4 = Block(c1, c2, 2), Block(c2, c3, 2), Block(c3, c4, 2)
        self.fuse = nn.Conv2d(c4 + audio_width + 32, c4, 1)
        self.think, self.decide = Block(c4, c4), Block(c4, c4)
        self.grow3, self.grow2, self.grow1 = nn.Conv2d(c4, c3, 1), nn.Conv2d(c3, c2, 1), nn.Conv2d(c2, c1, 1)
        self.up3, self.up2, self.up1 = Block(c3, c3), Block(c2, c2), Block(c1, c1)
        self.paint = nn.Conv2d(c1, 3 * 4, 3, 1, 1)
        self.mix = nn.Conv2d(c1, (references + 1) * 4, 3, 1, 1)
        self.flow = nn.Conv2d(c1, 2 * references, 3, 1, 1)
        for head in (self.mix, self.flow):  # start from the unmoved references, equally mixed
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def hear(self, mel):
        """mel (B, T, mels) log-mel -> the sound's vector (B, audio_width)."""
        return self.audio((mel - self.mel_mean) / self.mel_std)

    def place(self, landmarks, pose):
        """Normalised landmarks (B, 2L), pose (B, 2) -> where they lie: (B, L, 2) pixels of the lower."""
        # no matrix product, which autocast would round to half a pixel
        usual = self.usual[2] + (pose[:, :, None] * self.usual[:2]).sum(dim=1)          # (B, 2L)
        return (usual + self.spread * landmarks).unflatten(1, (-1, 2))

    def forward(self, reference, points, mel, pose):
        """reference (B, R, H, W, 3) uint8, points (B, R, L, 2) float32 pixels: landmarks of each reference,
        mel (B, T, mels) float32 log-mel, pose (B, 2) float32.

        Returns the generated lower (B, 3, H, W) float32, 0..1 up to overshoot, and the predicted normalised
        landmarks (B, 2L).
        """
        sound = self.hear(mel)                                              # (B, A)
        landmarks = self.landmarks(sound).float()                           # (B, 2L)
        return self.draw(reference, points, self.place(landmarks, pose), sound, pose), landmarks

    def draw(self, reference, points, belong, sound, pose):
        """Return the generated lower with its landmarks at `belong` (B, L, 2) pixels, and what the sound's vector
        (B, A) says beyond that: teeth, tongue, cheeks.
        """
        b, r, h, w, _ = reference.shape
        known = reference.permute(0, 1, 4, 2, 3).float() / 255              # (B, R, 3, H, W)
        base = carry(belong, points, h, w)                                  # (B, R, 2, H, W)
        moved = [warp(known[:, k], base[:, k]) for k in range(r)]           # R of (B, 3, H, W)
        x = torch.cat(moved, dim=1)                                         # (B, 3R, H, W)
        x = F.pad(x, (0, w % 2, 0, h % 2), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        x1 = self.enter(F.pixel_unshuffle(x - 0.5, 2))                      # (B, c1, H/2, W/2)
        x2 = self.down2(x1)                                                 # (B, c2, H/4, W/4)
        x3 = self.down3(x2)                                                 # (B, c3, H/8, W/8)
        x4 = self.down4(x3)                                                 # (B, c4, H/16, W/16)
        told = torch.cat([sound, F.silu(self.pose(10 * pose))], dim=1)      # (B, A + 32)
        told = told[:, :, None, None].expand(-1, -1, *x4.shape[2:])         # (B, A + 32, H/16, W/16)
        y = F.silu(self.fuse(torch.cat([x4, told], dim=1)))                 # (B, c4, H/16, W/16)
        y = self.decide(self.think(y))                                      # (B, c4, H/16, W/16)
        y = self.up3(grow(self.grow3(y), x3) + x3)                          # (B, c3, H/8, W/8)
        y = self.up2(grow(self.grow2(y), x2) + x2)                          # (B, c2, H/4, W/4)
        y = self.up1(grow(self.grow1(y), x1) + x1)                          # (B, c1, H/2, W/2)
        painted = 0.5 + F.pixel_shuffle(self.paint(y), 2)[..., :h, :w].float()  # (B, 3, H, W)
        mix = F.pixel_shuffle(self.mix(y), 2)[..., :h, :w].float().softmax(dim=1)  # (B, R + 1, H, W)
        flow = F.interpolate(self.flow(y).float(), scale_factor=2, mode="bilinear")[..., :h, :w]
        flow = base + flow.unflatten(1, (r, 2))                             # (B, R, 2, H, W)
        picture = painted * mix[:, -1:]
        for k in range(r):  # what was seen is moved, what was not is painted
            picture = picture + warp(known[:, k], flow[:, k]) * mix[:, k:k + 1]
        return picture


class Lesson(nn.Module):
    """What the network does in a step, as one module: what averages gradients over processes wants a forward()."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs, points, sounds):
        """Return the generated lowers (B, 3, 84, 168), and the landmarks (B + S, 130) heard in them and in `sounds`."""
        heard = self.model.hear(torch.cat([inputs["mel"], sounds]))  # in one go: what else is heard is cheap
        generated = self.model.draw(inputs["reference"], inputs["points"], points, heard[:len(points)],
                                    inputs["pose"])  # moved to where they are, not where they sound
        return generated, self.model.landmarks(heard)


def grow(x, like):
    """Enlarge x to the height and width of `like`, which need not be the double."""
    return F.interpolate(x, size=like.shape[2:], mode="nearest")


def carry(belong, points, h, w):
    """Return the flow (B, R, 2, h, w), as warp() takes it, that moves landmarks of the references to where they belong.

    belong (B, L, 2): where that is; points (B, R, L, 2): where they are; pixels. Between the points the moves are
    interpolated, away from them they fade (Gaussian radial basis functions with a ridge, Broomhead and Lowe 1988).
    """
    rows, columns = -(-h // 4), -(-w // 4)                                              # a smooth field: few places do
    y = (torch.arange(rows, device=belong.device) + 0.5) * h / rows - 0.5
    x = (torch.arange(columns, device=belong.device) + 0.5) * w / columns - 0.5
    place = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).reshape(1, -1, 2)  # (1, P, 2) as x, y
    with torch.autocast(belong.device.type, enabled=False):
        ridge = RIDGE * torch.eye(belong.shape[1], device=belong.device)
        step = ((points - belong[:, None]) * (10 / w)).transpose(1, 2).flatten(2)         # (B, L, 2R)
        weight = torch.linalg.solve(near(belong, belong, w) + ridge, step)                  # (B, L, 2R)
        flow = near(place.expand(belong.shape[0], -1, -1), belong, w) @ weight          # (B, P, 2R)
    flow = flow.transpose(1, 2).reshape(-1, 2, rows, columns)
    return F.interpolate(flow, (h, w), mode="bilinear").unflatten(0, (-1, points.shape[1]))  # (B, R, 2, h, w)


def near(a, b, width):
    """Return how near each of the points a (B, N, 2) is to each of b (B, M, 2): (B, N, M), 1 at the same place."""
    return torch.exp(-0.5 * (torch.cdist(a, b) / (REACH * width)).square())


def warp(picture, flow):
    """Fetch each pixel of `picture` (B, C, H, W) from where `flow` (B, 2, H, W) says: 1 is a tenth of the width."""
    h, w = picture.shape[2:]
    rows = torch.linspace(-1 + 1 / h, 1 - 1 / h, h, device=picture.device)
    columns = torch.linspace(-1 + 1 / w, 1 - 1 / w, w, device=picture.device)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)      # (H, W, 2) as x, y
    step = torch.tensor((0.2, 0.2 * w / h), device=picture.device)
    where = grid + flow.permute(0, 2, 3, 1) * step                                       # (B, H, W, 2)
    return F.grid_sample(picture.contiguous(), where, padding_mode="border", align_corners=False)

"""The network: a U-Net over the lower half of the face with the sound fused in at the bottleneck.

    mel ──► audio encoder ──► landmark head ──► target points: where lips and jaw belong
                 │                                     ▼
                 │          lower halves of two reference frames, warped there ──► encoder
                 │                                                                    ▼
                 └──────────────────────────────────────────────────────────────► bottleneck
                                                                                      ▼
                                                             generated lower face ◄── decoder

The network never sees a pixel of the frame it draws. At inference it gets two numbers of that
frame, which say how the head is turned, the lower half of two *other* frames of the person (one
with the mouth closed, one with it open, from which it borrows lips and teeth), and the sound. Known
2-D trainers feed the current frame with a masked rectangle and learn to read the old mouth from the
cheeks and the jaw around it.

At inference the target points are the landmarks that the landmark head predicts from the sound. In
training, and for val_loss, they are the real landmarks of the frame: the drawing part learns mouths
and not guesses, so it need not blur what the sound leaves open.

Plain 3x3 convolutions at half resolution: depthwise ones count fewer operations and run slower on
a CPU.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.warp import rbf_displacement, warp

AUDIO_CHANNELS = 192    # of the audio encoder's convolutions
GRU_WIDTH = 128         # of the audio encoder's GRU, in each direction
POSE_WIDTH = 32         # of the head pose's vector
POSE_GAIN = 10          # head pose lies within about +-0.1; a layer learns best from values near 1
NORM_GROUPS = 8


# -- parts ---------------------------------------------------------------------------------------
def conv3x3(channels_in: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps height and width, or halves them with stride=2."""
    return nn.Conv2d(channels_in, channels, 3, stride, padding=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut past them. stride=2 halves height and width."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int = 1,
    ):
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels, stride)
        self.conv2 = conv3x3(channels, channels)
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels or stride != 1:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:                      # (B, channels_in, H, W)
        """(B, channels_in, H, W) -> (B, channels, H / stride, W / stride)."""
        y = F.silu(self.norm(self.conv1(x)))                     # (B, channels, H/s, W/s)
        y = self.conv2(y)                                        # (B, channels, H/s, W/s)
        return F.silu(y + self.shortcut(x))                      # (B, channels, H/s, W/s)


class AudioEncoder(nn.Module):
    """Audio embedding of one moment: 1-D convolutions over time with the mel bands as channels,
    then a GRU in both directions, which reads the sounds before and after in their order.
    """

    def __init__(
        self,
        mels: int,
        audio_width: int,
        dropout: float,
    ):
        super().__init__()
        width = AUDIO_CHANNELS
        self.conv1 = nn.Conv1d(mels, width, 5, stride=2, padding=2)
        self.norm1 = nn.GroupNorm(NORM_GROUPS, width)
        self.conv2 = nn.Conv1d(width, width, 5, stride=2, padding=2)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, width)
        self.channel_dropout = nn.Dropout1d(dropout / 2)         # no single channel is relied on
        self.gru = nn.GRU(
            width,
            GRU_WIDTH,
            batch_first=True,
            bidirectional=True,
        )
        self.dropout = nn.Dropout(dropout)
        self.to_embedding = nn.Linear(3 * 2 * GRU_WIDTH, audio_width)

    def features(self, mel: Tensor) -> Tensor:                   # (B, T, mels)
        """What is heard at each moment, (B, T/4, 192), of normalised log-mel (B, T, mels)."""
        x = mel.transpose(1, 2)                                  # (B, mels, T)
        x = self.norm1(self.conv1(x))                            # (B, 192, T/2)
        x = self.channel_dropout(F.silu(x))
        x = self.norm2(self.conv2(x))                            # (B, 192, T/4)
        x = self.channel_dropout(F.silu(x))
        return x.transpose(1, 2).float()                         # (B, T/4, 192)

    def forward(self, features: Tensor) -> Tensor:               # (B, T/4, 192)
        """Audio embedding (B, audio_width) of the middle of the features (B, T/4, 192)."""
        x, _ = self.gru(features)                                # (B, T/4, 256)
        middle = x.shape[1] // 2
        before = x[:, middle - 1]                                # (B, 256)
        after = x[:, middle]                                     # (B, 256)
        overall = x.mean(dim=1)                                  # (B, 256)
        x = torch.cat((before, after, overall), dim=1)           # (B, 768)
        x = self.to_embedding(self.dropout(x))                   # (B, audio_width)
        return F.silu(x)


# -- assembly ------------------------------------------------------------------------------------
class Drawing(NamedTuple):
    """Lower faces, and how they are made of the references."""

    picture: Tensor       # (B, 3, H, W) float32, 0..1 up to overshoot
    displacement: Tensor  # (B, R, 2, H, W) float32: where each reference is fetched, see warp()
    weights: Tensor       # (B, R + 1, H, W) float32: share of each reference, then of the painted
    warped: Tensor        # (B, R, 3, H, W) float32: the references, fetched


class LipUNet(nn.Module):
    """Lower face from reference frames, sound and head pose; see the module's docstring.

    num_references: lower halves of other frames per input. mels: bands of the log-mel.
    num_landmarks: that the landmark head predicts. channels: of the U-Net's four levels, multiples
    of 8: the network's width. audio_width: of the audio embedding. Picture sizes are free: what
    does not divide by two is padded and cropped inside.

    Buffers: mel_mean, mel_std (mels,) of each band over the training part. landmark_pose_fit
    (3, 2L): linear fit of the landmarks' pixels on [turn, nod, 1] of the head pose.
    landmark_std (): pixels of a normalised landmark of 1.
    """

    mel_mean: Tensor
    mel_std: Tensor
    landmark_pose_fit: Tensor
    landmark_std: Tensor

    def __init__(
        self,
        num_references: int = 2,
        mels: int = 80,
        num_landmarks: int = 65,
        channels: tuple[int, ...] = (32, 48, 96, 128),
        audio_width: int = 256,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.model_args = {
            "num_references": num_references,
            "mels": mels,
            "num_landmarks": num_landmarks,
            "channels": list(channels),
            "audio_width": audio_width,
            "dropout": dropout,
        }
        self.register_buffer("mel_mean", torch.zeros(mels))
        self.register_buffer("mel_std", torch.ones(mels))
        self.register_buffer("landmark_pose_fit", torch.zeros(3, 2 * num_landmarks))
        self.register_buffer("landmark_std", torch.ones(()))
        c1, c2, c3, c4 = channels
        # sound and head pose
        self.audio_encoder = AudioEncoder(mels, audio_width, dropout)
        self.landmark_head = nn.Linear(audio_width, 2 * num_landmarks)
        self.pose_encoder = nn.Linear(2, POSE_WIDTH)
        # encoder, bottleneck, decoder
        self.stem = ResidualBlock(3 * 4 * num_references, c1)
        self.down2 = ResidualBlock(c1, c2, stride=2)
        self.down3 = ResidualBlock(c2, c3, stride=2)
        self.down4 = ResidualBlock(c3, c4, stride=2)
        condition_width = audio_width + POSE_WIDTH
        self.fuse = nn.Conv2d(c4 + condition_width, c4, 1)
        self.bottleneck1 = ResidualBlock(c4, c4)
        self.bottleneck2 = ResidualBlock(c4, c4)
        self.reduce3 = nn.Conv2d(c4, c3, 1)
        self.reduce2 = nn.Conv2d(c3, c2, 1)
        self.reduce1 = nn.Conv2d(c2, c1, 1)
        self.up3 = ResidualBlock(c3, c3)
        self.up2 = ResidualBlock(c2, c2)
        self.up1 = ResidualBlock(c1, c1)
        # what the picture is made of: painted pixels, mixing weights, refinement of the warp
        self.to_rgb = conv3x3(c1, 3 * 4)
        self.to_weights = conv3x3(c1, (num_references + 1) * 4)
        self.to_displacement = conv3x3(c1, num_references * 2)
        for head in (self.to_weights, self.to_displacement):
            for parameter in head.parameters():
                nn.init.zeros_(parameter)  # start from the warped references, equally mixed

    def forward(
        self,
        reference: Tensor,
        points: Tensor,
        mel: Tensor,
        pose: Tensor,
        target_points: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Lower faces and predicted landmarks.

        reference (B, R, H, W, 3) uint8 RGB: lower halves of the reference frames.
        points (B, R, L, 2) float32: landmarks of each reference, pixels of its lower half.
        mel (B, T, mels) float32: log-mel around the frame. pose (B, 2) float32: its head pose.

        In training only: target_points (B, L, 2) float32, the real landmarks of the frame, at which
        the mouth is drawn; without them, as at inference, it is drawn at the predicted ones.

        Returns the generated lower faces (B, 3, H, W) float32, 0..1 up to overshoot, and the
        normalised landmarks (B, 2L) that were predicted from the sound.
        """
        audio_embedding = self.encode_audio(mel)                            # (B, A)
        landmarks = self.predict_landmarks(audio_embedding)                 # (B, 2L)
        if target_points is None:
            target_points = self.landmarks_to_pixels(landmarks, pose)       # (B, L, 2)
        drawing = self.draw(
            reference,
            points,
            target_points,
            audio_embedding,
            pose,
        )
        return drawing.picture, landmarks

    def audio_features(self, mel: Tensor) -> Tensor:
        """What is heard at each moment, (B, T/4, 192), of log-mel windows (B, T, mels)."""
        normalised = (mel - self.mel_mean) / self.mel_std
        return self.audio_encoder.features(normalised)

    def encode_audio(self, mel: Tensor) -> Tensor:
        """Audio embedding (B, audio_width) of log-mel windows (B, T, mels)."""
        return self.audio_encoder(self.audio_features(mel))

    def predict_landmarks(self, audio_embedding: Tensor) -> Tensor:
        """Normalised landmarks (B, 2L) float32 of audio embeddings (B, audio_width)."""
        return self.landmark_head(audio_embedding).float()

    def landmarks_to_pixels(self, landmarks: Tensor, pose: Tensor) -> Tensor:
        """Pixels (B, L, 2) of the lower half where normalised landmarks (B, 2L) lie at a head
        pose (B, 2).
        """
        # no matrix product: autocast would round it to half a pixel
        slope = self.landmark_pose_fit[:2]                                  # (2, 2L)
        intercept = self.landmark_pose_fit[2]                               # (2L,)
        from_pose = (pose[:, :, None] * slope).sum(dim=1)                   # (B, 2L)
        pixels = intercept + from_pose + self.landmark_std * landmarks
        return pixels.unflatten(1, (-1, 2))                                 # (B, L, 2)

    def draw(
        self,
        reference: Tensor,
        points: Tensor,
        target_points: Tensor,
        audio_embedding: Tensor,
        pose: Tensor,
    ) -> Drawing:
        """Lower faces with their landmarks at target_points (B, L, 2) pixels; the audio embedding
        (B, A) tells the rest: teeth, tongue, cheeks.
        """
        height, width = reference.shape[2:4]
        pictures = reference.permute(0, 1, 4, 2, 3)                         # (B, R, 3, H, W)
        pictures = pictures.float() / 255
        # 1. bring the references' lips and jaw to the target points
        displacement = rbf_displacement(
            target_points,
            points,
            height,
            width,
        )                                                                   # (B, R, 2, H, W)
        x = warp_each(pictures, displacement)                               # (B, R, 3, H, W)
        # 2. the U-Net looks at them, with sound and head pose at its bottleneck
        pose_vector = F.silu(self.pose_encoder(POSE_GAIN * pose))           # (B, 32)
        condition = torch.cat((audio_embedding, pose_vector), dim=1)        # (B, A + 32)
        features = self.encode_decode(x.flatten(1, 2), condition)           # (B, c1, H/2, W/2)
        # 3. it refines the warp, and says what is to be painted, and where
        refinement = F.interpolate(
            self.to_displacement(features).float(),
            scale_factor=2,
            mode="bilinear",
        )
        refinement = refinement[..., :height, :width]                       # (B, 2R, H, W)
        displacement = displacement + refinement.unflatten(1, (-1, 2))      # (B, R, 2, H, W)
        painted = 0.5 + to_full_size(self.to_rgb(features), height, width)  # (B, 3, H, W)
        weights = to_full_size(self.to_weights(features), height, width)    # (B, R + 1, H, W)
        weights = weights.softmax(dim=1)
        # 4. what the references show is moved, what they do not show is painted
        warped = warp_each(pictures, displacement)                          # (B, R, 3, H, W)
        picture = painted * weights[:, -1:]                                 # (B, 3, H, W)
        for k in range(warped.shape[1]):
            picture = picture + warped[:, k] * weights[:, k:k + 1]
        return Drawing(picture, displacement, weights, warped)

    def encode_decode(self, x: Tensor, condition: Tensor) -> Tensor:
        """Features (B, c1, H/2, W/2) of warped references x (B, 3R, H, W) and the condition
        (B, A + 32): the U-Net itself.
        """
        height, width = x.shape[2:]
        x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        x1 = self.stem(F.pixel_unshuffle(x - 0.5, 2))                       # (B, c1, H/2, W/2)
        x2 = self.down2(x1)                                                 # (B, c2, H/4, W/4)
        x3 = self.down3(x2)                                                 # (B, c3, H/8, W/8)
        x4 = self.down4(x3)                                                 # (B, c4, H/16, W/16)
        condition = condition[:, :, None, None]                             # (B, A + 32, 1, 1)
        condition = condition.expand(-1, -1, *x4.shape[2:])
        y = torch.cat((x4, condition), dim=1)                               # (.., c4 + A + 32, ..)
        y = F.silu(self.fuse(y))                                            # (B, c4, H/16, W/16)
        y = self.bottleneck1(y)                                             # (B, c4, H/16, W/16)
        y = self.bottleneck2(y)                                             # (B, c4, H/16, W/16)
        y = enlarge_like(self.reduce3(y), x3) + x3                          # (B, c3, H/8, W/8)
        y = self.up3(y)
        y = enlarge_like(self.reduce2(y), x2) + x2                          # (B, c2, H/4, W/4)
        y = self.up2(y)
        y = enlarge_like(self.reduce1(y), x1) + x1                          # (B, c1, H/2, W/2)
        return self.up1(y)


# -- resampling ----------------------------------------------------------------------------------
def warp_each(pictures: Tensor, displacement: Tensor) -> Tensor:
    """Each of the pictures (B, R, C, H, W) warped by its own displacement (B, R, 2, H, W)."""
    warped = []
    for k in range(pictures.shape[1]):
        warped.append(warp(pictures[:, k], displacement[:, k]))
    return torch.stack(warped, dim=1)


def to_full_size(x: Tensor, height: int, width: int) -> Tensor:
    """(B, 4C, H/2, W/2) as (B, C, height, width) float32: 4 channels become 2x2 pixels."""
    x = F.pixel_shuffle(x, 2)
    return x[..., :height, :width].float()


def enlarge_like(x: Tensor, like: Tensor) -> Tensor:
    """x at the height and width of `like`, which need not be exactly the double."""
    return F.interpolate(x, size=like.shape[2:], mode="nearest")

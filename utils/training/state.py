"""All that training changes: the networks, their optimizers, and how far it has come."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from models.discriminator import Discriminator
from models.unet import LipUNet
from utils.cli import CheckpointError
from utils.contract import CONTRACT
from utils.dataset.batches import LipDataset
from utils.storage import Meta
from utils.training import distributed
from utils.training.base import Teacher, freeze_features
from utils.training.checkpoint import checked_tensors
from utils.training.device import to_channels_last


@dataclass
class Settings:
    """What may be asked for on the command line; --resume keeps what is not asked for.

    batch_size: pictures a step, of all processes together. lr: peak of the learning rate. epochs:
    in all.
    """

    batch_size: int
    lr: float
    epochs: int
    seed: int


@dataclass
class Progress:
    """How far training has come.

    heard: steps of hearing made so far, or all if there was no more to learn. epoch, step: of
    drawing. best: lowest held-out figure. history: a dict of numbers for each epoch.
    patience_start_epoch: epoch from which patience counts.
    """

    settings: Settings
    heard: int = 0
    epoch: int = 0
    step: int = 0
    best: float = float("inf")
    history: list[dict[str, Any]] = field(default_factory=list)
    patience_start_epoch: int = 0


class TrainState:
    """The networks and optimizers of a training, on a device. It begins with hearing; drawing
    begins with begin_drawing().

    model: the generator as it is trained. averaged: the network with the exponential moving average
    of its weights, which is validated, shown and kept; ema keeps it up to date. ema_decay: share of
    the average that each step keeps. teacher: the base that the training started from, for other
    people's voices, None without a base.
    generator_ddp, discriminator_ddp: while it draws, model and discriminator wrapped such that
    backward() averages the gradients of several processes; without a backward() to average, the
    discriminator is used as it is.
    """

    def __init__(
        self,
        model: LipUNet,
        device: torch.device,
        ema_decay: float,
        weight_decay: float,
        base: dict[str, Any] | None = None,
        compile_model: bool = False,
    ):
        self.device = device
        self.teacher: Teacher | None = None
        self.model = to_channels_last(model, device)
        self.ema = AveragedModel(self.model, multi_avg_fn=ema_update(ema_decay))
        self.ema.eval().requires_grad_(False)
        # the network that is validated, shown and kept
        self.averaged: LipUNet = self.ema.module  # type: ignore[assignment]
        self.discriminator = to_channels_last(Discriminator(), device)
        if base:
            self.teacher = Teacher(base, model, device)
            self.discriminator.load_state_dict(base["discriminator"])
            freeze_features(self.model)
        if compile_model:
            self.model.compile()
        # the learning rate is set at each step
        self.optimizer = AdamW(
            self.model.parameters(),
            weight_decay=weight_decay,
            fused=True,
        )
        self.optimizer_d = AdamW(
            self.discriminator.parameters(),
            betas=(0.5, 0.99),
            fused=True,
        )

    def begin_drawing(self, heard: LipUNet | None = None):
        """From here on the audio branch stays as it is, and all else learns. heard: the network
        that has learned to hear; None if that was done before.
        """
        for part in (self.model.audio_encoder, self.model.landmark_head):
            part.requires_grad_(False)
        if heard:
            self.model.load_state_dict(heard.state_dict())
            self.averaged.load_state_dict(heard.state_dict())
            self.ema.n_averaged.zero_()  # a young average forgets what it began with
            self.optimizer.state.clear()  # moments of hearing
        self.generator_ddp = distributed.wrap_ddp(self.model)
        self.discriminator_ddp = distributed.wrap_ddp(self.discriminator)

    def state_dict(self) -> dict[str, Any]:
        """What --resume needs beside the averaged network: nested dicts of tensors."""
        return {
            "model": self.model.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "optimizer_d": self.optimizer_d.state_dict()["state"],
        }

    def load_state_dict(self, saved: dict[str, Any], step: int):
        """Continue from what state_dict() returned after `step` steps; the averaged network is the
        one that the state was built with. Raises AttributeError, IndexError, KeyError, TypeError
        or ValueError if it is something else.
        """
        for name in ("model", "discriminator"):
            network = getattr(self, name)
            network.load_state_dict(checked_tensors(saved[name], network.state_dict()))
        _load_optimizer(self.optimizer, self.model, saved["optimizer"])
        _load_optimizer(self.optimizer_d, self.discriminator, saved["optimizer_d"])
        self.ema.n_averaged.fill_(step)


def build_model(dataset: LipDataset) -> LipUNet:
    """A new network that knows the mel statistics and the usual landmarks of the clip."""
    model = LipUNet()
    mean, std = dataset.mel_statistics()
    model.mel_mean.copy_(mean)
    model.mel_std.copy_(std)
    model.landmark_pose_fit.copy_(torch.from_numpy(dataset.norm.pose_fit))
    model.landmark_std.fill_(dataset.norm.std)
    return model


def make_checkpoint(state: TrainState, progress: Progress, meta: Meta) -> dict[str, Any]:
    """Content of last.pth: the averaged network as "model", what --resume needs as "training".

    meta: of the clip that is trained on.
    """
    return {
        "model": state.averaged.state_dict(),
        "model_args": state.model.model_args,
        "training": state.state_dict(),
        "scheduler": {"heard": progress.heard, "step": progress.step},
        "epoch": progress.epoch,
        "best": float(progress.best),
        "settings": asdict(progress.settings),
        "contract": CONTRACT,
        "history": progress.history,
        "base": state.teacher is not None,
        "data": {"id": meta.id, "clip": Path(meta.source.path).name},
    }


def restore(
    state: TrainState,
    settings: Settings,
    saved: dict[str, Any],
    path: Path,
    meta: Meta,
) -> Progress:
    """Continue from the checkpoint `saved` in the file `path`, with other settings if asked for.

    Raises CheckpointError if it holds no training, or one on another clip than that of `meta`.
    """
    if saved["data"]["id"] != meta.id:
        clip = Path(meta.source.path).name
        raise CheckpointError(
            f"{path} was trained on {saved['data']['clip']}, but the data is of {clip}; leave out "
            "--resume, or name another folder with --checkpoints")
    pictures = saved["scheduler"]["step"] * saved["settings"]["batch_size"]
    step = round(pictures / settings.batch_size)
    try:
        state.load_state_dict(saved["training"], step)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds no training to go on with ({type(error).__name__}: {error})") from error
    return Progress(
        settings,
        heard=saved["scheduler"]["heard"],
        epoch=saved["epoch"],
        step=step,
        best=saved["best"],
        history=saved["history"],
    )


def ema_update(decay: float) -> Any:
    """Update of AveragedModel: an exponential moving average that forgets early weights soon.

    After n steps it reaches back over about a tenth of them, and at most over 1 / (1 - decay).
    """
    def update(averaged, current, steps):
        share = max(1 - decay, 9 / (10 + int(steps)))
        torch._foreach_lerp_(averaged, current, share)
    return update


def _load_optimizer(optimizer, network, saved):
    """Load the optimizer's averages; its settings are those of the code, not of the file."""
    weights = list(network.parameters())
    state = {}
    for k, averages in saved.items():
        expected = {
            "step": torch.zeros(()),
            "exp_avg": weights[k].cpu(),
            "exp_avg_sq": weights[k].cpu(),
        }
        state[k] = checked_tensors(averages, expected)
    content = optimizer.state_dict()
    optimizer.load_state_dict({**content, "state": state})

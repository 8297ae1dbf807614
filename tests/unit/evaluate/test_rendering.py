"""Pieces of speech, the real speech of another video, and what a rendering measures."""

import numpy as np
import pytest
import torch

from utils import av_sync
from utils.cli import CheckpointError
from utils.contract import lower_size
from utils.dataset.clip import Clip
from utils.evaluate import rendering
from utils.evaluate.rendering import Job, Utterance, pieces, render_all, utterances
from utils.face.geometry import Affine, align
from utils.face.tracking import Tracking
from utils.generate import Speaker
from utils.media.reader import read_frames
from utils.storage import read_meta, read_track


def test_pieces_cross_no_cut_and_are_long_enough():
    found = pieces(np.arange(100, 300), np.array([0, 80, 160, 290]))
    assert found == [(100, 160), (160, 235), (235, 290)]
    gap = np.delete(np.arange(100, 300), range(40, 90))  # 140 to 189, which may not be judged by
    assert pieces(gap, np.array([0, 80])) == [(100, 140), (190, 265), (265, 300)]
    assert pieces(np.arange(10), np.array([0])) == []
    assert pieces(np.arange(0), np.array([0])) == []


def test_an_utterance_counts_its_moments_from_its_first_frame(tiny_data):
    clip = Clip(tiny_data)
    sound = np.arange(640 * 150, dtype=np.float32)
    one, = utterances([(40, 90)], clip.mel_windows, clip.track.mouth, sound)
    assert len(one) == 50 and len(one.sound) == 640 * 50 and one.sound[0] == 640 * 40
    moments = np.array([0, 7])
    assert np.array_equal(one.mel_windows[moments], clip.mel_windows[moments + 40])


def test_utterances_overlap_if_they_share_a_frame():
    first, second, third = (Utterance(k, None, np.zeros((10, 2)), None) for k in (0, 9, 19))
    assert first.overlaps(second) and second.overlaps(first) and first.overlaps(first)
    assert not second.overlaps(third) and not third.overlaps(second)


def test_the_sound_of_another_video_is_moved_to_its_picture(tiny_clip, tiny_data, monkeypatch):
    """--against: the sound of the other video is moved if it is surely late."""
    track = read_track(tiny_data, read_meta(tiny_data))
    monkeypatch.setattr(rendering, "track_face", lambda frames: Tracking(track, [1]))
    found = rendering.video_utterances(tiny_clip)
    plain = np.concatenate([utterance.sound for utterance in found])
    monkeypatch.setattr(av_sync, "estimate_offset", lambda *_: (120.0, 0.99))
    found = rendering.video_utterances(tiny_clip)
    moved = np.concatenate([utterance.sound for utterance in found])
    assert np.array_equal(moved[:80000], plain[1920:81920])


@pytest.fixture
def speaker(tiny_data):
    clip = Clip(tiny_data)
    return Speaker(None, clip, clip.references(), torch.device("cpu"))


def real_lower_faces(clip, first, stop):
    """What inference.py would draw at best: as large as the footage."""
    scale = clip.meta.scale
    size = lower_size(scale)
    frames = read_frames(clip.meta.source.path, first, stop)
    affines = [Affine(transform) for transform in clip.track.transform[first:stop]]
    return [
        align(frame.rgb(), affine.to_lower_half().upscaled(scale), size)
        for frame, affine in zip(frames, affines, strict=True)
    ]


def test_the_real_mouth_pasted_back_is_measured_as_the_real_one(speaker):
    clip = speaker.clip
    sound = np.zeros(640 * clip.frames, np.float32)
    shown, = utterances([(60, 85)], clip.mel_windows, clip.track.mouth, sound)
    job = Job("own", shown, shown, 25, lower_faces=real_lower_faces(clip, 60, 85))
    made, = render_all(speaker, [job])["own"]
    assert made.frames.tolist() == list(range(60, 85))
    assert np.corrcoef(made.mouth[:, 0], shown.mouth[:, 0])[0, 1] > 0.95
    assert np.abs(made.lips - clip.track.lips[60:85]).mean() < 1.5
    assert len(made.lower_faces) == 25 and len(made.borders) == 5
    seam, grain, lips = np.mean(made.borders, axis=0)
    assert 0.7 < seam < 1.3 and 0.5 < grain < 1.5 and 0.5 < lips < 1.5


def test_a_rendering_without_a_face_says_to_train_longer(speaker, monkeypatch):
    clip = speaker.clip
    track = read_track(clip.data, clip.meta)
    track.valid[:] = False
    monkeypatch.setattr(rendering, "track_face", lambda pictures: Tracking(track, []))
    shown, = utterances([(60, 85)], clip.mel_windows, clip.track.mouth, np.zeros(640 * 150))
    job = Job("own", shown, shown, 25, lower_faces=list(clip.lower_faces[60:85]))
    with pytest.raises(CheckpointError, match=r"from 60 on; train longer.*train\.py --resume"):
        render_all(speaker, [job])

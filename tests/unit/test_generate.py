"""Which source frame each moment of speech gets, and drawing that does not depend on the batch."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import inference
from models.unet import LipUNet
from utils import generate
from utils.audio import log_mel
from utils.cli import UserError
from utils.contract import SAMPLE_RATE
from utils.dataset.clip import Clip
from utils.generate import (
    Speaker,
    generate_lower_faces,
    pingpong,
    read_driving,
    seen_span,
    turning_points,
)
from utils.media.reader import read_sound
from utils.shots import shot_bounds


# -- the sound that drives -------------------------------------------------------------------------
@pytest.fixture
def quiet(tiny_speech, tmp_path):
    """Path of the same speech at a hundredth of its loudness."""
    sound, rate = soundfile.read(tiny_speech)
    soundfile.write(tmp_path / "quiet.wav", sound / 100, rate, subtype="FLOAT")
    return tmp_path / "quiet.wav"


def test_quiet_speech_is_heard_louder_and_this_is_said(quiet, tiny_speech, capsys):
    sound = read_sound(quiet, SAMPLE_RATE)[:, 0]
    heard = read_driving(quiet)
    assert np.abs(heard).max() > 10 * np.abs(sound).max()
    note = capsys.readouterr().err
    assert note.startswith(f"note: {quiet} is very quiet (-")
    assert note.count("\n") == 1 and "dBFS); it is made louder" in note
    loud_mel = inference._read_mel(tiny_speech)
    assert capsys.readouterr().err == ""
    assert np.abs(inference._read_mel(quiet) - loud_mel).max() < 2
    assert np.abs(log_mel(sound, 50) - loud_mel).max() > 4


def test_usual_speech_gives_the_same_mel_bit_for_bit(tiny_speech, capsys):
    sound = read_sound(tiny_speech, SAMPLE_RATE)[:, 0]
    assert np.array_equal(inference._read_mel(tiny_speech), log_mel(sound, 50))
    assert capsys.readouterr().err == ""


def test_a_file_without_audible_speech_is_said_to_close_the_mouth(tmp_path, capsys):
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    assert not read_driving(path).any()
    note = capsys.readouterr().err
    assert "no speech that stands out (-100 dBFS); the mouth will stay closed" in note


def test_damage_and_opposite_phase_of_a_speech_are_said(tiny_speech, tmp_path, capsys):
    """A single damaged sample would leave no number in the mouth."""
    sound, rate = soundfile.read(tiny_speech)
    path = tmp_path / "speech.wav"
    channels = np.stack([sound, -sound], axis=1)
    channels[5000, 0] = np.nan
    soundfile.write(path, channels, rate, subtype="FLOAT")
    assert np.isfinite(inference._read_mel(path)).all()
    damaged, opposed = capsys.readouterr().err.splitlines()
    assert "no numbers were silenced (1)" in damaged
    assert "cancel each other for 2.0 s" in opposed


def test_a_file_without_a_single_sample_has_no_speech(tmp_path, capsys):
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0), SAMPLE_RATE)
    assert len(read_driving(path)) == 0
    with pytest.raises(UserError, match="has no sound"):
        inference._read_mel(path)
    assert capsys.readouterr().err == ""


# -- the frames that are shown ---------------------------------------------------------------------

def test_pingpong_turns_without_a_jump():
    """Source frames run forward and back, by one each time, neither end twice in a row."""
    assert pingpong(9, 4).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert (np.abs(np.diff(pingpong(1000, 37))) == 1).all()
    assert pingpong(3, 10).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("start", "begins"), [(0, [0, 1]), (30, [30, 31]), (96, [96, 95]), (99, [99, 98])]
)
def test_footage_of_any_start_moves_on_for_an_hour(start, begins):
    """It stands still in no pause and turns at the two places only; short speech has no turn."""
    order = pingpong(90_000, 100, start, 4, 93)
    assert order[:2].tolist() == begins
    assert (np.abs(np.diff(order)) == 1).all()
    later = order[100:]
    assert (later.min(), later.max()) == (4, 93)
    direction = np.diff(later)
    turns = later[1:-1][direction[1:] != direction[:-1]]
    assert set(turns) == {4, 93}
    assert pingpong(100 - start, 100, start, 4, 93).tolist() == list(range(start, 100))


class MovingFace:
    """Track of 200 frames whose face moves by 1 px a frame, by speeds[i] px to frame i."""

    def __init__(self, speeds, cuts=(0,), missing=()):
        step = np.ones(200)
        step[list(speeds)] = list(speeds.values())
        self.landmarks = np.cumsum(step)[:, None, None] * np.ones((1, 3, 2))
        self.valid = ~np.isin(np.arange(200), missing)
        self.cuts = np.array(cuts)

    def __len__(self):
        return 200

    def shot_bounds(self):
        return shot_bounds(self.cuts, 200)


CALM_AT_10_AND_190 = MovingFace({10: 0.1, 11: 0.1, 190: 0.2, 191: 0.2})
CALMER_FAR_FROM_THE_ENDS = MovingFace({30: 0, 31: 0, 150: 0, 151: 0, 20: 0.5, 180: 0.5})
CALM_NEAR_CUTS = MovingFace({5: 0, 6: 0, 18: 0.5, 192: 0, 193: 0, 182: 0.5}, cuts=(0, 15, 185))
CALM_WITHOUT_A_FACE = MovingFace(
    {5: 0.6, 6: 0.6, 18: 0.5, 195: 0.6, 196: 0.6, 182: 0.5}, missing=(5, 195)
)


@pytest.mark.parametrize(("track", "expected"), [
    (CALM_AT_10_AND_190, (10, 190)),
    (CALMER_FAR_FROM_THE_ENDS, (19, 179)),
    (CALM_NEAR_CUTS, (17, 181)),
    (CALM_WITHOUT_A_FACE, (17, 181)),
])
def test_footage_turns_where_the_face_is_calm(track, expected):
    assert turning_points(track) == expected


def test_footage_between_titles_turns_there():
    """No face in the first 20 and the last 30 frames; the take ends before frame 150."""
    track = MovingFace({25: 0.5, 26: 0.5, 160: 0.5, 161: 0.5, 110: 0.5, 111: 0.5},
                       missing=(*range(20), *range(120, 130), *range(170, 200)))
    assert seen_span(track) == (20, 170)
    assert turning_points(track) == (25, 160)
    assert seen_span(track, 125) == (20, 120)
    assert turning_points(track, 125) == (25, 110)
    unseen = MovingFace({}, missing=range(200))
    assert seen_span(unseen) == (0, 200)


def test_a_turn_is_no_jump(tiny_data):
    """The step there is below the footage's 99th percentile, and the references stay."""
    clip = Clip(tiny_data)
    low, high = turning_points(clip.track)
    order = pingpong(1000, clip.frames, 0, low, high)
    assert low < 25 and high >= 125
    step = np.linalg.norm(np.diff(clip.track.landmarks, axis=0), axis=-1).mean(axis=1)
    assert max(step[low], step[high - 1]) <= np.quantile(step, 0.99)

    changed = (np.diff(clip.references()[order], axis=0) != 0).any(axis=1)
    direction = np.diff(order)
    turns = np.flatnonzero(direction[1:] != direction[:-1])
    assert len(turns) > 5
    assert (changed[turns] == changed[turns + 1]).all()


def test_faces_do_not_depend_on_the_batch_they_are_drawn_in(tiny_data, monkeypatch):
    monkeypatch.setattr(generate, "autocast", lambda _: contextlib.nullcontext())
    torch.manual_seed(0)
    model = LipUNet(channels=(8, 8, 8, 8), audio_width=32).eval()
    clip = Clip(tiny_data)
    speaker = Speaker(model, clip, clip.references(), torch.device("cpu"))
    order = np.arange(60, 67)
    windows = clip.mel_windows[order]
    together = np.stack(list(generate_lower_faces(speaker, order, windows, 16)))
    one_by_one = np.stack(list(generate_lower_faces(speaker, order, windows, 1)))
    assert together.shape == (7, 84, 168, 3) and together.dtype == np.uint8
    assert np.abs(together.astype(int) - one_by_one).max() <= 1


def test_each_moment_gets_its_own_window_and_source_frame():
    """What reaches the network: the window of the moment, the inputs of the source frame."""
    clip = SimpleNamespace(inputs=lambda frames, windows, references: (
        torch.from_numpy(frames), torch.from_numpy(windows), torch.from_numpy(references[frames])
    ))

    def model(frames, windows, references):
        values = torch.stack([frames, windows[:, 0, 0], references[:, 0]], dim=1) / 255
        return values[:, :, None, None].expand(-1, 3, 84, 168), None

    references = 100 + np.arange(50)[:, None] * np.ones((1, 2), int)
    speaker = Speaker(model, clip, references, torch.device("cpu"))
    order = np.array([3, 4, 5, 4, 3])
    windows = np.arange(10, 15)[:, None, None] * np.ones((1, 64, 80))
    faces = list(generate_lower_faces(speaker, order, windows, batch_size=2))
    assert [face[0, 0].tolist() for face in faces] == [
        [3, 10, 103], [4, 11, 104], [5, 12, 105], [4, 13, 104], [3, 14, 103]
    ]

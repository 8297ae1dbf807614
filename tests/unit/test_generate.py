"""Which source frame each moment of speech gets, and drawing that does not depend on the batch."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import inference
from models.unet import Drawing, LipUNet
from utils import generate
from utils.audio import MelWindows, find_pauses, log_mel
from utils.cli import UserError
from utils.contract import EYE_DISTANCE_PX, MEL_FLOOR, SAMPLE_RATE
from utils.dataset.clip import Clip, Inputs
from utils.face.landmarks import LOWER_INNER_COLUMNS, UPPER_INNER_COLUMNS, mouth_matrix
from utils.generate import (
    MOST_GAIN,
    USUAL_MOVEMENT,
    Speaker,
    draw,
    generate_lower_faces,
    keep_lips_apart,
    load_speaker,
    pingpong,
    read_driving,
    seen_span,
    turning_points,
    voice_gain,
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
    clip = SimpleNamespace(inputs=lambda frames, windows, references: Inputs(
        reference=torch.from_numpy(references[frames]),
        points=None,
        mel=torch.from_numpy(windows),
        pose=torch.from_numpy(frames),
    ))

    def draw(reference, points, target_points, audio_embedding, pose):
        values = torch.stack([pose, audio_embedding[:, 0, 0], reference[:, 0]], dim=1) / 255
        return Drawing(values[:, :, None, None].expand(-1, 3, 84, 168), None, None, None)

    model = SimpleNamespace(
        encode_audio=lambda mel: mel,
        predict_landmarks=lambda audio_embedding: audio_embedding,
        landmarks_to_pixels=lambda landmarks, pose: pose,
        draw=draw,
    )
    references = 100 + np.arange(50)[:, None] * np.ones((1, 2), int)
    speaker = Speaker(model, clip, references, torch.device("cpu"))
    order = np.array([3, 4, 5, 4, 3])
    windows = np.arange(10, 15)[:, None, None] * np.ones((1, 64, 80))
    faces = list(generate_lower_faces(speaker, order, windows, batch_size=2))
    assert [face[0, 0].tolist() for face in faces] == [
        [3, 10, 103], [4, 11, 104], [5, 12, 105], [4, 13, 104], [3, 14, 103]
    ]


# -- how far the mouth moves -----------------------------------------------------------------------
MOMENTS = np.arange(60, 66)


def silence():
    return np.full((len(MOMENTS), 64, 80), np.log(MEL_FLOOR), np.float32)


@pytest.fixture
def speaker(tiny_data, monkeypatch):
    """A small network whose landmarks follow the sound, and are usual ones in silence; without
    mixed precision.
    """
    monkeypatch.setattr(generate, "autocast", lambda _: contextlib.nullcontext())
    torch.manual_seed(0)
    model = LipUNet(channels=(8, 8, 8, 8), audio_width=32).eval()
    clip = Clip(tiny_data)
    model.landmark_pose_fit[2] = torch.from_numpy(clip.points.mean(axis=0).reshape(-1))
    with torch.no_grad():
        at_rest = model.encode_audio(torch.from_numpy(silence()))[0]
        heard = model.encode_audio(torch.from_numpy(clip.mel_windows[MOMENTS]))
        model.landmark_head.bias.copy_(-model.landmark_head.weight @ at_rest)
        model.landmark_std.copy_(4 / model.predict_landmarks(heard).std())
    for head in (model.to_weights, model.to_displacement):
        torch.nn.init.normal_(head.weight, std=0.05)
    return Speaker(model, clip, clip.references(), torch.device("cpu"))


def inputs_of(speaker, windows=None):
    """The network's inputs at some moments, of other sound than the clip's if it is given."""
    clip = speaker.clip
    windows = clip.mel_windows[MOMENTS] if windows is None else windows
    return clip.inputs(MOMENTS, windows, speaker.references)


def drawn_at(speaker, strength, inputs, monkeypatch):
    """(picture, landmarks in pixels) that are drawn with that strength."""
    speaker.strength = strength
    seen = []
    real = LipUNet.draw

    def remembered(model, reference, points, target_points, *rest):
        seen.append(target_points)
        return real(model, reference, points, target_points, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(LipUNet, "draw", remembered)
        picture = draw(speaker, inputs).picture
    [points] = seen
    return picture, points


def opening(points):
    return points.flatten(1) @ torch.from_numpy(mouth_matrix())[:, 0]


def test_strength_1_is_what_the_network_itself_draws(speaker, monkeypatch):
    inputs = inputs_of(speaker)
    with torch.inference_mode():
        wanted, _ = speaker.model(*inputs)
    picture, _ = drawn_at(speaker, 1, inputs, monkeypatch)
    assert torch.equal(picture, wanted)
    monkeypatch.setattr(generate, "keep_lips_apart", lambda points: points)
    weaker, _ = drawn_at(speaker, 0.999, inputs, monkeypatch)
    assert (weaker - wanted).abs().max() < 0.02


def test_strength_0_is_the_mouth_of_silence_whatever_is_heard(speaker, monkeypatch):
    still, points = drawn_at(speaker, 0, inputs_of(speaker), monkeypatch)
    inputs = inputs_of(speaker, silence())
    quiet, quiet_points = drawn_at(speaker, 1, inputs, monkeypatch)
    speaking, _ = drawn_at(speaker, 1, inputs_of(speaker), monkeypatch)
    assert torch.allclose(points, quiet_points, atol=1e-3)
    assert (still - quiet).abs().max() < 0.02
    assert (speaking - quiet).abs().max() > 0.1


def test_more_strength_opens_the_mouth_further(speaker, monkeypatch):
    monkeypatch.setattr(generate, "keep_lips_apart", lambda points: points)
    inputs = inputs_of(speaker)
    at_rest, half, usual, more = (
        opening(drawn_at(speaker, strength, inputs, monkeypatch)[1])
        for strength in (0, 0.5, 1, 1.5)
    )
    moved = usual - at_rest
    assert moved.abs().max() > 0.5
    assert torch.allclose(half - at_rest, 0.5 * moved, atol=1e-2)
    assert torch.allclose(more - at_rest, 1.5 * moved, atol=1e-2)


def test_beyond_what_was_heard_only_the_landmarks_go(speaker, monkeypatch):
    """What the network hears stays what it has learned: no sound is heard twice as loud."""
    heard = []

    def draw_nothing(reference, points, target_points, audio_embedding, pose):
        heard.append(audio_embedding)

    monkeypatch.setattr(speaker.model, "draw", draw_nothing)
    for speaker.strength in (0, 0.5, 1, 1.5):
        draw(speaker, inputs_of(speaker))
    at_rest, half, usual, more = heard
    assert torch.allclose(half, (at_rest + usual) / 2, atol=1e-4)
    assert torch.allclose(more, usual, atol=1e-4)
    assert (usual - at_rest).abs().max() > 0.01


def movement(speaker, mel):
    """How far the mouth opens, as heard, over how far it opens in the footage."""
    frames = np.flatnonzero(~find_pauses(mel))
    with torch.inference_mode():
        heard = speaker.model.encode_audio(torch.from_numpy(MelWindows(mel)[frames]))
        pixels = speaker.model.landmark_std * speaker.model.predict_landmarks(heard)
    spread = opening(pixels.unflatten(1, (-1, 2))).std(correction=0)
    track = speaker.clip.track
    return float(spread) / (EYE_DISTANCE_PX * track.opening[track.usable].std())


@pytest.mark.parametrize("moves, strength", [
    (1.3, 1),
    (0.8, USUAL_MOVEMENT / 0.8),
    (0.4, MOST_GAIN),  # it may be a calm voice
    (0.1, 1),          # nobody speaks
])
def test_a_voice_that_moves_the_mouth_little_is_helped(speaker, monkeypatch, moves, strength):
    """Less, if it is short: chance may have made it calm."""
    mel = speaker.clip.mel_windows.mel
    speaker.model.landmark_std *= moves / movement(speaker, mel)
    assert movement(speaker, mel) == pytest.approx(moves, rel=1e-3)
    spoken = (~find_pauses(mel)).sum()
    for sure, share in ((spoken // 2, 1), (3 * spoken, 1 / 3)):
        monkeypatch.setattr(generate, "SURE_FRAMES", sure)
        assert voice_gain(speaker, mel) == pytest.approx(strength**share, rel=1e-3)


def test_silence_and_footage_of_a_still_mouth_help_nobody(speaker):
    assert voice_gain(speaker, silence().reshape(-1, 80)) == 1
    mel = speaker.clip.mel_windows.mel
    speaker.clip.track.mouth[:] = 0.1
    assert voice_gain(speaker, mel) == 1


def test_lips_never_cross():
    """Where they would they meet halfway; all else stays where it was."""
    points = torch.from_numpy(np.random.default_rng(0).uniform(20, 60, (50, 65, 2)))
    before = points.clone()
    apart = keep_lips_apart(points)
    assert torch.equal(points, before)
    upper, lower = (apart[:, part, 1] for part in (UPPER_INNER_COLUMNS, LOWER_INNER_COLUMNS))
    was_upper, was_lower = (
        points[:, part, 1] for part in (UPPER_INNER_COLUMNS, LOWER_INNER_COLUMNS)
    )
    crossed = was_upper > was_lower
    assert 0.3 < crossed.double().mean() < 0.7
    assert (lower - upper).min() > -1e-9
    assert torch.allclose(upper[crossed], lower[crossed])
    assert torch.allclose((upper + lower) / 2, (was_upper + was_lower) / 2)
    assert torch.equal(upper[~crossed], was_upper[~crossed])
    others = np.setdiff1d(np.arange(65), np.r_[UPPER_INNER_COLUMNS, LOWER_INNER_COLUMNS])
    assert torch.equal(apart[:, others], points[:, others])
    assert torch.equal(apart[..., 0], points[..., 0])


def test_the_inner_edges_of_the_lips_are_named_in_pairs(tiny_data):
    """One above the other, in every frame of a real mouth."""
    points = Clip(tiny_data).points
    upper = points[:, UPPER_INNER_COLUMNS]
    lower = points[:, LOWER_INNER_COLUMNS]
    width = np.ptp(points[:, UPPER_INNER_COLUMNS, 0], axis=1).mean()
    assert np.abs(upper[..., 0] - lower[..., 0]).mean() < 0.05 * width
    assert (lower[..., 1] - upper[..., 1]).mean() > 0
    assert (lower[..., 1] - upper[..., 1])[:, 4].min() > -1


# -- in full size ----------------------------------------------------------------------------------
def test_a_speaker_draws_in_full_size_if_asked_to(tiny_data, speaker, monkeypatch):
    monkeypatch.setattr(generate.checkpoint, "load", lambda path: (speaker.model, {"epoch": 1}))
    small, saved = load_speaker("best.pth", speaker.clip, "cpu")
    large, _ = load_speaker("best.pth", speaker.clip, "cpu", full_size=True)
    assert saved == {"epoch": 1}
    assert small.large is None
    assert np.array_equal(small.references, speaker.clip.references())
    assert large.large.scale == speaker.clip.meta.scale
    assert np.array_equal(large.references, speaker.clip.kept_references())

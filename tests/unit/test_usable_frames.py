"""Which frames may be trained on: what was not recorded is found, and nothing else."""

import numpy as np
import pytest

from utils import audio, sample, usable_frames
from utils.cli import DataError
from utils.contract import FPS, SAMPLE_RATE
from utils.shots import shots
from utils.usable_frames import (
    check_mouth,
    cut_off_frames,
    frozen_frames,
    moving_share,
    picture_rate,
    spoken_frames,
    unlike_frames,
    unrecorded_frames,
)

FRAMES = 200


class Face:
    """Track of a face: what of it these functions look at."""

    def __init__(self, opening=None, cuts=(0,), **arrays):
        self.opening = np.zeros(FRAMES) if opening is None else opening
        self.cuts = np.array(cuts)
        self.valid = np.ones(len(self.opening), bool)
        vars(self).update(arrays)

    def __len__(self):
        return len(self.valid)

    def shots(self):
        return shots(self.cuts, len(self))


def spans(flags):
    """Runs of True as (first, one after the last)."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [tuple(span) for span in edges.reshape(-1, 2).tolist()]


# -- the sound -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("silent", "expected"), [
    ((), []),
    ((100, 200), [(100, 200)]),
    ((0, 80), [(0, 80)]),
    ((90, 130), [(90, 130)]),
    ((90, 110), []),    # speech that a noise gate has cut up
    ((192, 200), [(192, 200)]),
    ((198, 200), []),   # rounding
])
@pytest.mark.parametrize("offset", [0, 0.02])
def test_frames_without_recorded_sound_are_found(silent, expected, offset):
    """Also where silence is not zero, as some converters leave it."""
    sound = np.random.default_rng(0).normal(0, 1e-3, FRAMES * 640).astype(np.float32)
    if silent:
        sound[slice(*np.multiply(silent, 640))] = offset
    assert spans(unrecorded_frames(sound, FRAMES)) == expected


@pytest.mark.parametrize("frames", [60, 200, 260])
def test_what_lies_behind_the_end_of_the_sound_was_not_recorded(frames):
    sound = np.random.default_rng(0).normal(0, 1e-3, 120 * 640 + 300).astype(np.float32)
    assert spans(unrecorded_frames(sound, frames)) == ([(120, frames)] if frames > 120 else [])


# -- the picture -----------------------------------------------------------------------------------
def test_a_second_of_one_picture_is_found():
    changes = np.full(FRAMES, 0.6)
    changes[50:100] = 0.05
    changes[75] = 1.6      # a key frame
    changes[120:140] = 0   # less than a second
    assert spans(frozen_frames(changes)) == [(50, 100)]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_repeated_pictures_of_a_low_rate_do_not_stand_still(step):
    changes = np.where(np.arange(FRAMES) % step, 0.0, 2.0)
    assert not frozen_frames(changes).any()
    assert picture_rate(changes) == pytest.approx(FPS / step)


@pytest.mark.parametrize("rate", [8, 10, 12, 15, 16, 18, 20, 24, 25])
def test_the_rate_is_that_of_the_pictures_not_of_the_file(rate):
    """Pictures that differ somewhat in how much they change; an encoder changes repetitions."""
    shown = (np.arange(FRAMES) * rate / FPS + 1e-6).astype(int)
    rng = np.random.default_rng(2)
    changes = np.where(np.diff(shown, prepend=-1) > 0, rng.uniform(1, 3, FRAMES), 0.08)
    assert picture_rate(changes) == pytest.approx(rate, abs=0.3)


def test_a_drawing_that_rests_has_no_low_rate():
    changes = np.where(np.arange(FRAMES) % 40 < 12, 1.0, 0.0)
    assert picture_rate(changes) == FPS
    assert picture_rate(np.zeros(FRAMES)) == FPS


def test_lips_and_chin_beyond_the_edge_are_found():
    landmarks = np.full((FRAMES, 65, 2), 50, np.float32)
    landmarks[10, 40:46] = -9      # a cheek
    landmarks[20, 5, 0] = -1       # a lip
    landmarks[30, 50, 1] = 81      # the chin
    landmarks[40, 30, 0] = 101
    cut_off = cut_off_frames(Face(landmarks=landmarks), (100, 80))
    assert np.flatnonzero(cut_off).tolist() == [20, 30, 40]


# -- the mouth -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def spoken():
    """20 s of the drawn sample: (opening in eye distances, log-mel)."""
    script = sample.make_script(20, 1)
    opening = 0.2 * sample.mouth_curve(script)[:, 0]
    return opening, audio.log_mel(sample.synthesise(script, 1), len(opening))


def all_spoken(mel):
    return spoken_frames(mel, np.ones(len(mel) // 4, bool))


def test_a_mouth_that_speaks_moves(spoken):
    opening, mel = spoken
    recorded = np.ones(len(opening), bool)
    assert moving_share(Face(opening), mel, recorded) > 0.95
    check_mouth(Face(opening), mel)


@pytest.mark.parametrize("resting", [0.0, 0.1])
def test_a_photo_does_not_move(spoken, resting):
    """What the landmarker makes of it trembles; other photos of a slide show are no movement."""
    opening, mel = spoken
    recorded = np.ones(len(opening), bool)
    still = resting + np.random.default_rng(1).normal(0, 0.002, len(opening))
    assert moving_share(Face(still), mel, recorded) == 0
    slides = still + 0.1 * (np.arange(len(still)) // 75 % 2)
    assert moving_share(Face(slides, range(0, len(still), 75)), mel, recorded) == 0
    with pytest.raises(DataError, match="never moves while speech is heard"):
        check_mouth(Face(still), mel)


def test_the_share_is_that_of_the_speech(spoken):
    """The picture stands in the last 8 of 20 s; who is not seen does not count, nor a pause."""
    opening, mel = spoken
    recorded = np.ones(len(opening), bool)
    half = np.where(np.arange(len(opening)) < 300, opening, opening[300])
    assert moving_share(Face(half), mel, recorded) == pytest.approx(0.64, abs=0.06)
    valid = np.arange(len(opening)) < 300
    assert moving_share(Face(half, valid=valid), mel, recorded) > 0.95
    assert moving_share(Face(half), mel, ~recorded) == 1


def test_speech_is_looked_for_where_sound_was_recorded(spoken):
    """Digital silence beside it changes nothing."""
    _, mel = spoken
    recorded = np.arange(len(mel) // 4) < 250
    cut = np.where(np.repeat(recorded, 4)[:, None], mel, np.float32(np.log(1e-5)))
    found = spoken_frames(cut, recorded)
    assert not found[250:].any()
    assert np.array_equal(found[:250], all_spoken(mel[:1000]))
    assert not spoken_frames(cut, np.zeros(len(recorded), bool)).any()


# -- who it is -------------------------------------------------------------------------------------
def people(*looks):
    """Track and thumbnails of shots of 2 s: (px that the landmarks differ by, colour) each."""
    rng = np.random.default_rng(3)
    face = rng.uniform(40, 120, (65, 2))
    landmarks = []
    thumbnails = []
    for spread, colour in looks:
        person = face + spread * np.sign(np.sin(np.arange(130))).reshape(65, 2)
        landmarks.append(person + rng.normal(0, 0.5, (50, 65, 2)))
        thumbnails.append(np.full((50, 11, 14, 3), colour, np.uint8))
    frames = 50 * len(looks)
    track = Face(
        np.zeros(frames),
        range(0, frames, 50),
        landmarks=np.concatenate(landmarks),
        transform=np.tile(np.eye(2, 3), (frames, 1, 1)),
        pose=np.zeros((frames, 2))
    )
    return track, np.concatenate(thumbnails)


SKIN = (190, 140, 120)


@pytest.mark.parametrize(("other", "differs"), [
    ((0, SKIN), False),
    ((2.5, SKIN), False),
    ((8, SKIN), True),
    ((4, (190, 120, 90)), True),
    ((2, (140, 190, 120)), True),     # colours turned around
    ((0.5, (120, 88, 75)), False),    # less light
    ((0.5, (200, 140, 60)), False),   # another camera, as in GRID
])
def test_another_person_is_noticed(other, differs):
    unlike = unlike_frames(*people((0, SKIN), (0, SKIN), other))
    assert spans(unlike) == ([(100, 150)] if differs else [])


def test_one_shot_is_one_person():
    assert not unlike_frames(*people((0, SKIN))).any()
    track, thumbnails = people((0, SKIN), (9, SKIN))
    track.valid[60:] = False  # too little is seen of the other
    assert not unlike_frames(track, thumbnails).any()


def test_flaws_are_said_once_each_with_count_and_seconds(capsys):
    nothing = np.zeros(FRAMES, bool)
    unrecorded = np.arange(FRAMES) >= 150
    flaws = usable_frames.Flaws(unrecorded, nothing, nothing)
    flaws.say(np.arange(FRAMES) < 175)
    said = capsys.readouterr().err.splitlines()
    assert said == ["note: no sound was recorded in 25 frames (6.0-7.0 s); they are rendered, but "
                    "never trained on"]
    assert SAMPLE_RATE == 640 * FPS

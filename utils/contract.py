"""The contract between the four scripts: constants, and where each file lies.

The scripts meet only through files. Whatever two of them must agree on stands here, once. A change
of these constants changes the data: run preprocess.py and train.py again after it.
"""

from pathlib import Path

VERSION = 3  # of the files in data/ and of the checkpoints; raise it when their meaning changes

# -- pictures --------------------------------------------------------------------------------------
FPS = 25                      # pictures per second, whatever the source has
FACE_SIZE = 168               # px: an aligned face is FACE_SIZE x FACE_SIZE, RGB uint8
LOWER_TOP = FACE_SIZE // 2    # px: face[LOWER_TOP:] is the lower half of an aligned face
LOWER_HEIGHT = FACE_SIZE - LOWER_TOP  # px: a lower half is LOWER_HEIGHT high, FACE_SIZE wide

# Where the points that speech does not move lie in the aligned face, as a share of FACE_SIZE:
# (x, y) by landmark number. The outer eye corners are 0.35 from each other on the line y = 0.39. So
# the chin of a wide open mouth stays inside row 160 of 168, and the upper lip below row 84.
TEMPLATE = {
    33: (0.325, 0.390),   # outer corner of one eye
    133: (0.434, 0.393),
    362: (0.566, 0.393),
    263: (0.675, 0.390),  # outer corner of the other eye
    168: (0.500, 0.369),  # nose bridge, from the top down
    6: (0.500, 0.399),
    197: (0.500, 0.429),
}

# px between the outer eye corners of an aligned face
EYE_DISTANCE_PX = FACE_SIZE * (TEMPLATE[263][0] - TEMPLATE[33][0])

# -- sound -----------------------------------------------------------------------------------------
SAMPLE_RATE = 16000  # Hz, mono
N_FFT = 800          # samples of one spectrum (50 ms), and of its window
HOP = 160            # samples from one mel row to the next: 100 rows a second
N_MELS = 80          # bands of one row
MEL_FMIN = 55        # Hz, lower end of the lowest band
MEL_FMAX = 7600      # Hz, upper end of the highest band
MEL_FLOOR = 1e-5     # magnitudes below it count as silence: log(1e-5) = -11.51
ROWS_PER_FRAME = SAMPLE_RATE // (HOP * FPS)  # exactly 4: rows 4i..4i+3 belong to frame i
WINDOW_ROWS = 32     # rows on either side of a frame's middle that the network gets: +-320 ms

# -- footage ---------------------------------------------------------------------------------------
REFERENCE_GAP_FRAMES = FPS  # a reference frame is at least this far (1 s) from the frame it serves
MIN_FRAMES = 2 * FPS  # 2 s: with less footage no frame has a reference that is far enough away

CONTRACT = {
    "version": VERSION,
    "fps": FPS,
    "face_size": FACE_SIZE,
    "template": {str(number): list(point) for number, point in TEMPLATE.items()},
    "sample_rate": SAMPLE_RATE,
    "n_fft": N_FFT,
    "hop": HOP,
    "n_mels": N_MELS,
    "mel_fmin": MEL_FMIN,
    "mel_fmax": MEL_FMAX,
    "mel_floor": MEL_FLOOR,
    "window_rows": WINDOW_ROWS,
}

# What a file is that FFmpeg cannot open; of all others it says so itself.
VIDEO_ENDINGS = {
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv",
    ".mts", ".m2ts", ".3gp", ".mxf", ".vob", ".ogv", ".dv",
}
SOUND_ENDINGS = {
    ".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".wma", ".aiff", ".aif", ".amr",
    ".oga", ".caf", ".mka", ".weba",
}


def lower_size(scale: int = 1) -> tuple[int, int]:
    """(width, height) of a lower face that is `scale` times as large as the network's, px."""
    return FACE_SIZE * scale, LOWER_HEIGHT * scale


def face_path(data: str | Path, i: int) -> Path:
    """PNG of the aligned face of frame i."""
    return Path(data) / "face" / f"{i:06d}.png"


def reference_path(data: str | Path, i: int) -> Path:
    """PNG of the lower half of frame i, `scale` times as large as the network's."""
    return Path(data) / "reference" / f"{i:06d}.png"


def mel_path(data: str | Path, i: int) -> Path:
    """npy file with the mel rows (4, 80) float32 of frame i."""
    return Path(data) / "audio" / f"{i:06d}.npy"


def lower_face_path(folder: str | Path, j: int) -> Path:
    """PNG of generated lower face j in the folder of a prediction."""
    return Path(folder) / f"{j:06d}.png"

"""Move a picture so that its landmarks come to lie on other landmarks.

A displacement field says, for each pixel of the new picture, how far away in the old picture its
colour is fetched. One unit of displacement is a tenth of the picture's width, so that the U-Net's
refinement of the field has values of about 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS_SHARE = 0.07      # of the width, 12 px of 168: how far a landmark takes its surroundings
RIDGE = 0.1              # regularisation: landmarks may miss their targets a little, for smoothness
UNITS_PER_WIDTH = 10     # displacement of 1 = a tenth of the width
GRID_PX = 4              # the field is smooth: it is computed at every 4th pixel, then enlarged


def rbf_displacement(
    target_points: Tensor,
    points: Tensor,
    height: int,
    width: int,
) -> Tensor:
    """Displacement field (B, R, 2, height, width) that moves each reference's landmarks onto the
    target landmarks, as warp() takes it: Gaussian radial basis functions at 1/4 resolution.

    target_points (B, L, 2) and points (B, R, L, 2) are x, y in pixels, float32. Between the
    landmarks the displacement is interpolated, away from them it fades (radial basis functions
    with a ridge, Broomhead and Lowe 1988).
    """
    rows = -(-height // GRID_PX)
    columns = -(-width // GRID_PX)
    device = target_points.device
    batch, landmarks, _ = target_points.shape
    grid = grid_centres(rows, columns, device)                                   # (P, 2)
    grid = grid * grid.new_tensor((width / columns, height / rows)) - 0.5        # px
    grid = grid.expand(batch, -1, -1)                                            # (B, P, 2)
    with torch.autocast(device.type, enabled=False):
        moves = points - target_points[:, None]                                  # (B, R, L, 2) px
        moves = moves * (UNITS_PER_WIDTH / width)
        moves = moves.transpose(1, 2).flatten(2)                                 # (B, L, 2R)
        kernel = gaussian_kernel(target_points, target_points, width)            # (B, L, L)
        kernel = kernel + RIDGE * torch.eye(landmarks, device=device)
        coefficients = torch.linalg.solve(kernel, moves)                         # (B, L, 2R)
        field = gaussian_kernel(grid, target_points, width)                      # (B, P, L)
        field = field @ coefficients                                             # (B, P, 2R)
    field = field.transpose(1, 2)                                                # (B, 2R, P)
    field = field.reshape(-1, 2, rows, columns)                                  # (BR, 2, h/4, w/4)
    field = F.interpolate(field, (height, width), mode="bilinear")               # (BR, 2, h, w)
    return field.unflatten(0, (batch, -1))                                       # (B, R, 2, h, w)


def gaussian_kernel(a: Tensor, b: Tensor, width: int) -> Tensor:
    """Closeness (B, N, M) of points a (B, N, 2) to points b (B, M, 2): 1 at the same place, 0 far
    away. The radius is RADIUS_SHARE of `width`.
    """
    distance = torch.cdist(a, b) / (RADIUS_SHARE * width)
    return torch.exp(-0.5 * distance.square())


def warp(picture: Tensor, displacement: Tensor) -> Tensor:
    """Picture (B, C, H, W) whose pixels are fetched from `picture` at the places that
    `displacement` (B, 2, H, W; x, y) says. Beyond the edge the edge is repeated.
    """
    height, width = picture.shape[2:]
    size = picture.new_tensor((width, height), dtype=torch.float32)
    grid = grid_centres(height, width, picture.device)                           # (H W, 2) px
    grid = grid.reshape(height, width, 2) * (2 / size) - 1                       # -1..1
    step = (2 / UNITS_PER_WIDTH) * width / size                                  # of one unit
    places = grid + displacement.permute(0, 2, 3, 1) * step                      # (B, H, W, 2)
    return F.grid_sample(
        picture.contiguous(),
        places,
        padding_mode="border",
        align_corners=False,
    )


def grid_centres(rows: int, columns: int, device: torch.device) -> Tensor:
    """Centres (rows x columns, 2) of the cells of a grid, row by row, as x, y in cells."""
    y = torch.arange(rows, device=device) + 0.5
    x = torch.arange(columns, device=device) + 0.5
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((x, y), dim=-1).reshape(-1, 2)

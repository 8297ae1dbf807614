"""The network, its warp and its losses. Tensors only: nothing here knows a file or a script."""

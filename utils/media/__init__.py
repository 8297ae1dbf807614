"""Video and sound files through PyAV (FFmpeg inside the wheel): only this room knows containers."""

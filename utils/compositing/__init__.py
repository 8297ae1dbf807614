"""Generated lower faces back into the source frames, with the camera's fine detail."""

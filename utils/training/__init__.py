"""What train.py needs: devices, processes, the schedule, its state and checkpoints."""

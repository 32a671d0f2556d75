"""Calibration of the thresholds and scales in `configs/mini.yaml` on the trained miniatures."""

"""What classification and detection share: configuration, devices, the training loop, checkpoints and logs."""

"""How a training is divided among ranks: ddp, FSDP2, tensor and pipeline parallelism."""

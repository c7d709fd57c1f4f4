"""What packages of all modalities share: ONNX, the card, the checks."""

"""Image embeddings with angular-margin losses, in PyTorch Lightning."""

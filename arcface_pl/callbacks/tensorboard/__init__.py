"""What a run draws in TensorBoard."""

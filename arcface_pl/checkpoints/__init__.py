"""Reading checkpoints safely, writing files atomically, and the specs that rebuild a model."""

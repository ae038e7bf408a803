"""The LightningModule, its optimizers, schedules and scores."""

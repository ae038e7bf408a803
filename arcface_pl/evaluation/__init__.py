"""A trained model measured on trained and unseen classes, with thresholds and protocols."""

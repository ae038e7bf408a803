"""Images in folders: finding, splitting and reading them."""

"""Images in folders: finding, dividing and reading them."""

"""The data sets that come by name: where they are found, downloaded and read."""

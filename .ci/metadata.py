"""Build hook: the README's links made absolute, and the project's URLs, for the page on the package index.

They need the repository's address, in ARCFACE_PL_REPOSITORY (the release workflow sets it). Without it the README goes
into the wheel as it is, and no URLs are claimed.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Metadata(MetadataHookInterface):
    """Fills in ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill them in."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        address = os.environ.get("ARCFACE_PL_REPOSITORY", "").rstrip("/")
        if address:
            text = re.sub(r"\]\((?!https?:|#)([^)]+\.(?:png|svg))\)", rf"]({address}/raw/main/\1)", text)
            text = re.sub(r"\]\((?!https?:|#)([^)]+)\)", rf"]({address}/blob/main/\1)", text)
            metadata["urls"] = {
                "Homepage": address,
                "Documentation": f"{address}/blob/main/README.md",
                "Changelog": f"{address}/blob/main/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}

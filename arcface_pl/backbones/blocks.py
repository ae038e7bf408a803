"""The blocks of a network, from images to embeddings: what "all but the last N blocks" counts."""

from collections.abc import Iterator

from torch import nn

_Named = tuple[str, nn.Module]
_CONTAINERS = (nn.Sequential, nn.ModuleList)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_JOINED = (*BATCH_NORMS, *_INSTANCE_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)


def blocks_of(network: nn.Module) -> list[list[_Named]]:
    """Return the parts of a network that have weights, in their order in the network.

    A block is a layer with the normalization that follows it, or an item of a Sequential or ModuleList: a residual
    block, a transformer layer.

    Args:
        network: A backbone.

    Returns:
        Each block's modules with their names in the network.
    """
    blocks: list[list[_Named]] = []
    for name, module in _parts("", network):
        if blocks and isinstance(module, _JOINED):
            blocks[-1].append((name, module))
        else:
            blocks.append([(name, module)])
    return blocks


def _parts(place: str, module: nn.Module) -> Iterator[_Named]:
    children = [
        (f"{place}{name}", child) for name, child in module.named_children() if any(True for _ in child.parameters())
    ]
    for name, child in children:
        alone = len(children) == 1 and any(True for _ in child.children())  # a wrapper around the network
        if alone or type(child) in _CONTAINERS or any(map(_is_stack, child.children())):
            yield from _parts(f"{name}.", child)
        else:
            yield name, child


def _is_stack(module: nn.Module) -> bool:
    """Whether a module is a list of alike blocks, such as the layers of a transformer's encoder."""
    items = list(module.children())
    alike = len(items) > 1 and len({type(item) for item in items}) == 1
    return type(module) in _CONTAINERS and alike and any(True for _ in items[0].children())

"""Images per second of a face recognition step on a GPU: network, loss over many classes, backward pass and SGD.

python scripts/benchmarks/gpu.py --depth 50 --batch 256 --classes 100000
"""

import argparse
import json
import statistics

import torch

from arcface_pl import ArcFaceHead
from arcface_pl.backbones import IResNet


def images_per_second(depth: int, batch: int, num_classes: int, precision: str, device: str) -> dict[str, float]:
    """Train on one batch of random 112 x 112 images in bfloat16 autocast; the median step of 20, and the peak memory.

    Args:
        depth: Of the `IResNet`, with 512 dimensions.
        batch: Images per step.
        num_classes: Classes of the `ArcFaceHead`.
        precision: The head's ``non_target_precision``.
        device: "cuda", or "cpu" to try it.
    """
    torch.manual_seed(0)
    with torch.device(device):
        network = IResNet(depth).to(memory_format=torch.channels_last)
        head = ArcFaceHead(512, num_classes, scale=64.0, non_target_precision=precision)
        images = torch.randn(batch, 3, 112, 112).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(num_classes, (batch,))
    head.check_labels = False
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.01, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = head.loss(network(images), labels)
        loss.backward()
        optimizer.step()

    if device == "cpu":
        step()
        return {}
    seconds = []
    for number in range(23):  # the first three load and choose kernels
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        seconds += [begin.elapsed_time(end) / 1000] * (number >= 3)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"images_per_second": batch / statistics.median(seconds), "peak_gib": peak}


def main() -> None:
    """Measure every precision of the head; one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100_000])
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    for num_classes in arguments.classes:
        for precision in ("float32", "tf32", "bfloat16"):
            result = images_per_second(arguments.depth, arguments.batch, num_classes, precision, arguments.device)
            print(json.dumps({"classes": num_classes, "precision": precision, **result}), flush=True)


if __name__ == "__main__":
    main()

"""Matrix products of batch x classes size, with operands rounded where that was asked for and sums in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


class Products:
    """Products of float32 matrices: operands are rounded to ``precision``, sums and results are float32.

    Args:
        precision: "float32" leaves operands as they are, and so does "tf32" on anything but a CUDA device, where it is
            the products that round (see `tensor_cores`). "bfloat16" rounds them; a CPU then multiplies the rounded
            numbers in float32, with the result of a GPU's tensor cores but no faster.
        like: Dtype and device of the operands; float64 is never rounded.
    """

    def __init__(self, precision: Precision, like: Tensor) -> None:
        self.rounds = precision == "bfloat16" and like.dtype == torch.float32
        self.native = self.rounds and like.is_cuda

    def operand(self, matrix: Tensor) -> Tensor:
        """Return a matrix as the products take it."""
        if not self.rounds:
            return matrix
        rounded = matrix.to(torch.bfloat16)
        return rounded if self.native else rounded.to(matrix.dtype)

    def mm(self, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        """Multiply two operands into ``out``, float32."""
        return torch.mm(left, right, **({"out_dtype": out.dtype} if self.native else {}), out=out)

    def add_mm(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        """Add the product of two operands to ``total``, float32."""
        if self.native:
            total += torch.mm(left, right, out_dtype=total.dtype)
        else:
            total.addmm_(left, right)


@contextmanager
def tensor_cores(precision: Precision) -> Iterator[None]:
    """Let CUDA's float32 products use TF32 within the context, if ``precision`` is "tf32"."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if precision == "tf32":
        matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        if precision == "tf32":
            matmul.fp32_precision = before

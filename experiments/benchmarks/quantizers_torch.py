"""The PyTorch sides of `quantizers.py`: `vector-quantize-pytorch`, and what one would write by hand."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import vector_quantize_pytorch as vqp

from experiments.benchmarks import quantizers_cases as shared
from experiments.benchmarks.quantizers_cases import Case, Side


def vqp_side(case: Case) -> Side:
    """`vector-quantize-pytorch`, straight-through (its default would be the rotation trick)."""
    module, data = _module(case), shared.inputs(case)
    module.train(case.task == "training step")
    z, cotangent = torch.from_numpy(data["z"]), torch.from_numpy(data["cotangent"])
    books = [layer._codebook for layer in _layers(case, module)]
    for book, start in zip(books, data.get("codebooks", ())):
        for buffer in (book.embed, book.embed_avg):
            buffer.data.copy_(torch.from_numpy(start)[None])

    def look_up():
        with torch.no_grad():
            out = module(z)
        return {"codes": out[1], "values": out[0]}

    def training_step():
        x = z.detach().requires_grad_()
        out = module(x)
        loss = out[2].sum() if len(out) > 2 else torch.zeros(())
        (loss + (out[0] * cotangent).sum()).backward()
        return {"codes": out[1], "values": out[0].detach(), "loss": loss.detach(), "gradient": x.grad}

    step = look_up if case.task == "look-up" else training_step
    return _side(case, step, lambda: [book.embed[0] for book in books])


def _module(case: Case) -> Any:
    if case.family == "lfq":
        return vqp.LFQ(
            dim=case.width,
            codebook_size=case.codes,
            entropy_loss_weight=shared.ENTROPY_WEIGHT,
            commitment_loss_weight=shared.COMMITMENT,
        )
    if case.family == "fsq":
        return vqp.FSQ(levels=list(shared.FSQ_LEVELS))
    options: Any = {
        "dim": case.width,
        "codebook_size": case.codes,
        "decay": shared.DECAY,
        "eps": shared.EPSILON,
        "commitment_weight": shared.COMMITMENT,
        "rotation_trick": False,
    }
    if case.family == "rvq":
        return vqp.ResidualVQ(num_quantizers=case.depth, **options)
    return vqp.VectorQuantize(**options)


def _layers(case: Case, module: Any) -> list[Any]:
    return {"vq": lambda: [module], "rvq": lambda: list(module.layers)}.get(case.family, list)()


def plain_side(case: Case) -> Side:
    """Matrix product and argmax, with everything in place that can be.

    Raises:
      ValueError: there is no codebook.
    """
    data = shared.inputs(case)
    if "codebooks" not in data:
        raise ValueError(f"{case} has no codebook to search by hand; compare with vqp")
    z = torch.from_numpy(data["z"]).reshape(case.tokens, -1)
    cotangent = torch.from_numpy(data["cotangent"]).reshape(case.tokens, -1)
    books = [torch.from_numpy(book.copy()) for book in data["codebooks"]]
    counts = [torch.ones(case.codes) for _ in books]
    sums = [book.clone() for book in books]

    def choose(x, book):
        return torch.addmm(torch.square(book).sum(dim=1), x, book.T, beta=-0.5).argmax(dim=1)

    def look_up():
        with torch.no_grad():
            residual, total, codes = z, 0.0, []
            for i, book in enumerate(books):
                codes.append(choose(residual, book))
                chosen = book[codes[-1]]
                total = total + chosen if i else chosen
                residual = residual - chosen if i + 1 < case.depth else residual
        return {"codes": torch.stack(codes, dim=1), "values": total}

    def training_step():
        x = z.detach().requires_grad_()
        residual, total, losses, codes = x, torch.zeros(()), torch.zeros(()), []
        for i, book in enumerate(books):
            with torch.no_grad():
                codes.append(choose(residual, book))
                chosen = book[codes[-1]]
                _move(residual, codes[-1], book, counts[i], sums[i])
            losses = losses + shared.COMMITMENT * F.mse_loss(residual, chosen)
            total = total + (residual + (chosen - residual).detach())
            residual = residual - chosen
        (losses + (total * cotangent).sum()).backward()
        values = {"codes": torch.stack(codes, dim=1), "values": total.detach()}
        return values | {"loss": losses.detach(), "gradient": x.grad}

    return _side(case, look_up if case.task == "look-up" else training_step, lambda: books)


def _move(x, codes, book, counts, sums):
    """The step of the moving averages, in place."""
    size = len(counts)
    counts.lerp_(torch.bincount(codes, minlength=size).float(), 1 - shared.DECAY)
    sums.lerp_(torch.zeros_like(sums).index_add_(0, codes, x), 1 - shared.DECAY)
    total = counts.sum()
    smoothed = (counts + shared.EPSILON) / (total + size * shared.EPSILON) * total
    torch.div(sums, smoothed[:, None], out=book)


def _side(case: Case, step: Any, codebooks: Any) -> Side:
    def results():
        out = {name: x.numpy() for name, x in step().items()}
        found = {name: out[name].reshape(case.tokens, -1) for name in ("values", "gradient") if name in out}
        found["codes"] = _codes(case, out["codes"].reshape(case.tokens, -1))
        if "loss" in out:
            found["loss"] = out["loss"]
        if case.task == "training step" and case.family in ("vq", "rvq"):
            found["codebooks"] = np.stack([book.numpy().copy() for book in codebooks()])
        return found

    def run(count):
        for _ in range(count):
            step()

    return Side(results, run)


def _codes(case: Case, codes: np.ndarray) -> np.ndarray:
    """In jaxtok's order: bit 0 first, and scalar codes channel by channel."""
    if case.family == "lfq":
        bits = codes[:, 0, None] >> np.arange(case.width - 1, -1, -1) & 1
        return (bits << np.arange(case.width)).sum(axis=1, keepdims=True)
    if case.family == "fsq":
        levels = np.asarray(shared.FSQ_LEVELS)
        return codes[:, 0, None] // np.cumprod([1, *levels[:-1]]) % levels
    return codes

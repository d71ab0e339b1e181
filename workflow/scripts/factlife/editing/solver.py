"""One solver for all closed forms: the smallest change of a weight that gives edited keys their residuals.

ROME, EMMET, MEMIT, MEMIT sequential and AlphaEdit differ only in what a change costs, M, and in the ridge λ:

    Δ = R (λ I + Kᵀ M⁻¹ K)⁻¹ Kᵀ M⁻¹

====================  =================================  ===========================  =========================================
editor                M                                  λ                            source
====================  =================================  ===========================  =========================================
ROME                  C                                  0, one key                   Meng et al. 2022, eq. 2
EMMET                 C                                  0.1                          Gupta et al. 2024 (2403.14236), eq. 8
MEMIT                 C                                  count of keys                Meng et al. 2023, eq. 14
MEMIT sequential      C + Kp Kpᵀ / λ                     count of keys                past keys Kp join the spared ones
AlphaEdit             (I + U₀ᵀ Kp Kpᵀ U₀ / λ) on span U₀ L2                           Fang et al. 2025, eq. 12; U₀: null space of C
====================  =================================  ===========================  =========================================

C is the second moment of the keys to spare. All is computed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from factlife.editing.requests import EditError


class UpdateCost:
    """What changes cost: the quadratic form M on a space of keys, with the keys of earlier batches in it.

    Attributes:
        basis: orthonormal columns of the space in which changes may read, (d_key, r), or None for all of it.
        factor: Cholesky factor of M there, (r, r).
    """

    def __init__(self, form: Tensor, basis: Tensor | None = None) -> None:
        """Take up M.

        Raises:
            EditError: it is not finite or not positive definite.
        """
        self.form, self.basis = form.double(), basis
        if not torch.isfinite(self.form).all():
            raise EditError(
                "the second moment of the keys is not finite; measure it again, on a corpus that the model reads"
            )
        factor, failed = torch.linalg.cholesky_ex(self.form)
        if failed:
            raise EditError(
                f"the second moment of the keys is singular: {int(failed) - 1} of {len(self.form)} directions could be told\n"
                "  read more tokens (`multiple`) or a corpus with more different ones"
            )
        self.factor = factor

    @property
    def size(self) -> int:
        """Dimension of the space."""
        return len(self.form)

    def solve(self, keys: Tensor) -> Tensor:
        """M⁻¹ K as a map back to all keys, (d_key, n)."""
        inside = torch.cholesky_solve(self._inside(keys), self.factor)
        return inside if self.basis is None else self.basis @ inside

    def strength(self, keys: Tensor) -> Tensor:
        """Q = kᵀ M⁻¹ k of each key, (n,): of what it is asked for, a key alone gets q / (λ + q)."""
        return (keys.double() * self.solve(keys)).sum(0)

    def remember(self, keys: Tensor, weight: float) -> UpdateCost:
        """With written keys among those to spare."""
        inside = self._inside(keys)
        return UpdateCost(self.form + inside @ inside.T / weight, self.basis)

    def _inside(self, keys: Tensor) -> Tensor:
        return keys.double() if self.basis is None else self.basis.T @ keys.double()


def solve_update(residuals: Tensor, keys: Tensor, cost: UpdateCost, weight: float) -> Tensor:
    """Δ = R (λ I + Kᵀ M⁻¹ K)⁻¹ Kᵀ M⁻¹: minimises λ tr(Δ M Δᵀ) + ‖Δ K - R‖² (for λ = 0: subject to Δ K = R).

    Args:
        residuals: R, (d_model, n): what each edit's output still lacks.
        keys: K, (d_key, n): what the weight reads at each edit.
        cost: M.
        weight: λ.

    Returns:
        Δ, (d_model, d_key), float64.

    Raises:
        EditError: the keys depend on each other and there is no ridge, or there are more than the space has dimensions.
    """
    if keys.shape[1] > cost.size:
        raise EditError(
            f"{keys.shape[1]} edits are more than a layer with {cost.size} free dimensions can hold; "
            "write smaller batches, or raise `energy`"
        )
    read = cost.solve(keys)
    gram = keys.double().T @ read
    gram = (gram + gram.T) / 2 + weight * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise EditError(
            "the keys of two edits depend on each other; use an editor with a ridge, or drop one of the edits"
        )
    return residuals.double() @ torch.cholesky_solve(read.T, factor)


def null_space(moment: Tensor, *, energy: float, threshold: float | None = None) -> Tensor:
    """Directions that the keys to spare hardly use, (d_key, r): AlphaEdit's null space.

    Args:
        moment: C, (d_key, d_key).
        energy: the smallest eigenvalues are taken whose sum is at most this share of all.
        threshold: instead, eigenvalues below this, as the original has it.

    Raises:
        EditError: there is none.
    """
    if not torch.isfinite(moment).all():
        raise EditError(
            "the second moment of the keys is not finite; measure it again, on a corpus that the model reads"
        )
    values, vectors = torch.linalg.eigh(moment.double())
    values = values.clamp(min=0)
    # The share is met in spite of rounding where it is met exactly.
    free = values < threshold if threshold is not None else values.cumsum(0) <= (energy + 1e-12) * values.sum()
    if not free.any():
        raise EditError(
            "the null space has dimension zero: no direction of the keys is free; raise `energy` or `threshold`"
        )
    return vectors[:, free]


def ridge_for_fraction(share: float, strengths: Tensor) -> float:
    """λ at which the average key gets this share of its residual: from share = q / (λ + q)."""
    return float(strengths.mean()) * (1 - share) / share

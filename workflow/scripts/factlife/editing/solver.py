"""One solver for all closed-form editors: the smallest weight change that maps edited keys to their residuals.

ROME, EMMET, MEMIT, sequential MEMIT and AlphaEdit differ only in the cost M of a change and in the ridge λ:

    Δ = R (λ I + Kᵀ M⁻¹ K)⁻¹ Kᵀ M⁻¹

====================  =================================  ===========================  =========================================
editor                M                                  λ                            source
====================  =================================  ===========================  =========================================
ROME                  C                                  0, one key                   Meng et al. 2022, eq. 2
EMMET                 C                                  0.1                          Gupta et al. 2024 (2403.14236), eq. 8
MEMIT                 C                                  count of keys                Meng et al. 2023, eq. 14
MEMIT sequential      C + Kp Kpᵀ / λ                     count of keys                past keys Kp join the preserved ones
AlphaEdit             (I + U₀ᵀ Kp Kpᵀ U₀ / λ) on span U₀ L2                           Fang et al. 2025, eq. 12; U₀: null space of C
====================  =================================  ===========================  =========================================

C is the covariance of the keys to preserve. All computations use float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from factlife.editing.requests import EditError


class UpdateCost:
    """The cost of a weight change: a quadratic form M on a space of keys, including keys of previous batches.

    Attributes:
        basis: orthonormal columns of the space to which changes are restricted, (d_key, r), or None for no restriction.
        factor: Cholesky factor of M on this space, (r, r).
    """

    def __init__(self, matrix: Tensor, basis: Tensor | None = None) -> None:
        """Factorise M.

        Raises:
            EditError: M is not finite or not positive definite.
        """
        self.matrix, self.basis = matrix.double(), basis
        if not torch.isfinite(self.matrix).all():
            raise EditError("the key covariance is not finite; compute it again, on a corpus that the model can read")
        factor, failure = torch.linalg.cholesky_ex(self.matrix)
        if failure:
            raise EditError(
                f"the key covariance is singular: only {int(failure) - 1} of {len(self.matrix)} directions are determined\n"
                "  read more tokens (`tokens_per_key_dim`) or a more diverse corpus"
            )
        self.factor = factor

    @property
    def size(self) -> int:
        """Dimension of the space."""
        return len(self.matrix)

    def solve(self, keys: Tensor) -> Tensor:
        """M⁻¹ K, mapped back to the space of all keys, (d_key, n)."""
        solution = torch.cholesky_solve(self._project(keys), self.factor)
        return solution if self.basis is None else self.basis @ solution

    def leverage(self, keys: Tensor) -> Tensor:
        """Q = kᵀ M⁻¹ k of each key, (n,): a single key receives the fraction q / (λ + q) of its residual."""
        return (keys.double() * self.solve(keys)).sum(0)

    def preserve(self, keys: Tensor, weight: float) -> UpdateCost:
        """The cost with edited keys among those to preserve."""
        projection = self._project(keys)
        return UpdateCost(self.matrix + projection @ projection.T / weight, self.basis)

    def _project(self, keys: Tensor) -> Tensor:
        return keys.double() if self.basis is None else self.basis.T @ keys.double()


def solve_update(residuals: Tensor, keys: Tensor, cost: UpdateCost, ridge: float) -> Tensor:
    """Δ = R (λ I + Kᵀ M⁻¹ K)⁻¹ Kᵀ M⁻¹: minimises λ tr(Δ M Δᵀ) + ‖Δ K - R‖² (for λ = 0: subject to Δ K = R).

    Args:
        residuals: R, (d_model, n): target minus current output of each edit.
        keys: K, (d_key, n): input of the weight at each edit.
        cost: M.
        ridge: λ.

    Returns:
        Δ, (d_model, d_key), float64.

    Raises:
        EditError: the keys are linearly dependent and λ is 0, or there are more keys than the space has dimensions.
    """
    if keys.shape[1] > cost.size:
        raise EditError(
            f"{keys.shape[1]} edits are more than a layer with {cost.size} free dimensions can hold; "
            "use smaller batches, or raise `nullspace_energy`"
        )
    solution = cost.solve(keys)
    gram = keys.double().T @ solution
    gram = (gram + gram.T) / 2 + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failure = torch.linalg.cholesky_ex(gram)
    # A pivot that should be 0 may come out as rounding error of either sign.
    if failure or (factor.diagonal() ** 2 <= 1e-12 * gram.diagonal()).any():
        raise EditError(
            "the keys of some edits are linearly dependent; use an editor with a ridge, or drop one of the edits"
        )
    return residuals.double() @ torch.cholesky_solve(solution.T, factor)


def null_space(covariance: Tensor, *, energy: float, threshold: float | None = None) -> Tensor:
    """Directions that the keys to preserve hardly use, (d_key, r): AlphaEdit's null space.

    Args:
        covariance: C, (d_key, d_key).
        energy: take the smallest eigenvalues whose sum is at most this fraction of the total.
        threshold: take the eigenvalues below this value instead, as published.

    Raises:
        EditError: the null space is empty.
    """
    if not torch.isfinite(covariance).all():
        raise EditError("the key covariance is not finite; compute it again, on a corpus that the model can read")
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance.double())
    eigenvalues = eigenvalues.clamp(min=0)
    if threshold is not None:
        is_null = eigenvalues < threshold
    else:
        # The tolerance admits a sum that equals the fraction up to rounding.
        is_null = eigenvalues.cumsum(0) <= (energy + 1e-12) * eigenvalues.sum()
    if not is_null.any():
        raise EditError(
            "the null space has dimension zero: the keys use every direction; raise `nullspace_energy` or "
            "`nullspace_threshold`"
        )
    return eigenvectors[:, is_null]


def ridge_for_fraction(fraction: float, leverages: Tensor) -> float:
    """λ at which the average key receives this fraction of its residual: from fraction = q / (λ + q)."""
    return float(leverages.mean()) * (1 - fraction) / fraction

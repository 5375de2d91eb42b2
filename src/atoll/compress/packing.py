"""A weight's rows as a GGUF file holds them, by the best method that its form and what is known allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atoll.compress import forms, gptq, kquants

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("gptq", "rtn", "imatrix", "plain")
SOLVED = ("q4_0", *kquants.SPANS)  # forms that GPTQ makes whole numbers for


def pack(weight: Tensor, form: str, method: str, group: int, hessian: Tensor | None) -> Any:
    """`hessian` as for `gptq.solve`; None where there is no calibration."""
    if form == "q4_0" and weight.shape[1] % group == 0:
        rounded = None
        if method == "gptq" and hessian is not None:
            rounded = gptq.solve(weight, hessian, group)
        elif method == "rtn":
            rounded = gptq.nearest(weight, group)
        if rounded is not None:
            return forms.pack_levels(rounded.levels.numpy(), rounded.scales.numpy())
    elif form in kquants.SPANS and method == "gptq" and hessian is not None:
        return kquants.solve(weight, hessian, form)
    return forms.pack(weight.numpy(), form, None if hessian is None else hessian.diagonal().numpy())

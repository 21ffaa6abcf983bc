"""m-GTR, the multi-grained token regulator (§2.3): each loss a pure function with its equation number.

Paper name -> ours: X_Omega `index_BH`, X_T `text_BH`, X_m `inputs_BMD`, c_m `codewords_BMD`, omega_m `codes_BM`;
sim is the cosine. Everything computes in float32, also under autocast. As printed, Eq. 8 and 9 lack the logarithm and
a temperature, and Eq. 10's weight can be zero or negative where Eq. 9 divides by it. The defaults mend that;
`literal=True` is what the paper prints, but for divisors at zero.
Shape letters: B batch, M levels, H LLM width, D code width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ed2rec.indexers.variational import Quantised

NORM_FLOOR = 1e-4  # cosines of shorter vectors fade to 0 instead of having a gradient like 1/length
WEIGHT_RANGE = (0.1, 1.0)  # of w in Eq. 10, so that 1/w lies in 1..10
LITERAL_FLOOR = 1e-3  # of the length of what the printed Eq. 9 divides by: residuals of 0 have w = 0, whose 1/w is NaN


def index_alignment(
    index_BH: Tensor,
    text_BH: Tensor,
    entities_B: Tensor | None = None,
    temperature: float = 0.07,
    literal: bool = False,
) -> Tensor:
    """L_ID = -1/B sum_i log( exp(sim(X_Omega^i, X_T^i)/tau) / sum_j exp(sim(X_Omega^i, X_T^j)/tau) )       (Eq. 8)

    The LLM's view of an index shall approach its view of the text: the text side is the teacher and gets no gradient.
    entities_B: entity numbers; another row of the same entity is no negative and leaves the denominator.
    Users and items are separate pools: call it once for each. Scalar, >= 0; 0 for a batch of one.

    literal: as printed, without log and tau, gradient on both sides, all rows in the denominator; in (-1, 0).
    """
    if literal:
        return -_cosines(index_BH, text_BH).softmax(-1).diagonal().mean()
    logits = _cosines(index_BH, text_BH.detach()) / temperature
    if entities_B is not None:
        same = entities_B[:, None] == entities_B[None, :]
        logits = logits.masked_fill(same & ~_diagonal(same), -torch.inf)
    return (logits.logsumexp(-1) - logits.diagonal()).mean()


def token_alignment(
    inputs_BMD: Tensor,
    codewords_BMD: Tensor,
    codes_BM: Tensor,
    temperature: float = 0.07,
    literal: bool = False,
) -> Tensor:
    """L_Token = -1/(BM) sum_i,m log( exp(s_m^ii/tau) / sum_j exp(s_m^ij/tau) / w_m^ij )                    (Eq. 9)

        s_m^ij = sim(X_m^i, c_m^j),   w_m^ij = clip((1 + sim(X_m^i, X_m^j)) / 2, 0.1, 1), w_m^ii = 1           (Eq. 10)

    Entities that are alike (w near 1) repel each other's codewords ten times less than entities that are opposite.
    The weights get no gradient, and a row with the same code at level m, whose "negative" is the positive itself,
    leaves the denominator. Scalar, >= 0.

    literal: as printed, w = sim(X_m^i, X_m^j) with its gradient, no log, no tau, all rows. So the denominator may have
    either sign and pass through zero: it and w stay LITERAL_FLOOR away from it, where they have no gradient, and the
    loss lies within ±e/LITERAL_FLOOR.
    """
    inputs_MBD = inputs_BMD.transpose(0, 1)
    similarity_MBB = _cosines(inputs_MBD, codewords_BMD.transpose(0, 1))
    weight_MBB = _cosines(inputs_MBD, inputs_MBD)
    if literal:
        total = (similarity_MBB.exp() / _off_zero(weight_MBB)).sum(-1, keepdim=True)
        share = similarity_MBB.exp() / _off_zero(total)
        return -share.diagonal(dim1=1, dim2=2).mean()
    own = _diagonal(weight_MBB[0])
    same_MBB = codes_BM.T[:, :, None] == codes_BM.T[:, None, :]
    weight_MBB = ((1 + weight_MBB.detach()) / 2).clamp(*WEIGHT_RANGE).masked_fill(own, 1.0)
    logits_MBB = (similarity_MBB / temperature - weight_MBB.log()).masked_fill(same_MBB & ~own, -torch.inf)
    return (logits_MBB.logsumexp(-1) - logits_MBB.diagonal(dim1=1, dim2=2)).mean()


@dataclass(frozen=True)
class Regulator:
    """beta_1 L_ID + beta_2 L_Token, the regulator's part of L_All = L_LLM + beta_1 L_ID + beta_2 L_Token (Eq. 11).

    The paper does not state its betas; Appendix H.1 says beta_1 < beta_2 is best and the choice matters little.
    """

    beta1: float = 0.5
    beta2: float = 1.0
    temperature: float = 0.07
    literal: bool = False

    def index(
        self, kind: str, index_BH: Tensor, text_BH: Tensor, entities_B: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"index_<kind>": beta_1 L_ID}, kind "item" or "user"; empty where beta_1 is 0."""
        if self.beta1 == 0:
            return {}
        loss = index_alignment(index_BH, text_BH, entities_B, self.temperature, self.literal)
        return {f"index_{kind}": self.beta1 * loss}

    def token(self, kind: str, quantised: Quantised) -> dict[str, Tensor]:
        """{"token_<kind>": beta_2 L_Token}; empty where beta_2 is 0."""
        if self.beta2 == 0:
            return {}
        z = quantised
        loss = token_alignment(z.inputs, z.codewords, z.codes, self.temperature, self.literal)
        return {f"token_{kind}": self.beta2 * loss}


def _cosines(x: Tensor, y: Tensor) -> Tensor:
    """(…, B, D), (…, B, D) -> (…, B, B): row i of x against row j of y."""
    with torch.autocast(x.device.type, enabled=False):
        x, y = (F.normalize(side.float(), dim=-1, eps=NORM_FLOOR) for side in (x, y))
        return x @ y.transpose(-1, -2)


def _off_zero(x: Tensor) -> Tensor:
    """x with its sign, and LITERAL_FLOOR where it is nearer to zero: no gradient there."""
    return torch.where(x < 0, x.clamp(max=-LITERAL_FLOOR), x.clamp(min=LITERAL_FLOOR))


def _diagonal(like_BB: Tensor) -> Tensor:
    return torch.eye(like_BB.shape[-1], dtype=torch.bool, device=like_BB.device)
